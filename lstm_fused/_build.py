"""What is compiled and how: one recipe for setup.py and for the build at first use (_first_use.py).

Host sources (csrc/**/*.cpp) go through torch.utils.cpp_extension. CUDA sources (csrc/**/*.cu) are
compiled by nvcc called from here: they include no torch header, and torch's own CUDAExtension
refuses on a CPU build of torch. So one path serves every torch.

setup.py and the compiling child process load this file by its path, so it imports nothing of the
package, and torch only inside functions.
"""

import concurrent.futures
import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from typing import NamedTuple

MODES = ("auto", "off", "cpu", "cuda")
SOURCE_SUFFIXES = (".cpp", ".cu", ".h", ".cuh")

# No -m flag here: the files of each instruction set switch it on for themselves.
CXX_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", "-DNDEBUG", "-g0"]
CXX_FLAGS += ["-Wall", "-Wextra"]
NVCC_FLAGS = ["-O3", "-std=c++20", "-DNDEBUG", "-Xcompiler=-fPIC,-fvisibility=hidden"]
# libtorch.so pulls libtorch_cuda into scope, which is where weak symbols of it are looked up.
# -fopenmp links libgomp by its SONAME, so the copy that torch has loaded is the one we get.
LINK_FLAGS = ["-fopenmp", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
LINK_FLAGS += ["-Wl,--exclude-libs,ALL"]

# LSTM_FUSED_STRICT=1 (CI): a warning, a spilled register or local memory is an error. Not for
# users, whose newer compiler may warn of something that we have never seen.
STRICT_CXX_FLAGS = ["-Werror"]
STRICT_NVCC_FLAGS = ["--Werror=all-warnings", "-Xptxas=-Werror,-warn-spills,-warn-lmem-usage"]

# One binary per generation (8.x, 9.0 with its own instructions, 10.x) and PTX for what comes later.
DEFAULT_ARCHITECTURES = ["8.0", "9.0a", "10.0+PTX"]
BYTES_PER_JOB = 3 << 30  # what one compiler process may need


class CannotBuild(Exception):
    """Nothing can be compiled here; the message is a sentence that says why and what to install."""


class Toolkit(NamedTuple):
    """A CUDA toolkit."""

    home: pathlib.Path
    version: str  # "13.0"

    @property
    def nvcc(self) -> str:
        return str(self.home / "bin" / "nvcc")


class Plan(NamedTuple):
    """One build: everything that decides what comes out."""

    csrc: pathlib.Path
    toolkit: Toolkit | None  # None: without the CUDA sources
    architectures: tuple[str, ...]  # in the notation of TORCH_CUDA_ARCH_LIST
    why_no_cuda: str | None
    strict: bool

    @property
    def host_sources(self) -> list[pathlib.Path]:
        return sorted(self.csrc.rglob("*.cpp"))

    @property
    def cuda_sources(self) -> list[pathlib.Path]:
        return sorted(self.csrc.rglob("*.cu")) if self.toolkit else []

    def without_cuda(self, why: str) -> "Plan":
        return self._replace(toolkit=None, architectures=(), why_no_cuda=why)


def find_csrc() -> pathlib.Path:
    """The C++ sources: inside the package when installed, beside it in a checkout."""
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "csrc", here.parent / "csrc"):
        if any(folder.rglob("*.cpp")):
            return folder
    raise CannotBuild(f"the C++ sources are not in {here / 'csrc'}: reinstall lstm-fused")


def mode() -> str:
    """LSTM_FUSED_BUILD: auto, off, cpu or cuda."""
    value = os.environ.get("LSTM_FUSED_BUILD") or "auto"
    if value not in MODES:
        raise CannotBuild(f"LSTM_FUSED_BUILD must be one of {', '.join(MODES)}, got {value!r}")
    return value


