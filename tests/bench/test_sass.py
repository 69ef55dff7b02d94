"""What cuobjdump prints, in a few lines of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sass
from lstm_fused import _build

USAGE = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _Z5shiftPf:
  REG:8 STACK:16 SHARED:1024 LOCAL:4 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN2lf5scaleIfEEvPT_:
  REG:10 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin ptx code:
================
arch = sm_100
code version = [9,0]
"""

CODE = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]

\tcode for sm_90a
\t.target\tsm_90a

\t\tFunction : _ZN2lf5scaleIfEEvPT_
\t.headerflags\t@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
                                                                /* 0x000fe20000000800 */
        /*0010*/              @!P0 STG.E.128 desc[UR4][R2.64], R4 ; /* 0x0000000402007986 */
                                                                /* 0x004fe2000c101904 */
        /*0020*/             @!UPT UIADD3 UR4, URZ, URZ, URZ ;  /* 0x0000003f3f04f290 */
                                                                /* 0x000fe2000fffe03f */
        /*0030*/                   EXIT ;                       /* 0x000000000000794d */
                                                                /* 0x000fea0003800000 */
\t\t..........

\t\tFunction : _Z5shiftPf
\t.headerflags\t@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/               @P0 EXIT ;                       /* 0x000000000000094d */
                                                                /* 0x000fea0003800000 */
\t\t..........
"""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What cuobjdump is to print, by its option."""
    dumps = {"--dump-resource-usage": USAGE, "-sass": CODE}
    monkeypatch.setattr(sass, "cuobjdump", lambda what, _: dumps[what])
    return dumps


def read() -> list[sass.Kernel]:
    return sass.read(Path("any"))


def test_kernels_are_read(recorded: dict[str, str]) -> None:
    shift, scale = read()
    assert (shift.arch, shift.symbol) == ("sm_90a", "_Z5shiftPf")
    assert shift.usage == sass.Usage(registers=8, stack=16, local=4, shared=1024)
    assert shift.code.text == ("EXIT",)
    assert scale.code.text == (
        "LDC R1, c[0x0][0x28]",
        "STG.E.128 desc[UR4][R2.64], R4",
        "UIADD3 UR4, URZ, URZ, URZ",
        "EXIT",
    )
    assert sass.demangle([shift.symbol, scale.symbol]) == ["shift", "lf::scale<float>"]


def test_digest_follows_the_encodings(recorded: dict[str, str]) -> None:
    before = sass.digests(read())
    assert list(before) == ["sm_90a _Z5shiftPf", "sm_90a _ZN2lf5scaleIfEEvPT_"]

    # Another release of cuobjdump may word an instruction in another way.
    recorded["-sass"] = CODE.replace("SM90", "SM_90").replace("UIADD3 UR4", "UIADD UR4")
    assert sass.digests(read()) == before

    # The second half of an encoding counts: registers, and how long to wait.
    recorded["-sass"] = CODE.replace("0x000fe2000fffe03f", "0x000fe4000fffe03f")
    changed = [name for name, digest in sass.digests(read()).items() if digest != before[name]]
    assert changed == ["sm_90a _ZN2lf5scaleIfEEvPT_"]


def test_digest_has_no_path(recorded: dict[str, str]) -> None:
    """nvcc marks symbols in an unnamed namespace with a hash of the source's path."""

    def inside(mark: str) -> list[str]:
        symbol = f"_ZN30_GLOBAL__N__{mark}_4_t_cu_5shiftEPf"
        recorded["--dump-resource-usage"] = USAGE.replace("_Z5shiftPf", symbol)
        recorded["-sass"] = CODE.replace("_Z5shiftPf", symbol)
        return sorted(sass.digests(read()).items())

    assert inside("31dfb1fa") == inside("65a536fc")


def test_kernels_of_one_name_count_both(recorded: dict[str, str]) -> None:
    """Two sources may have a static function of the same name."""
    one = sass.digests(read())
    recorded["--dump-resource-usage"] = USAGE + USAGE
    recorded["-sass"] = CODE + CODE
    two = sass.digests(read())
    assert one.keys() == two.keys() and len(read()) == 4
    assert all(one[name] != two[name] for name in one)


def test_code_that_is_not_shown_is_an_error(recorded: dict[str, str]) -> None:
    """So it is when the program finds no nvdisasm, and ends as if all were well."""
    recorded["-sass"] = CODE.split("\t\tFunction")[0]
    with pytest.raises(sass.CannotRead, match="resources of 2 kernels in any, and .* of 0"):
        read()


def test_programs_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_build, "find_toolkit", lambda: (None, "no nvcc"))
    monkeypatch.setattr(sass.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(sass.CannotRead, match="pip install nvidia-cuda-cuobjdump"):
        sass.cuobjdump("-sass", tmp_path)
    with pytest.raises(sass.CannotRead, match=r"c\+\+filt is not on PATH"):
        sass.demangle(["_Z5shiftPf"])


def test_programs_are_found_in_the_toolkit_and_in_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("path", "toolkit/bin", "nvidia/cu13/bin")]
    for folder, programs in zip(folders, ((), ("nvdisasm",), ("cuobjdump",)), strict=True):
        folder.mkdir(parents=True)
        for name in programs:
            (folder / name).touch(mode=0o755)
    wheels = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "nvidia")]})
    toolkit = _build.Toolkit(tmp_path / "toolkit", "13.0")
    monkeypatch.setenv("PATH", str(folders[0]))
    monkeypatch.setattr(_build, "find_toolkit", lambda: (toolkit, None))
    monkeypatch.setattr(sass.importlib.util, "find_spec", lambda _: wheels)
    program, path = sass.find_programs()
    assert program == str(folders[2] / "cuobjdump")
    assert path.split(":") == [str(folder) for folder in folders]
