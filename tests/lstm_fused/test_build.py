"""What is compiled, by which flags, for which GPUs; and what pip makes of it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from lstm_fused import _build
from lstm_fused._build import CannotBuild, Toolkit
from tests.lstm_fused import standin

NVCC_13 = Toolkit(pathlib.Path("/nowhere"), "13.0")


@pytest.fixture
def csrc(tmp_path: pathlib.Path) -> pathlib.Path:
    return standin.write(tmp_path / "csrc")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUILD", "STRICT", "JIT", "CACHE"):
        monkeypatch.delenv(f"LSTM_FUSED_{name}", raising=False)
    for name in ("CXX", "MAX_JOBS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)


class TestPlan:
    def test_sources_are_found_in_this_checkout(self) -> None:
        assert _build.find_csrc() == standin.ROOT / "csrc"

    def test_unknown_mode_is_named(self, csrc: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("LSTM_FUSED_BUILD", "fast")
        with pytest.raises(CannotBuild, match="auto, off, cpu, cuda, got 'fast'"):
            _build.make_plan(csrc)

    def test_cuda_without_toolkit_is_refused(
        self, csrc: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        (csrc / "kernel.cu").touch()
        monkeypatch.setenv("LSTM_FUSED_BUILD", "cuda")
        monkeypatch.setattr(_build, "find_toolkit", lambda: (None, "nvcc is missing"))
        with pytest.raises(CannotBuild, match="LSTM_FUSED_BUILD=cuda, but nvcc is missing"):
            _build.make_plan(csrc)

    def test_auto_leaves_cuda_out_with_a_reason(
        self, csrc: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        (csrc / "kernel.cu").touch()
        monkeypatch.setattr("torch.version.cuda", "12.8")
        monkeypatch.setattr(_build, "find_toolkit", lambda: (NVCC_13, None))
        plan = _build.make_plan(csrc)
        assert plan.cuda_sources == []
        assert plan.why_no_cuda is not None and "torch of CUDA 12.8" in plan.why_no_cuda

    def test_auto_builds_cuda_where_majors_agree(
        self, csrc: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        (csrc / "kernel.cu").touch()
        monkeypatch.setattr("torch.version.cuda", "13.2")
        monkeypatch.setattr(_build, "find_toolkit", lambda: (NVCC_13, None))
        monkeypatch.setattr(_build, "choose_architectures", lambda toolkit: ["9.0a"])
        assert _build.make_plan(csrc).architectures == ("9.0a",)


class TestFlags:
    def test_no_instruction_set_is_switched_on_globally(self, csrc: pathlib.Path) -> None:
        flags = _build.cxx_flags(_build.make_plan(csrc)) + _build.NVCC_FLAGS
        assert not [flag for flag in flags if flag.startswith("-m") or "-march" in flag]

    def test_warnings_are_errors_only_when_strict(
        self, csrc: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "-Werror" not in _build.cxx_flags(_build.make_plan(csrc))
        monkeypatch.setenv("LSTM_FUSED_STRICT", "1")
        assert "-Werror" in _build.cxx_flags(_build.make_plan(csrc))

    @pytest.mark.parametrize(
        ("name", "flag"),
        [
            ("8.0", "-gencode=arch=compute_80,code=sm_80"),
            ("9.0a", "-gencode=arch=compute_90a,code=sm_90a"),
            ("10.0+PTX", "-gencode=arch=compute_100,code=[sm_100,compute_100]"),
        ],
    )
    def test_gencode(self, name: str, flag: str) -> None:
        assert _build.gencode(name) == flag

    @pytest.mark.parametrize(
        ("visible", "known", "chosen"),
        [
            ([], "80 90 100", ["8.0", "9.0a", "10.0+PTX"]),
            ([], "80 90", ["8.0", "9.0a"]),
            (["8.6", "9.0"], "80 86 90", ["8.6", "9.0a"]),
            (["12.0"], "80 90", ["9.0+PTX"]),
        ],
    )
    def test_architectures(
        self,
        visible: list[str],
        known: str,
        chosen: list[str],
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text("#!/bin/sh\nprintf 'compute_%s\\n' " + known + "\n")
        nvcc.chmod(0o755)
        monkeypatch.setattr(_build, "visible_architectures", lambda: visible)
        assert _build.choose_architectures(Toolkit(tmp_path, "13.0")) == chosen

    def test_architecture_list_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0+PTX")
        assert _build.choose_architectures(NVCC_13) == ["8.6", "9.0+PTX"]
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
        with pytest.raises(CannotBuild, match="got 'Hopper'"):
            _build.choose_architectures(NVCC_13)

    def test_jobs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert 1 <= _build.jobs() <= (os.cpu_count() or 1)
        monkeypatch.setenv("MAX_JOBS", "5")
        assert _build.jobs() == 5


class TestTools:
    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(CannotBuild, match=r"no C\+\+ compiler is on PATH: install g\+\+"):
            _build.check_tools()

    def test_named_compiler_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(CannotBuild, match="CXX='no-such-compiler'"):
            _build.find_compiler()

    def test_wrapper_is_left_to_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "ccache c++")
        assert _build.find_compiler() == ["c++"]


class TestKey:
    def test_same_plan_same_key(self, csrc: pathlib.Path) -> None:
        assert _build.key(_build.make_plan(csrc)) == _build.key(_build.make_plan(csrc))

    def test_a_header_changes_it(self, csrc: pathlib.Path) -> None:
        before = _build.key(_build.make_plan(csrc))
        (csrc / "common" / "answer.h").write_text("// new\n" + standin.FILES["common/answer.h"])
        assert _build.key(_build.make_plan(csrc)) != before

    def test_cuda_and_architectures_change_it(self, csrc: pathlib.Path) -> None:
        plan = _build.make_plan(csrc)
        cuda = plan._replace(toolkit=NVCC_13, architectures=("8.0",))
        assert (
            len({_build.key(p) for p in (plan, cuda, cuda._replace(architectures=("9.0",)))}) == 3
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of this checkout whose csrc is the stand-in."""
    root = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_C.sources")
    for name in ("lstm_fused", "examples"):
        shutil.copytree(standin.ROOT / name, root / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(standin.ROOT / name, root)
    standin.write(root / "csrc")
    return root


class TestPip:
    """What pip makes of a checkout."""

    def pip(self, *arguments: object, **env: str) -> str:
        command = [sys.executable, "-m", "pip", *map(str, arguments)]
        done = subprocess.run(
            command,
            env=standin.environment(pathlib.Path("/nowhere"), **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def wheel(self, checkout: pathlib.Path, out: pathlib.Path, *flags: str, **env: str):
        text = self.pip("wheel", "-v", "--no-deps", *flags, "-w", out, checkout, **env)
        (found,) = out.glob("*.whl")
        return found, zipfile.ZipFile(found).namelist(), text

    def answer(self, site: pathlib.Path, cache: pathlib.Path) -> dict[str, str]:
        """Load from `site`, in another folder, with the sources that lie there."""
        env = standin.environment(cache, PYTHONPATH=str(site))
        return standin.load(site / "lstm_fused" / "csrc", env)

    def test_isolated_wheel(self, checkout: pathlib.Path, tmp_path: pathlib.Path) -> None:
        left = checkout / "build" / "lib" / "lstm_fused" / "csrc" / "deleted.cpp"
        left.parent.mkdir(parents=True)
        left.touch()  # as setuptools leaves behind a source that was deleted since
        found, names, _ = self.wheel(checkout, tmp_path)
        assert found.name.endswith("-py3-none-any.whl")
        sources = {name for name in names if name.startswith("lstm_fused/csrc/")}
        assert sources == {f"lstm_fused/csrc/{name}" for name in standin.FILES}
        assert {"lstm_fused/nn/lstm.py", "lstm_fused/examples/sentiment.py"} <= set(names)

        site = tmp_path / "site"
        self.pip("install", "-q", "--no-deps", "--no-index", "--target", site, found)
        said = self.answer(site, tmp_path / "cache")
        assert (said["answer"], said["origin"]) == ("42", "built now")
        assert said["source"] == "csrc/ops/module.cpp"  # and not where it was built

    def test_compiled_wheel(self, checkout: pathlib.Path, tmp_path: pathlib.Path) -> None:
        found, names, _ = self.wheel(checkout, tmp_path, "--no-build-isolation")
        assert found.name.endswith(f"{_build.platform.machine()}.whl")
        assert [name for name in names if name.startswith("lstm_fused/_C.") and name.endswith("so")]
        site = tmp_path / "site"
        self.pip("install", "-q", "--no-deps", "--no-index", "--target", site, found)
        said = self.answer(site, tmp_path / "cache")
        assert (said["answer"], said["origin"]) == ("42", "compiled ahead of time")
        assert said["file"].startswith(str(site))
        assert said["source"] == "csrc/ops/module.cpp"
        assert not (tmp_path / "cache").exists()

    def test_failed_compile_leaves_a_wheel_of_sources(
        self, checkout: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        _, names, text = self.wheel(
            checkout, tmp_path, "--no-build-isolation", CXX="/bin/false", CFLAGS="-DAGAIN"
        )
        assert "not compiled ahead of time, because the build failed" in text
        assert not [name for name in names if name.endswith(".so")]
        assert "lstm_fused/csrc/ops/module.cpp" in names

    def test_failed_compile_that_was_asked_for_is_an_error(
        self, checkout: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        with pytest.raises(AssertionError, match="no C.. compiler|CXX='no-such-compiler'"):
            self.wheel(
                checkout,
                tmp_path,
                "--no-build-isolation",
                LSTM_FUSED_BUILD="cpu",
                CXX="no-such-compiler",
            )

    def test_editable(self, checkout: pathlib.Path, tmp_path: pathlib.Path) -> None:
        site = tmp_path / "site"
        flags = ("-q", "--no-deps", "--no-build-isolation", "--target", site)
        self.pip("install", *flags, "-e", checkout)
        # What Python does with pip's .pth file at its start; and then our finder before the others,
        # because the environment that runs this test may hold an installed lstm_fused.
        command = "import site, sys; site.addsitedir(sys.argv.pop(1));"
        command += "sys.meta_path.insert(0, sys.meta_path.pop());" + standin.PROGRAM
        env = standin.environment(tmp_path / "cache", PYTHONPATH="")

        def load() -> dict[str, str]:
            arguments = [sys.executable, "-c", command, str(site), str(checkout / "csrc")]
            pipe = subprocess.PIPE
            return standin.finish(
                subprocess.Popen(arguments, env=env, stdout=pipe, stderr=pipe, text=True, cwd="/")
            )

        said = load()
        assert (said["answer"], said["origin"]) == ("42", "compiled ahead of time")
        assert said["file"].startswith(str(checkout / "lstm_fused"))
        part = checkout / "csrc" / "left" / "part.cpp"
        part.write_text(part.read_text().replace("40", "50"))
        said = load()
        assert (said["answer"], said["origin"]) == ("52", "built now")
        assert "older than the sources" in said["notes"]
