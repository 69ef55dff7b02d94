"""The architecture, kept true by reading the sources: arrows, words and one tolerance.

These tests read files and import nothing of the product.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, PACKAGE, TESTS = ROOT / "csrc", ROOT / "lstm_fused", ROOT / "tests"

# A folder of csrc includes itself and what stands here; nothing else.
C_ARROWS = {
    "common": set(),
    "cell": {"common"},
    "contract": {"common", "cell"},
    "cpu": {"common", "cell", "contract"},
    "cuda": {"common", "cell", "contract"},
    "dispatch": {"common", "cell", "contract", "cpu", "cuda"},
    "ops": {"common", "cell", "contract", "cpu", "cuda", "dispatch"},
}
C_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}

# A module of the package is imported only by those that stand to the right of it.
PYTHON_ORDER = (
    ("_build",),
    ("_first_use",),
    ("_load",),
    ("composite",),
    ("check",),
    ("_proven",),
    ("ops",),
    ("_costs",),
    ("costs",),
    ("dispatch",),
    ("explained",),
    ("native",),
    ("autograd",),
    ("transforms",),
    ("layer",),
    ("stack",),
    ("functional",),
    ("nn",),
    ("compat",),
    ("convert",),
    ("__init__",),
    ("__main__",),
)

TORCH_HEADER = re.compile(r"^\s*#\s*include\s*[<\"](torch|ATen|c10|caffe2|pybind11|Python\.h)")
INCLUDE = re.compile(r"^\s*#\s*include\s*\"([^\"]+)\"")
STD_INCLUDE = re.compile(r"^\s*#\s*include\s*<([\w.]+)>")
ACTIVATION = re.compile(r"\b(sigmoid|tanh)\w*\s*\(")
# A capture list that indexes nothing, then perhaps parameters and a return type, then a body.
LAMBDA = re.compile(
    r"(?<![\w\])])\[[&=\w\s,*]*\]\s*(\([^)]*\)\s*)?(mutable\s*)?(->\s*[\w:]+\s*)?\{"
)
TOLERANCE = re.compile(r"\b(rtol|atol|allclose|isclose|assert_close|approx)\b")


def c_sources(*folders: str) -> list[Path]:
    found = [
        path
        for folder in folders or C_ARROWS
        for path in sorted((CSRC / folder).rglob("*"))
        if path.suffix in C_SUFFIXES
    ]
    assert found, f"no C++ sources in {CSRC} under {folders or tuple(C_ARROWS)}"
    return found


def python_sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"no Python sources under {folder}"
    return found


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of C++ without comments and string literals' contents kept."""
    inside = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if inside:
            before, end, line = line.partition("*/")
            if not end:
                continue
            inside = False
        line = re.sub(r"/\*.*?\*/", "", line)
        line = line.partition("//")[0]
        if "/*" in line:
            line, inside = line.partition("/*")[0], True
        if line.strip():
            yield number, line


def offences(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in code_lines(path)
        if pattern.search(line)
    ]


def folder_of(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def included_folder(path: Path, name: str) -> str | None:
    """The folder of csrc that an #include "name" in `path` leads to."""
    if (path.parent / name).exists():
        return folder_of((path.parent / name).resolve())
    if (CSRC / name).exists():
        return Path(name).parts[0]
    inside = [hit for hit in CSRC.rglob(name.split("/")[-1]) if str(hit).endswith("/" + name)]
    return folder_of(inside[0]) if inside else None


def test_every_folder_of_csrc_has_its_place() -> None:
    folders = {path.name for path in CSRC.iterdir() if path.is_dir()}
    assert folders == set(C_ARROWS)
    stray = [path.name for path in CSRC.iterdir() if path.suffix in C_SUFFIXES]
    assert not stray, f"sources belong in a folder: {stray}"


def test_includes_point_downward() -> None:
    wrong = []
    for path in c_sources():
        own = folder_of(path)
        for number, line in code_lines(path):
            match = INCLUDE.match(line)
            if match is None:
                continue
            target = included_folder(path, match[1])
            place = f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            if target is None:
                wrong.append(f"{place}  (no such file in csrc)")
            elif target != own and target not in C_ARROWS[own]:
                wrong.append(f"{place}  ({own} must not see {target})")
    assert not wrong, "\n".join(wrong)


def test_torch_headers_only_in_ops() -> None:
    folders = [folder for folder in C_ARROWS if folder != "ops"]
    found = offences(c_sources(*folders), TORCH_HEADER)
    assert not found, "\n".join(found)
    assert offences(c_sources("ops"), TORCH_HEADER), "the pattern matches nothing any more"


def test_kernels_move_and_cells_compute() -> None:
    """Activation functions are written once: in csrc/cell and csrc/common/math.h."""
    elsewhere = [
        path
        for path in c_sources(*(folder for folder in C_ARROWS if folder != "cell"))
        if path != CSRC / "common" / "math.h"
    ]
    found = offences(elsewhere, ACTIVATION)
    assert not found, "\n".join(found)
    allowed = [*c_sources("cell"), CSRC / "common" / "math.h"]
    assert offences(allowed, ACTIVATION), "the pattern matches nothing any more"


def test_no_lambdas_where_a_target_pragma_rules() -> None:
    """The pragma does not reach a lambda's body: it would be compiled for the baseline."""
    once_per_isa = [path for path in c_sources("cpu") if path.name.endswith(".inl.h")]
    assert once_per_isa
    found = offences(once_per_isa, LAMBDA)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["auto f = [&](int i) {", "run([=] {", "[this, n](float x) -> float {", "[]() mutable {"],
)
def test_the_lambda_pattern_knows_lambdas(text: str) -> None:
    assert LAMBDA.search(text)


