"""python -m lstm_fused info | build | demo."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

import lstm_fused

from . import _build, _load


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lstm_fused", description=lstm_fused.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what is built, what runs here, and why not the rest")
    commands.add_parser("build", help="compile now what would be compiled at first use")
    commands.add_parser(
        "demo", add_help=False, help="train a real model with torch.nn.LSTM and with ours"
    )
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "demo":
        return demo(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return build() if arguments.command == "build" else info()


def build() -> int:
    """Find the compiled module or build it, and say where it is."""
    module, state = _load.load(), _load.state()
    for note in state.notes:
        print(note)
    if module is None:
        print(f"not built: {state.why_not}", file=sys.stderr)
        return 1
    print(f"{state.origin}: {module.__file__}")
    return 0


def demo(argv: Sequence[str]) -> int:
    """Run examples/sentiment.py, which lies inside an installed package and beside a checkout's."""
    here = pathlib.Path(__file__).resolve().parent
    name = "lstm_fused.examples"
    if importlib.util.find_spec(name) is None:
        folder = here.parent / "examples"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    sentiment = importlib.import_module(f"{name}.sentiment")
    return int(sentiment.main(argv))


def info() -> int:
    """Print what is installed, what was built from what, and which variants run here."""
    with _load.no_build():
        sections: list[tuple[str, Callable[[], Iterator[tuple[str, object]]]]] = [
            ("versions", versions),
            ("compiled module", compiled),
            ("to build with", tools),
            ("devices", devices),
        ]
        for title, rows in sections:
            print(title)
            for label, value in rows():
                print(f"  {label:<14} {value}")
        print("variants, fastest first")
        for row in lstm_fused.variants():
            print(f"  {row.name:<16} {'runs here' if row.available else row.why_not}")
    return 0


def versions() -> Iterator[tuple[str, object]]:
    yield "lstm_fused", f"{lstm_fused.__version__} in {pathlib.Path(lstm_fused.__file__).parent}"
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    yield "Python", f"{platform.python_version()} in {sys.prefix}"
    yield "system", f"{platform.system()} {platform.release()} on {platform.machine()}"


def compiled() -> Iterator[tuple[str, object]]:
    """Where lstm_fused._C came from and what it says of itself."""
    module, state = _load.load(), _load.state()
    if module is None:
        yield "not built", state.why_not
    else:
        yield "file", module.__file__
        yield "origin", state.origin
        for label, value in module.build_info().items():
            yield label, " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        yield "OpenMP library", module.omp_info()["library"]
    for note in state.notes:
        yield "note", note
    if sys.platform.startswith("linux"):
        from ._first_use import usual_cache

        yield "cache folder", usual_cache()


def tools() -> Iterator[tuple[str, object]]:
    """The compilers that a build would use, or what is missing."""
    try:
        _build.check_tools()
        yield "C++ compiler", " ".join(_build.find_compiler())
        yield "jobs", _build.jobs()
    except _build.CannotBuild as error:
        yield "missing", error
    toolkit, why = _build.find_toolkit()
    yield "CUDA toolkit", f"{toolkit.version} in {toolkit.home}" if toolkit else why
    try:
        plan = _build.make_plan(_build.find_csrc())
        yield "would build", " and ".join(_build.describe(plan))
    except _build.CannotBuild as error:
        yield "would build", f"nothing: {error}"


def devices() -> Iterator[tuple[str, object]]:
    yield "CPU", f"{torch.backends.cpu.get_cpu_capability()} as torch sees it"
    if not torch.cuda.is_available():
        yield "GPU", "none that torch can use"
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"


if __name__ == "__main__":
    sys.exit(main())
