"""The machine code of every CUDA kernel within its limits, and faults that the limits notice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import machine, results, sass
from lstm_fused import _build
from tests.cubin import gate, probes
from tests.cubin.conftest import Compile

pytestmark = pytest.mark.cubin

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def kernels(
    library: list[sass.Kernel], tmp_path_factory: pytest.TempPathFactory
) -> list[sass.Kernel]:
    """The library's, and the probes of ptx.cuh."""
    return library + probes.compile_probes(tmp_path_factory.mktemp("probes") / "probes.o")


def test_every_kernel_keeps_its_limits(
    kernels: list[sass.Kernel], record_property: Callable[[str, object], None]
) -> None:
    for line in gate.table(kernels):
        record_property("cubin", line)
    said = gate.violations(kernels, gate.parse(gate.LIMITS.read_text()))
    assert not said, "\n".join(said)


def test_every_kernel_is_there_for_every_architecture(kernels: list[sass.Kernel]) -> None:
    expected = {_build.number(name) for name in _build.DEFAULT_ARCHITECTURES}
    found: dict[str, set[int]] = {}
    for kernel, name in zip(kernels, gate.names(kernels), strict=True):
        found.setdefault(name, set()).add(_build.number(kernel.arch))
    assert any(name.startswith("lf::cuda::") for name in found)
    assert {name: there for name, there in found.items() if there != expected} == {}


def test_the_probes_are_as_they_were(kernels: list[sass.Kernel]) -> None:
    """What cannot be executed here has at least not changed without anybody looking."""
    then = json.loads(probes.FILE.read_text())
    if then["nvcc"] != machine.nvcc_version():
        pytest.skip(f"the digests are of nvcc {then['nvcc']}, this is {machine.nvcc_version()}")
    now = probes.digests(kernels)
    changed = sorted(
        name for name in {*now, *then["digests"]} if now.get(name) != then["digests"].get(name)
    )
    assert not changed, f"{', '.join(changed)} changed: see tests/cubin/probes.py"


# Planted faults


@pytest.fixture(scope="module")
def planted(compile_cuda: Compile) -> dict[str, sass.Kernel]:
    found = compile_cuda(HERE / "planted.cu")
    return dict(zip(gate.names(found), found, strict=True))


def complaints(kernel: sass.Kernel, limits: str = "") -> list[str]:
    """What is said of a kernel that the file's [[everywhere]] holds for, and these limits."""
    entry = f"[[kernel]]\nname = '^planted::'\nlimits = [{limits}]"
    everywhere = gate.parse(gate.LIMITS.read_text()).everywhere
    said = gate.violations([kernel], gate.Limits(everywhere, gate.parse(entry).entries))
    return [sentence for sentence in said if not sentence.startswith("limits.toml: everywhere")]


REGISTERS = '{ registers = 48, reason = "ours" }, '


def test_a_sound_kernel_is_let_through(planted: dict[str, sass.Kernel]) -> None:
    assert complaints(planted["planted::sound"], REGISTERS) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("indexed", r"\d+ bytes of stack, at most 0: a stack is memory"),
        ("indexed", r"\d+ of LDL\|STL, at most 0 \(the first: (STL|LDL).*\): a round trip"),
        ("spilled", r"\d+ bytes of stack, at most 0: "),
        ("greedy", r"\d\d registers, at most 48: ours"),
        ("doubled", r"\d of D.*, at most 0 \(the first: D(ADD|MUL|FMA) .*\): a constant without"),
        ("unordered", r"1 of \(RED\|ATOM\).*, at most 0 \(the first: REDG\.E\.ADD\.F32.*: sums in"),
        ("printing", r"1 of CALL\\.ABS, at most 0 \(the first: CALL\.ABS.*: printf"),
        ("halted", r"1 of BPT\\.TRAP, at most 0 \(the first: BPT\.TRAP.*: wrappers trap"),
        ("sharing", r"3072 bytes of shared memory, at most 1024: "),
    ],
)
def test_a_fault_is_noticed(name: str, sentence: str, planted: dict[str, sass.Kernel]) -> None:
    said = complaints(planted[f"planted::{name}"], REGISTERS)
    expected = re.compile(rf"planted::{name} on sm_90a: {sentence}")
    assert any(expected.match(one) for one in said), said


def test_a_lacking_instruction_is_noticed(planted: dict[str, sass.Kernel]) -> None:
    lacking = "{ require = 'LDG.E.128', least = 1, reason = 'ours' }"
    assert complaints(planted["planted::sound"], REGISTERS + lacking) == [
        "planted::sound on sm_90a: 0 of LDG.E.128, at least 1: ours"
    ]
    assert complaints(planted["planted::sound"], REGISTERS + lacking.replace(".128", "")) == []


# The digest


SOURCE = """
namespace {
__global__ void scale(float* x) { x[threadIdx.x] *= 2; }
}
__global__ void shift(float* x) { x[threadIdx.x] += 1; }
void run(float* x) { scale<<<1, 32>>>(x); }
"""


def test_digest_is_of_the_code_alone(
    compile_cuda: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests(folder: str, text: str, *architectures: str) -> dict[str, str]:
        source = tmp_path / folder / "small.cu"
        source.parent.mkdir(parents=True)
        source.write_text(text)
        return sass.digests(compile_cuda(source, architectures))

    then = digests("one", SOURCE, "9.0a")
    assert sorted(name.split()[0] for name in then) == ["sm_90a", "sm_90a"]
    commented = digests("deeper/two", "// A comment.\n\n" + SOURCE, "8.0", "9.0a")
    assert then.items() <= commented.items()
    edited = digests("three", SOURCE.replace("+= 1", "+= 3"), "9.0a")
    assert [name for name in then if then[name] != edited[name]] == ["sm_90a _Z5shiftPf"]

    row = results.Row({"source_hash": "older", "sass_digest": then, "capability": "9.0"}, {})
    for today, stale in ((then, False), (commented, False), (edited, True), (None, True)):
        monkeypatch.setattr(results, "sass_digest", lambda today=today: today)
        assert results.Staleness().stale(row) is stale
