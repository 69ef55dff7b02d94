"""The build at first use: a cache of finished modules, a lock, a compiling process, its progress.

A build runs in a process and a folder of its own. Only a finished module is moved, in one step, to
the place where others look for it; so a build may be killed at any moment, and whatever it leaves
behind (torch's `lock` file too) lies in a folder that nobody waits for and the next build removes.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from typing import IO, NamedTuple

from . import _build
from ._build import CannotBuild, Plan

LIBRARY = "_C.so"
POLL_SECONDS = 0.2
PLAIN_LINE_SECONDS = 10.0  # how often progress is told where no terminal shows it

# The child sees what we see, and ends with us: when this process dies, however it does, the pipe
# behind its stdin closes, and it takes its compilers with it.
CHILD = """
import importlib.util, json, os, pathlib, signal, sys, threading
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)  # not SIGKILL: ninja, told to end, ends its compilers
threading.Thread(target=end_with_parent, daemon=True).start()
spec = importlib.util.spec_from_file_location("_build", request["recipe"])
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
toolkit = request["toolkit"]
plan = build.Plan(
    pathlib.Path(request["csrc"]),
    toolkit and build.Toolkit(pathlib.Path(toolkit[0]), toolkit[1]),
    tuple(request["architectures"]),
    None,
    request["strict"],
)
try:
    build.compile_library(plan, pathlib.Path(request["out"]))
except build.CannotBuild as error:
    sys.exit(f"error: {error}")
"""


class Cache(NamedTuple):
    """A folder that holds one folder per build."""

    folder: pathlib.Path
    note: str | None  # why it is not the usual one


def usual_cache() -> pathlib.Path:
    """LSTM_FUSED_CACHE, else lstm_fused in the user's cache folder."""
    named = os.environ.get("LSTM_FUSED_CACHE")
    if named:
        return pathlib.Path(named).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "lstm_fused"


def temporary_cache() -> pathlib.Path:
    """A folder in the temporary folder that belongs to this user alone.

    What lies there is loaded as code, so a folder that somebody else made, or can write to, or a
    link, is not used: then a fresh one is made, which no later process finds.
    """
    folder = pathlib.Path(tempfile.gettempdir()) / f"lstm_fused-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if private and found.st_uid == os.getuid():
        return folder
    return pathlib.Path(tempfile.mkdtemp(prefix="lstm_fused-"))


def finished(plan: Plan) -> pathlib.Path | None:
    """The module of an earlier build with this very plan, or None."""
    name = _build.key(plan)
    library = usual_cache() / name / LIBRARY
    if library.exists():
        return library
    library = pathlib.Path(tempfile.gettempdir()) / f"lstm_fused-{os.getuid()}" / name / LIBRARY
    # Through temporary_cache(), which judges whose folder that is.
    return library if library.exists() and library.parent.parent == temporary_cache() else None


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold `folder`'s lock. The kernel releases it when its holder dies, however that happens."""
    with open(folder / "build.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            _build.announce(f"waiting for another process that is building it (pid {holder})")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def build(plan: Plan) -> tuple[pathlib.Path, Cache]:
    """Build `plan`, or wait for whoever is building it; returns the module's file.

    Raises CannotBuild with a sentence.
    """
    name = _build.key(plan)
    usual = usual_cache()
    try:
        (usual / name).mkdir(parents=True, exist_ok=True)
        with locked(usual / name):
            return build_locked(plan, usual / name), Cache(usual, None)
    except OSError as error:
        note = f"{usual} cannot be written ({error.strerror or error})"
    try:
        folder = temporary_cache()
        (folder / name).mkdir(exist_ok=True)
        with locked(folder / name):
            return build_locked(plan, folder / name), Cache(folder, note)
    except OSError as error:
        raise CannotBuild(f"{note}, and neither can the temporary folder ({error})") from error


def build_locked(plan: Plan, folder: pathlib.Path) -> pathlib.Path:
    """Build into `folder` while holding its lock, unless that was done while we waited for it."""
    library = folder / LIBRARY
    if library.exists():
        return library
    _build.check_tools()
    for left in folder.glob("work-*"):  # of builds that were killed
        shutil.rmtree(left, ignore_errors=True)
    out = pathlib.Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    try:
        run(plan, out, folder / "build.log")
        os.replace(out / LIBRARY, library)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return library


def run(plan: Plan, out: pathlib.Path, log: pathlib.Path) -> None:
    """Compile `plan` in `out` by a child process and show its progress; raises CannotBuild."""
    request = json.dumps(
        {
            "recipe": _build.__file__,
            "path": [
                os.path.abspath(entry) for entry in sys.path
            ],  # "" is our folder, not the child's
            "csrc": str(plan.csrc),
            "out": str(out),
            "toolkit": plan.toolkit and [str(plan.toolkit.home), plan.toolkit.version],
            "architectures": plan.architectures,
            "strict": plan.strict,
        }
    )
    if not sys.executable:
        raise CannotBuild(
            "this program names no Python interpreter: run `python -m lstm_fused build`"
        )
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, request],
            cwd=out,
            env=_build.build_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            watch(child, plan, out)
        finally:
            assert child.stdin is not None
            child.stdin.close()  # ends the child if it still runs, after a KeyboardInterrupt
            child.wait()
    if child.returncode != 0:
        text = log.read_text(errors="replace")
        raise CannotBuild(f"the build failed: {first_error(text)} (whole text in {log})")


def first_error(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pattern = re.compile(r"\b(fatal )?error\b ?[:#]|cannot find|undefined reference|Killed")
    chosen = next((line for line in lines if pattern.search(line)), None)
    return chosen or (lines[-1] if lines else "the compiling process said nothing")


def watch(child: subprocess.Popen[bytes], plan: Plan, out: pathlib.Path) -> None:
    """Show how many files are compiled until the child ends."""
    total = len(plan.host_sources) + len(plan.cuda_sources)
    what = " and ".join(_build.describe(plan))
    _build.announce(
        f"building {what}, once for this machine: {total} files, {_build.jobs()} at a time"
    )
    start = time.monotonic()
    with progress(total) as show:
        while child.poll() is None:
            show(len(list(out.glob("*.o"))))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
    took = time.monotonic() - start
    _build.announce(
        f"built in {took:.0f} s" if child.returncode == 0 else f"failed after {took:.0f} s"
    )


class Plain:
    """Progress by plain lines, for logs and where tqdm is not installed."""

    def __init__(self, total: int, file: IO[str]) -> None:
        self.total, self.file, self.shown, self.when = total, file, 0, time.monotonic()

    def __call__(self, done: int) -> None:
        often = 0.0 if self.file.isatty() else PLAIN_LINE_SECONDS
        if done > self.shown and time.monotonic() - self.when >= often:
            self.shown, self.when = done, time.monotonic()
            _build.announce(f"compiled {done} of {self.total} files")


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many of `total` files are compiled, and shows it."""
    if not sys.stderr.isatty() or importlib.util.find_spec("tqdm") is None:
        yield Plain(total, sys.stderr)
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="lstm_fused: compiling", unit=" files", leave=False) as bar:
        yield lambda done: bar.update(done - bar.n)


def import_library(path: pathlib.Path) -> types.ModuleType:
    """Import a finished module as lstm_fused._C; raises ImportError."""
    name = "lstm_fused._C"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=ExtensionFileLoader(name, str(path))
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module