@pytest.mark.parametrize(
    "text", ["float a[4] = {", "V x[kGates]{};", "if (a[i]) {", "p.d[0] = {1}"]
)
def test_the_lambda_pattern_knows_arrays(text: str) -> None:
    assert not LAMBDA.search(text)


def test_isa_files_keep_their_order() -> None:
    """Standard headers and LF_ISA stand before the target pragma, our kernels after it.

    A std function first met after the pragma is a weak symbol with that ISA's instructions, and
    the linker may pick it for everybody; so the kernels must bring in no std header of their own.
    """
    files = [path for path in c_sources("cpu") if path.name.startswith("isa_")]
    assert len(files) >= 4
    for path in files:
        before, after, direct = [], [], set()
        named, reached = False, False
        for number, line in code_lines(path):
            place = f"{path.name}:{number}: {line.strip()}"
            if re.match(r"\s*#\s*define\s+LF_ISA\b", line):
                assert not reached, f"{place} after the target pragma"
                named = True
            elif re.search(r"#\s*pragma\s+(GCC\s+target|clang\s+attribute\s+push)", line):
                assert named, f"{place} before LF_ISA has a value"
                reached = True
            elif STD_INCLUDE.match(line):
                assert not reached and not after, f"{place} after the target pragma"
                direct.add(STD_INCLUDE.match(line)[1])
            elif (match := INCLUDE.match(line)) is not None:
                uses_isa = "LF_ISA" in (CSRC / match[1]).read_text()
                assert uses_isa == named, f"{place} on the wrong side of LF_ISA"
                (after if named else before).append(CSRC / match[1])
        assert after, f"{path.name} includes no kernel"
        if not reached:  # The baseline ISA has no pragma to hide anything behind.
            continue
        late = std_headers(after) - std_headers(before) - direct
        assert not late, f"{path.name}: {sorted(late)} first included after the target pragma"


def std_headers(paths: list[Path]) -> set[str]:
    """Standard headers that these files of csrc include, directly or through others of csrc."""
    found: set[str] = set()
    for path in paths:
        for _, line in code_lines(path):
            if (std := STD_INCLUDE.match(line)) is not None:
                found.add(std[1])
            elif (own := INCLUDE.match(line)) is not None:
                found |= std_headers([CSRC / own[1]])
    return found


def module_of(path: Path) -> str:
    """lstm_fused/nn/lstm.py -> nn; lstm_fused/ops.py -> ops."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Modules of the package that a file imports, at any depth of indentation."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            stem = [*parents, *([node.module] if node.module else [])]
            names = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "lstm_fused":
                module = rest.partition(".")[0]
                known = (PACKAGE / f"{module}.py").exists() or (PACKAGE / module).is_dir()
                yield node.lineno, module if known and module else "__init__"


def test_python_imports_point_downward() -> None:
    rank = {name: k for k, names in enumerate(PYTHON_ORDER) for name in names}
    wrong = []
    for path in python_sources(PACKAGE):
        own = module_of(path)
        assert own in rank, f"{path.relative_to(ROOT)} has no place in PYTHON_ORDER"
        for number, module in imported_modules(path):
            if module != own and rank[module] >= rank[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {own} must not see {module}")
    assert not wrong, "\n".join(wrong)


def test_the_product_imports_neither_tests_nor_examples() -> None:
    pattern = re.compile(r"^\s*(from|import)\s+(tests|examples|bench|pytest|hypothesis)\b")
    paths = [path for path in python_sources(PACKAGE) if module_of(path) != "__main__"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.match(line)
    ]
    assert not found, "\n".join(found)


def test_one_tolerance_in_the_repository() -> None:
    """Nothing compares with a tolerance of its own: tests.close is the rule."""
    here = Path(__file__).resolve()
    folders = (ROOT / name for name in ("tests", "bench", "examples", "lstm_fused"))
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path not in (here, TESTS / "close.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if TOLERANCE.search(_identifier(node))
    ]
    assert not found, "\n".join(found)


def _identifier(node: ast.AST) -> str:
    """The name that a node of code mentions, if any; comments and strings are no code."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.keyword):
        return node.arg or ""
    return ""


@pytest.mark.parametrize("path", python_sources(ROOT / "tests"), ids=lambda p: p.name)
def test_tests_neither_swallow_errors_nor_print(path: Path) -> None:
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            # Whoever compares two libraries' errors must catch any; the line then says so.
            reasoned = re.search(r"# noqa: BLE001 - \w+ \w+", lines[node.lineno - 1])
            broad = caught in ("", "Exception", "BaseException") and not reasoned
            assert not broad, f"{path.name}:{node.lineno}: except {caught}"
            only_pass = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not only_pass, f"{path.name}:{node.lineno}: except: pass"


def test_files_stay_small() -> None:
    paths = [*c_sources(), *python_sources(PACKAGE), *python_sources(TESTS)]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in paths
        if (lines := len(path.read_text().splitlines())) > 600
    }
    assert not long, f"split these, 600 lines is the limit: {long}"
