"""Find lstm_fused._C, lazily: compiled ahead of time, built earlier, built now, or None.

Importing lstm_fused builds nothing; the first call of load() may. Whatever goes wrong ends in None
with a reason and one warning, never in an exception: the PyTorch fallback is complete.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from . import _build
from ._build import CannotBuild

FALLBACK = "lstm_fused runs on its PyTorch fallback: right, but not fast"


@dataclass
class State:
    """What was found; `module` is None with a sentence in `why_not`, or neither before a search."""

    module: types.ModuleType | None = None
    origin: str | None = None  # "compiled ahead of time", "built earlier", "built now"
    why_not: str | None = None
    notes: tuple[str, ...] = ()  # what the user may want to know although it worked


_state = State()
_lock = threading.RLock()
_may_build = True
_forked = False


def _after_fork() -> None:
    """A lock that another thread of the parent held stays locked in the child: take a new one."""
    global _lock, _forked
    _lock, _forked = threading.RLock(), True


os.register_at_fork(after_in_child=_after_fork)


def load() -> types.ModuleType | None:
    """lstm_fused._C, built now if need be, or None. Fast once it has an answer; thread safe."""
    if _state.module is not None or _state.why_not is not None:
        return _state.module
    with _lock:
        if _state.module is None and _state.why_not is None:
            _search()
    return _state.module


def why_not() -> str | None:
    """Why load() gives None, as a sentence, or None where it gives the module. Loads."""
    load()
    return _state.why_not


def state() -> State:
    """What load() has found so far. Loads nothing."""
    return _state


@contextlib.contextmanager
def no_build() -> Iterator[None]:
    """Within: load() finds what is there and builds nothing; a failure is not remembered."""
    global _may_build, _state
    with _lock:
        before, remembered, _may_build = _may_build, _state, False
        try:
            yield
        finally:
            _may_build = before
            if _state.module is None:
                _state = remembered


def _search() -> None:
    global _state
    notes: list[str] = []
    try:
        _state = _ahead_of_time(notes) or _at_first_use(notes)
    except CannotBuild as error:
        _state = State(why_not=str(error), notes=tuple(notes))
        asked_for = os.environ.get("LSTM_FUSED_BUILD") == "off" or not _building_allowed()
        if not asked_for:
            detail = "".join(f" ({note})" for note in notes)
            warnings.warn(f"{FALLBACK}, because {error}{detail}", RuntimeWarning, stacklevel=3)


def _building_allowed() -> bool:
    return _may_build and os.environ.get("LSTM_FUSED_JIT") != "0"


def _ahead_of_time(notes: list[str]) -> State | None:
    if os.environ.get("LSTM_FUSED_JIT") == "1" or importlib.util.find_spec("lstm_fused._C") is None:
        return None
    # An editable install leaves its module beside sources that may have been edited since.
    stamp = pathlib.Path(__file__).parent / "_C.sources"
    if stamp.exists() and stamp.read_text() != _build.source_hash(_build.find_csrc()):
        notes.append("the module compiled ahead of time is older than the sources")
        return None
    try:
        module = importlib.import_module("lstm_fused._C")
    except ImportError as error:
        notes.append(f"the module compiled ahead of time does not load: {error}")
        return None
    return State(module, "compiled ahead of time")


def _at_first_use(notes: list[str]) -> State:
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"the compiled part is made for Linux so far, this is {sys.platform}")
    from . import _first_use

    plan = _build.make_plan(_build.find_csrc())
    if plan.why_no_cuda:
        notes.append(f"without CUDA: {plan.why_no_cuda}")
    library = _first_use.finished(plan)
    if library is not None:
        try:
            return State(_first_use.import_library(library), "built earlier", None, tuple(notes))
        except ImportError as error:
            notes.append(f"the earlier build does not load: {error}")
            if _building_allowed():
                library.unlink(missing_ok=True)
    if not _may_build:
        raise CannotBuild("run `python -m lstm_fused build`, or use a layer once")
    if not _building_allowed():
        raise CannotBuild("LSTM_FUSED_JIT=0 and it was not built before")
    if _forked and multiprocessing.parent_process() is not None:
        # A pool of workers would stall here, each waiting for the same minute of compiling.
        raise CannotBuild(
            "worker processes do not build it: run `python -m lstm_fused build` once, "
            "or call a layer in the main process first"
        )
    library = _build_or_cpu_only(plan, notes)
    try:
        return State(_first_use.import_library(library), "built now", None, tuple(notes))
    except ImportError as error:
        raise CannotBuild(f"what was built does not load: {error}") from error


def _build_or_cpu_only(plan: _build.Plan, notes: list[str]) -> pathlib.Path:
    """Build `plan`; where CUDA was not asked for by name and fails, build it without."""
    from . import _first_use

    try:
        library, cache = _first_use.build(plan)
    except CannotBuild as error:
        if plan.toolkit is None or _build.mode() == "cuda":
            raise
        notes.append(f"without CUDA: {error}")
        library, cache = _first_use.build(plan.without_cuda(str(error)))
    if cache.note:
        notes.append(f"built in {cache.folder}, because {cache.note}")
    return library