def make_plan(csrc: pathlib.Path) -> Plan:
    """Decide what to build from LSTM_FUSED_BUILD, torch, the CUDA toolkit and the visible GPUs."""
    strict = os.environ.get("LSTM_FUSED_STRICT") == "1"
    plan = Plan(csrc, None, (), None, strict)
    wanted = mode()
    if wanted == "off":
        raise CannotBuild("LSTM_FUSED_BUILD=off")
    if not any(csrc.rglob("*.cu")):
        return plan.without_cuda("there are no CUDA sources")
    if wanted == "cpu":
        return plan.without_cuda("LSTM_FUSED_BUILD=cpu")
    toolkit, why = find_toolkit()
    if wanted == "auto":
        why = why_not_cuda(toolkit) if toolkit else why
        if why:
            return plan.without_cuda(why)
    if toolkit is None:
        raise CannotBuild(f"LSTM_FUSED_BUILD=cuda, but {why}")
    return plan._replace(toolkit=toolkit, architectures=tuple(choose_architectures(toolkit)))


# ---- the host compiler ---------------------------------------------------------------------------


def find_compiler() -> list[str]:
    """The C++ compiler's command: $CXX, else the first found."""
    named = shlex.split(os.environ.get("CXX", ""))
    # torch quotes CXX as one word, so "ccache g++" would not be found; it looks for ccache itself.
    if len(named) > 1 and os.path.basename(named[0]) in ("ccache", "sccache"):
        del named[0]
    if named:
        if shutil.which(named[0]) is None:
            raise CannotBuild(f"CXX={os.environ['CXX']!r} names a compiler that is not on PATH")
        return named
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise CannotBuild(
        "no C++ compiler is on PATH: install g++ 11 or newer (`apt install g++`, "
        "`dnf install gcc-c++` or `conda install gxx`)"
    )


def ninja_folder() -> str | None:
    """Where the ninja package keeps its program: not on PATH unless its environment is active."""
    if importlib.util.find_spec("ninja") is None:
        return None
    import ninja

    return getattr(ninja, "BIN_DIR", None)


def check_tools() -> None:
    """Raise CannotBuild where a build is bound to fail, with what to install."""
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"the compiled part is made for Linux so far, this is {sys.platform}")
    find_compiler()
    if ninja_folder() is None and shutil.which("ninja") is None:
        raise CannotBuild("ninja is not installed: `pip install ninja`")
    include = pathlib.Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise CannotBuild(
            f"Python's headers are not in {include}: install them "
            "(`apt install python3-dev` or `dnf install python3-devel`)"
        )


