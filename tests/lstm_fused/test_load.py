"""The build at first use: whatever goes wrong ends in a working module or in one warning."""

from __future__ import annotations

import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import pytest

from lstm_fused import _first_use
from tests.lstm_fused import standin


@pytest.fixture
def csrc(tmp_path: pathlib.Path) -> pathlib.Path:
    return standin.write(tmp_path / "csrc with a space")


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """(csrc, cache) with a finished build in the cache."""
    folder = tmp_path_factory.mktemp("built")
    csrc, cache = standin.write(folder / "csrc"), folder / "cache"
    assert standin.load(csrc, standin.environment(cache))["origin"] == "built now"
    return csrc, cache


def work_folders(cache: pathlib.Path) -> list[pathlib.Path]:
    return list(cache.glob("*/work-*"))


def test_two_processes_build_at_once(csrc: pathlib.Path, cache: pathlib.Path) -> None:
    env = standin.environment(cache)
    both = [standin.start(csrc, env) for _ in range(2)]
    said = [standin.finish(one) for one in both]
    assert [one["answer"] for one in said] == ["42", "42"]
    assert sorted(one["stderr"].count("lstm_fused: building") for one in said) == [0, 1]
    waited = "waiting for another process that is building it (pid"
    assert sum(waited in one["stderr"] for one in said) == 1
    assert work_folders(cache) == []


def test_second_process_finds_the_first_ones(built) -> None:
    said = standin.load(built[0], standin.environment(built[1]))
    assert (said["answer"], said["origin"], said["stderr"]) == ("42", "built earlier", "")


def test_a_killed_build_hinders_nobody(
    csrc: pathlib.Path, cache: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # A compiler that does not come back, so that the build is surely killed in its midst.
    compiler, slow = tmp_path / "slow-c++", tmp_path / "slow"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *" -c "*) [ -e "{slow}" ] && sleep 600;; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    slow.touch()
    env = standin.environment(cache, CXX=str(compiler))
    first = standin.start(csrc, env)
    wait_until(lambda: list(cache.glob("*/work-*/build.ninja")), "the build did not start")
    (folder,) = work_folders(cache)
    wait_until(lambda: len(processes_in(folder)) > 2, "the compilers did not start")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not processes_in(folder), "the compilers outlived the build")
    assert (folder / "lock").exists()  # torch's: it would be waited for without end

    slow.unlink()
    said = standin.load(csrc, env)
    assert (said["answer"], said["origin"]) == ("42", "built now")
    assert work_folders(cache) == []


def wait_until(happened: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def first_key(csrc: pathlib.Path, env: dict[str, str]) -> str:
    program = (
        "import pathlib, sys; from lstm_fused import _build;"
        "print(_build.key(_build.make_plan(pathlib.Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", program, str(csrc)]
    return subprocess.check_output(command, env=env, text=True).strip()


def processes_in(folder: pathlib.Path) -> list[str]:
    """Ids of processes that work in `folder`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                found.append(entry.name)
        except OSError:
            continue  # ended meanwhile, or is not ours
    return found


def test_failed_compile_is_remembered_and_told_once(
    csrc: pathlib.Path, cache: pathlib.Path
) -> None:
    (csrc / "left" / "part.cpp").write_text("int first() { return nothing; }\n")
    said = standin.load(csrc, standin.environment(cache))
    assert said["answer"] == "None"
    assert said["stderr"].count("lstm_fused: building") == 1  # although it was asked for thrice
    assert said["warnings"].startswith("1 lstm_fused runs on its PyTorch fallback")
    assert "left/part.cpp:1:22: error: ‘nothing’ was not declared" in said["warnings"]
    (log,) = cache.glob("*/build.log")
    assert str(log) in said["warnings"]


def test_no_compiler(csrc: pathlib.Path, cache: pathlib.Path) -> None:
    said = standin.load(csrc, standin.environment(cache, PATH="/nowhere", CXX=""))
    assert said["answer"] == "None"
    assert said["warnings"].startswith("1 ")
    assert "no C++ compiler is on PATH: install g++" in said["warnings"]


def test_fallback_without_a_compiler_is_right(cache: pathlib.Path) -> None:
    program = """
import torch, warnings
import lstm_fused
from tests.close import assert_no_worse
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    ours = lstm_fused.convert(theirs)
    theirs = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    theirs.load_state_dict(ours.state_dict())
    exact = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True).double()
    exact.load_state_dict(ours.state_dict())
    x = torch.randn(11, 3, 5)
    for _ in range(2):
        results = [m(a)[0] for m, a in ((ours, x), (theirs, x), (exact, x.double()))]
        assert_no_worse("output", *results)
        grads = [torch.autograd.grad(y.sum(), m.weight_hh_l0)[0]
                 for y, m in zip(results, (ours, theirs, exact))]
        assert_no_worse("weight_hh_l0's gradient", *grads)
