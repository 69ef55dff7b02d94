"""Seeds, poisoned memory, and the fixtures that walk over variants and thread counts.

Every test runs with uninitialised memory filled with NaN (integers with their largest value): by
torch.empty and by the at::empty behind it; our ops' own, on a CPU, because LSTM_FUSED_POISON is set
(csrc/ops/tensors.cpp).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.cases import Case

# Names like simt.step force a CUDA variant in the SIMT machine (tests/simt), on CPU tensors. The
# first process builds it for the workers of pytest-xdist.
SIMT_LIBRARY = "LSTM_FUSED_TEST_SIMT_LIBRARY"


def add_simt_variants() -> None:
    from lstm_fused import dispatch
    from tests.simt import building

    if SIMT_LIBRARY not in os.environ:
        target = Path(tempfile.mkdtemp(prefix="lstm_fused_simt-")) / "simt.so"
        os.environ[SIMT_LIBRARY] = str(building.compile_program(building.PLUGIN, target, "plain"))
    dispatch.add_kernels(os.environ[SIMT_LIBRARY])


def pytest_configure(config: pytest.Config) -> None:
    os.environ["LSTM_FUSED_POISON"] = "1"  # before the module is loaded
    if os.environ.get("LSTM_FUSED_VARIANT", "").startswith("simt."):
        add_simt_variants()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    # The rule compares equals: without this, float32 on a GPU means tf32 in cuDNN and not in ours.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        # A variant says for itself, in its own words, why it cannot run.
        if item.get_closest_marker("gpu") and "variant" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


def pytest_make_parametrize_id(val: object) -> str | None:
    return str(val).removeprefix("torch.") if isinstance(val, (Case, torch.dtype)) else None


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> int:
    """A thread count, set for the test."""
    torch.set_num_threads(request.param)
    return request.param


class Forced(NamedTuple):
    """A variant in force, and the device that its tensors live on."""

    name: str
    device: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" not in metafunc.fixturenames:
        return
    from lstm_fused.dispatch import variants

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    chosen = []
    for row in variants():
        for device in devices if row.device == "any" else [row.device]:
            chosen.append(Forced(row.name, device))
    # A test that is marked gpu as a whole is about our kernels there: streams, graphs, memory.
    if metafunc.definition.get_closest_marker("gpu"):
        chosen = [row for row in chosen if row.name.startswith("cuda.")]
    if metafunc.definition.get_closest_marker("kernels"):
        chosen = [row for row in chosen if not row.name.startswith("torch.")]
    marks = {"cuda": [pytest.mark.gpu], "cpu": []}
    parameters = [
        pytest.param(row, id=f"{row.name}@{row.device}", marks=marks[row.device]) for row in chosen
    ]
    metafunc.parametrize("variant", parameters, indirect=True)


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[Forced]:
    """Force one variant after another; those that cannot run here skip with their own words."""
    from lstm_fused.dispatch import variant as force
    from lstm_fused.dispatch import variants

    forced: Forced = request.param
    row = next(row for row in variants() if row.name == forced.name)
    if not row.available:
        pytest.skip(f"{row.name}: {row.why_not}")
    with force(row.name):
        yield forced


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """After a trap or an illegal access every call of CUDA fails, in whatever test comes next. So a
    worker of pytest-xdist ends at once: it is replaced, and the test that ran is blamed alone. Last
    of all hooks, when xdist's own has sent what the test said."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not torch.cuda.is_available():
        return
    if report.failed and "gpu" in report.keywords:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A case that the variant refuses is skipped with the variant's own words."""
    from lstm_fused.dispatch import Refused

    try:
        result = yield
        if pyfuncitem.get_closest_marker("gpu") and torch.cuda.is_available():
            torch.cuda.synchronize()  # a kernel's error is of the test that launched it
        return result
    except Refused as refusal:
        forced = pyfuncitem.funcargs.get("variant")
        if not isinstance(forced, Forced) or f"variant {forced.name} " not in str(refusal):
            raise
        pytest.skip(str(refusal))