def jobs() -> int:
    """Compilers run side by side: MAX_JOBS, else as many as the cores and the memory bear."""
    wanted = os.environ.get("MAX_JOBS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")  # a container's share, "max" when unlimited
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return max(1, min(len(os.sched_getaffinity(0)), memory // BYTES_PER_JOB))


def build_environment() -> dict[str, str]:
    """The environment of a compiling process: ours, with the compiler, ninja and MAX_JOBS named."""
    folders = [ninja_folder(), os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        "CXX": shlex.join(find_compiler()),
        "MAX_JOBS": str(jobs()),
        "PATH": os.pathsep.join(folder for folder in folders if folder),
    }


def include_folders(plan: Plan) -> list[str]:
    """csrc, and pybind11's own package where it is installed (else torch's copy is found)."""
    folders = [str(plan.csrc)]
    if importlib.util.find_spec("pybind11"):
        import pybind11

        folders.append(pybind11.get_include())
    return folders


def prefix_maps(plan: Plan) -> list[str]:
    """Error messages carry __FILE__: without these they would show folders of the build machine."""
    torch = importlib.util.find_spec("torch")
    headers = [f"{folder}/include" for folder in (torch and torch.submodule_search_locations) or []]
    maps = [f"-ffile-prefix-map={plan.csrc}=csrc"]
    return maps + [f"-ffile-prefix-map={folder}/torch=torch" for folder in headers]


def cxx_flags(plan: Plan) -> list[str]:
    return [*CXX_FLAGS, *(STRICT_CXX_FLAGS if plan.strict else []), *prefix_maps(plan)]


# ---- CUDA ----------------------------------------------------------------------------------------


def find_toolkit() -> tuple[Toolkit | None, str | None]:
    """The CUDA toolkit, or None and why. torch's CUDA_HOME is None on a CPU build of torch."""
    names = [os.environ.get(v) for v in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [os.path.join(home, "bin", "nvcc") for home in names if home]
    candidates += [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
    nvcc = next((c for c in candidates if c and os.path.isfile(c)), None)
    if nvcc is None:
        return None, "nvcc is not on PATH nor in CUDA_HOME: install the CUDA toolkit"
    try:
        # The program on PATH may be a link or a wrapper script: nvcc itself knows its folder.
        command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
        dry = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
        version = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"{nvcc} does not run ({error})"
    top = re.search(r"TOP=(.+)", dry)
    release = re.search(r"release (\d+\.\d+)", version.stdout)
    if top is None or release is None:
        return None, f"{nvcc} says neither its folder nor its release"
    return Toolkit(pathlib.Path(top[1].strip()).resolve(), release[1]), None


def why_not_cuda(toolkit: Toolkit) -> str | None:
    """Why the CUDA part is left out unless it is asked for, or None."""
    import torch

    ours, theirs = toolkit.version, torch.version.cuda
    if theirs is None:
        return "this torch has no CUDA (LSTM_FUSED_BUILD=cuda compiles the CUDA part all the same)"
    if ours.split(".")[0] != theirs.split(".")[0]:
        return f"nvcc is of CUDA {ours}, torch of CUDA {theirs}: install a CUDA {theirs} toolkit"
    return None


def visible_architectures() -> list[str]:
    """Compute capabilities of this machine's GPUs, "9.0" and so on; empty without a driver.

    Asked of NVML: torch.cuda would create a context, after which forked workers cannot use a GPU.
    """
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    count = ctypes.c_uint()
    found = set()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
        for index in range(count.value):
            device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0:
                capability = ctypes.byref(major), ctypes.byref(minor)
                if nvml.nvmlDeviceGetCudaComputeCapability(device, *capability) == 0:
                    found.add((major.value, minor.value))
    nvml.nvmlShutdown()
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def number(architecture: str) -> int:
    """ "9.0a+PTX" -> 90."""
    return int(re.sub(r"[^0-9]", "", architecture))


def choose_architectures(toolkit: Toolkit) -> list[str]:
    """TORCH_CUDA_ARCH_LIST, else the GPUs of this machine, else the default list."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";")
    if listed:
        for name in filter(None, listed.split(";")):
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
                raise CannotBuild(
                    f"TORCH_CUDA_ARCH_LIST must hold names like 8.0, 9.0a or 10.0+PTX, got {name!r}"
                )
        return [name for name in listed.split(";") if name]
    text = subprocess.run([toolkit.nvcc, "--list-gpu-arch"], stdout=subprocess.PIPE, text=True)
    known = {int(n) for n in re.findall(r"compute_(\d+)", text.stdout)}
    visible = visible_architectures()
    if not visible:
        return [name for name in DEFAULT_ARCHITECTURES if number(name) in known]
    chosen = []
    for name in visible:
        if number(name) in known:
            chosen.append("9.0a" if name == "9.0" else name)
            continue
        # A GPU newer than this nvcc runs the PTX of the newest generation that nvcc knows.
        older = max((n for n in known if n < number(name)), default=None)
        if older is None:
            raise CannotBuild(f"nvcc {toolkit.version} no longer compiles for this GPU (sm_{name})")
        chosen.append(f"{older // 10}.{older % 10}+PTX")
    return list(dict.fromkeys(chosen))


def gencode(architecture: str) -> str:
    name = architecture.removesuffix("+PTX").replace(".", "")
    code = f"[sm_{name},compute_{name}]" if architecture.endswith("+PTX") else f"sm_{name}"
    return f"-gencode=arch=compute_{name},code={code}"


def nvcc_flags(plan: Plan) -> list[str]:
    maps = [flag.replace(",", "\\,") for flag in prefix_maps(plan)]  # nvcc splits at commas
    return [
        *NVCC_FLAGS,
        *(STRICT_NVCC_FLAGS if plan.strict else []),
        *(f"-Xcompiler={flag}" for flag in maps),
        *map(gencode, plan.architectures),
    ]


def compile_cuda(plan: Plan, out: pathlib.Path) -> tuple[list[str], list[str]]:
    """Compile every CUDA source into `out`; returns objects and link flags, both empty without."""
    if plan.toolkit is None:
        return [], []
    out.mkdir(parents=True, exist_ok=True)
    nvcc = shlex.split(os.environ.get("PYTORCH_NVCC", "")) or [plan.toolkit.nvcc]
    command = [*nvcc, *nvcc_flags(plan), f"-I{plan.csrc}"]

    def compile_one(numbered: tuple[int, pathlib.Path]) -> str:
        index, source = numbered
        target = out / f"{index:02d}_{source.stem}.cuda.o"
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(jobs()) as pool:
        objects = list(pool.map(compile_one, enumerate(plan.cuda_sources)))
    home = plan.toolkit.home
    folders = [home / name for name in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")]
    library = next((f for f in folders if (f / "libcudart_static.a").exists()), None)
    if library is None:
        raise CannotBuild(
            f"libcudart_static.a is not below {home}: install the CUDA runtime's dev package"
        )
    return objects, [f"-L{library}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]


# ---- at first use --------------------------------------------------------------------------------


def source_files(csrc: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in csrc.rglob("*") if path.suffix in SOURCE_SUFFIXES)


def source_hash(csrc: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in source_files(csrc):
        digest.update(str(path.relative_to(csrc)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def key(plan: Plan) -> str:
    """Name a build: change anything that it depends on and it is another build.

    torch's own version is not part of it: the stable ABI lets one binary serve 2.10 and later.
    """
    import torch

    flags = [*CXX_FLAGS, *NVCC_FLAGS, *LINK_FLAGS, plan.strict, os.environ.get("CXX")]
    python = [sys.implementation.cache_tag, platform.machine()]
    cuda = [plan.toolkit and plan.toolkit.version, plan.architectures, torch.version.cuda]
    parts = repr((source_hash(plan.csrc), flags, python, cuda))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def shims(plan: Plan, out: pathlib.Path) -> list[str]:
    """One source per host source, that includes it, under a name of its own.

    torch names an object after the file alone: cpu/scan.cpp beside cuda/scan.cpp would both be
    scan.o, and ninja refuses ("multiple rules generate scan.o").
    """
    paths = []
    for index, source in enumerate(plan.host_sources):
        shim = out / f"{index:02d}_{source.name}"
        shim.write_text(f'#include "{source}"\n')
        paths.append(str(shim))
    return paths


def compile_library(plan: Plan, out: pathlib.Path) -> None:
    """Compile, link and import `out`/_C.so. Runs in a process of its own, see _first_use.py."""
    from torch.utils.cpp_extension import load

    objects, cuda_link = compile_cuda(plan, out)
    load(
        "_C",
        shims(plan, out),
        # torch writes these unquoted into a ninja file that a shell reads.
        extra_cflags=[shlex.quote(flag) for flag in cxx_flags(plan)],
        extra_ldflags=[shlex.quote(flag) for flag in [*objects, *LINK_FLAGS, *cuda_link]],
        extra_include_paths=include_folders(plan),
        build_directory=str(out),
        with_cuda=False,
    )


# ---- words --------------------------------------------------------------------------------------


def announce(sentence: str) -> None:
    print(f"lstm_fused: {sentence}", file=sys.stderr, flush=True)


def describe(plan: Plan) -> Sequence[str]:
    """What a build holds, in words: "CPU" or "CPU", "CUDA 13.0 for 8.0 9.0a 10.0+PTX"."""
    if plan.toolkit is None:
        return ["CPU"]
    return ["CPU", f"CUDA {plan.toolkit.version} for {' '.join(plan.architectures)}"]
