"""The CPU scan beside a naive oracle under sanitizers, and cpu.neon under an emulator.

ThreadSanitizer needs clang, whose standard threads then are the team: threads/team.cpp.

scan_check.cpp draws the problems, compares, and says what its criterion is; no torch is in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lstm_fused import _build
from lstm_fused.dispatch import KERNELS, variants
from tests.simt import building

ROOT = Path(__file__).resolve().parents[2]
CANNOT_RUN_HERE = 2  # what scan_check exits with

SANITIZERS = ["-g1", "-fno-var-tracking", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
SANITIZERS += ["--param=asan-instrumentation-with-call-threshold=0"]
THREADS = Path(__file__).with_name("threads")
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def build(compiler: list[str], flags: list[str], folder: Path) -> Path:
    """Compile and link scan_check; a source after another, to leave the other cores alone."""
    program = folder / "scan_check"
    sources = [*sorted((ROOT / "csrc/cpu").glob("*.cpp")), ROOT / "csrc/dispatch/registry.cpp"]
    sources.append(Path(__file__).with_name("scan_check.cpp"))
    common = ["-std=c++20", "-O1", "-fopenmp", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        [*compiler, *common, *flags, *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


def run(command: list[str], **settings: str) -> None:
    """Run scan_check; skip where the variant cannot run here, with the variant's own words."""
    done = subprocess.run(
        command,
        # Waiting threads sleep: more of them than cores is one of the cases. The kernels allocate
        # nothing, so there is nothing to leak; looking for leaks fails where ptrace is forbidden.
        env=os.environ
        | {"OMP_WAIT_POLICY": "passive", "ASAN_OPTIONS": "detect_leaks=0"}
        | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == CANNOT_RUN_HERE:
        pytest.skip(done.stdout.strip())
    # The last problem before a sanitizer's report is the one that it is about.
    report = "\n".join(done.stderr.splitlines()[-40:])
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}\n{report}"
    assert "problems, worst error" in done.stdout


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scan_check for this machine."""
    return build(_build.find_compiler(), SANITIZERS, tmp_path_factory.mktemp("sanitized"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KERNELS if name.startswith("cpu.")])
def test_scan_under_sanitizers(sanitized: Path, name: str) -> None:
    run([str(sanitized), name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], {"OMP_THREAD_LIMIT": "2"}),
        (["nested"], {}),
        (["nested"], {"OMP_MAX_ACTIVE_LEVELS": "2"}),
        (["nested"], {"OMP_MAX_ACTIVE_LEVELS": "2", "OMP_THREAD_LIMIT": "5"}),
    ],
)
def test_teams_smaller_than_asked_and_several_at_once(
    sanitized: Path, arguments: list[str], settings: dict[str, str]
) -> None:
    """Inside a parallel region a team has one member, unless levels are allowed; never a hang."""
    run([str(sanitized), "cpu.generic", *arguments], **settings)


def run_small(
    name: str, compiler: list[str], flags: list[str], before: list[str], folder: Path
) -> None:
    """Compile a check that is a file of its own, and run it."""
    program = folder / name
    source = str(Path(__file__).with_name(f"{name}.cpp"))
    command = [*compiler, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run([*command, f"-I{ROOT / 'csrc'}", source, "-o", str(program)], check=True)
    done = subprocess.run([*before, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout


def test_shares_of_a_team(tmp_path: Path) -> None:
    run_small("share_check", _build.find_compiler(), [], [], tmp_path)


SMALL = ["cell_check", "narrow_check"]


@pytest.mark.parametrize(
    ("isa", "flags"),
    [
        ("cpu.generic", []),
        ("cpu.avx2", ["-mavx2", "-mfma", "-mf16c"]),
        ("cpu.avx512", ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma"]),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_cell_and_16_bits(name: str, isa: str, flags: list[str], tmp_path: Path) -> None:
    """One cell on a vector, and numbers of 16 bits as float and back."""
    row = next(row for row in variants() if row.name == isa)
    if not row.available:
        pytest.skip(f"{isa}: {row.why_not}")
    run_small(name, _build.find_compiler(), flags, [], tmp_path)


def need_emulator() -> None:
    for tool in (CROSS_COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(
                f"{tool} is not on PATH: install it (`apt install g++-aarch64-linux-gnu qemu-user`)"
            )


@pytest.mark.parametrize("name", SMALL)
def test_cell_and_16_bits_under_an_emulator(name: str, tmp_path: Path) -> None:
    need_emulator()
    run_small(name, [CROSS_COMPILER], ["-static"], [EMULATOR], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu.neon"])
def test_scan_under_an_emulator(name: str, tmp_path: Path) -> None:
    need_emulator()
    run([EMULATOR, str(build([CROSS_COMPILER], ["-static"], tmp_path)), name])


def race_check(csrc: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """scan_check of cpu.generic under ThreadSanitizer, run to its end or to the first race."""
    try:
        compiler = building.compiler("thread")
    except building.CannotBuild as error:
        pytest.skip(str(error))
    program = folder / "race_check"
    sources = [csrc / "cpu/isa_generic.cpp", csrc / "dispatch/registry.cpp", THREADS / "team.cpp"]
    sources.append(Path(__file__).with_name("scan_check.cpp"))
    flags = ["-std=c++20", *building.MODES["thread"], "-Wno-unknown-pragmas"]
    flags += [f"-I{THREADS}", f"-I{csrc}", f"-I{THREADS.parent}"]
    subprocess.run([*compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    return building.run(program, "cpu.generic")


@pytest.mark.slow
def test_no_races_between_the_members_of_a_team(tmp_path: Path) -> None:
    done = race_check(ROOT / "csrc", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "wait"),
    [
        ("forward.inl.h", "    barrier.wait(share.parts);\n  }\n}"),
        ("forward.inl.h", "    task.barriers[kMaxTeam].wait(members);\n"),
        ("backward.inl.h", "  everyone.wait(members);\n  const int scanning"),
        ("backward.inl.h", "    everyone.wait(members);\n    if (member <"),
        ("backward.inl.h", "    barrier.wait(share.parts);\n    if (s.dh0"),
        ("gradients.inl.h", "      taker.barrier.wait(members);\n"),
        ("input_gradient.inl.h", "    if (i > 0) barrier.wait(members);\n"),
    ],
)
def test_a_missing_barrier_is_a_race(file: str, wait: str, tmp_path: Path) -> None:
    """Planted: else nobody knew that races are seen."""
    csrc = shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    path = csrc / "cpu" / file
    text = path.read_text()
    assert text.count(wait) == 1
    path.write_text(text.replace(wait, wait[wait.index(";") + 1 :]))
    done = race_check(csrc, tmp_path)
    report = done.stdout + done.stderr[-4000:]
    assert done.returncode == building.RACE and "data race" in done.stderr, report