print(sum("PyTorch fallback" in str(w.message) for w in seen))
"""
    env = standin.environment(cache, PATH="/nowhere", CXX="", LSTM_FUSED_JIT="1")
    done = subprocess.run([sys.executable, "-c", program], env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"LSTM_FUSED_BUILD": "off"}, "LSTM_FUSED_BUILD=off"),
        ({"LSTM_FUSED_JIT": "0"}, "LSTM_FUSED_JIT=0 and it was not built before"),
    ],
)
def test_forbidden_build_is_silent(
    csrc: pathlib.Path, cache: pathlib.Path, changes: dict[str, str], why: str
) -> None:
    said = standin.load(csrc, standin.environment(cache, **changes))
    assert (said["answer"], said["why_not"], said["warnings"]) == ("None", why, "0")
    assert not cache.exists()


def test_unknown_mode_is_told(csrc: pathlib.Path, cache: pathlib.Path) -> None:
    said = standin.load(csrc, standin.environment(cache, LSTM_FUSED_BUILD="gpu"))
    assert "LSTM_FUSED_BUILD must be one of auto, off, cpu, cuda, got 'gpu'" in said["warnings"]


def test_cache_that_cannot_be_written(csrc: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # Below a file no folder can be made, whoever asks; root may write where the mode forbids it.
    blocked, temporary = tmp_path / "file", tmp_path / "tmp"
    blocked.touch()
    temporary.mkdir()
    env = standin.environment(blocked / "cache", TMPDIR=str(temporary))
    said = standin.load(csrc, env)
    own = temporary / f"lstm_fused-{os.getuid()}"
    assert (said["answer"], said["origin"]) == ("42", "built now")
    assert said["file"].startswith(str(own))
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert f"built in {own}, because {blocked / 'cache'} cannot be written" in said["notes"]
    assert standin.load(csrc, env)["origin"] == "built earlier"


def test_cache_made_read_only_after_the_build(built) -> None:
    csrc, cache = built
    folders = [cache, *cache.iterdir()]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert standin.load(csrc, standin.environment(cache))["origin"] == "built earlier"
    finally:
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.parametrize("trap", ["open", "link"])
def test_temporary_folder_of_somebody_else_is_not_trusted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = tmp_path / f"lstm_fused-{os.getuid()}"
    if trap == "open":
        planted.mkdir()
        planted.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        planted.symlink_to(tmp_path / "elsewhere")
    chosen = _first_use.temporary_cache()
    assert chosen != planted
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700


def test_damaged_cache_is_rebuilt(csrc: pathlib.Path, cache: pathlib.Path) -> None:
    env = standin.environment(cache)
    folder = cache / first_key(csrc, env)
    folder.mkdir(parents=True)
    (folder / "_C.so").write_bytes(b"not a library")
    said = standin.load(csrc, env)
    assert (said["answer"], said["origin"]) == ("42", "built now")
    assert "the earlier build does not load" in said["notes"]


def test_forked_worker_does_not_build(csrc: pathlib.Path, cache: pathlib.Path) -> None:
    program = """
import multiprocessing, os, pathlib, sys, warnings
from lstm_fused import _build, _load
warnings.simplefilter("ignore")
_build.find_csrc = lambda: pathlib.Path(sys.argv[1])
def work():
    assert "worker processes do not build it" in _load.why_not(), _load.why_not()
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
assert worker.exitcode == 0
if os.fork() == 0:  # a server that forks before its first request is no pool: it tries to build
    os._exit(0 if "no C++ compiler" in _load.why_not() else 1)
assert os.wait()[1] == 0
"""
    command = [sys.executable, "-c", program, str(csrc)]
    env = standin.environment(cache, PATH="/nowhere", CXX="")
    done = subprocess.run(command, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_import_builds_nothing(cache: pathlib.Path) -> None:
    program = "import lstm_fused, lstm_fused._load as l; assert l.state().module is None"
    env = standin.environment(cache, LSTM_FUSED_JIT="1")
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
    assert not cache.exists()
