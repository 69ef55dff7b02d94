"""What ran the benchmark: the stamp of a result file, and how busy the machine was."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import lstm_fused
from bench import isa, proven, revision, sass
from lstm_fused import _build, _load, costs

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "csrc" / "cuda"
COSTS = ROOT / "lstm_fused" / "_costs.py"  # bench.fit writes it
SCHEMA = 1

# Above these a round is called busy. Below them medians moved by less than the rounds' spread.
FOREIGN_LIMIT = 0.20  # CPUs used by others
STEAL_LIMIT = 0.08  # CPUs that the hypervisor gave to somebody else


def source_hash(*, cuda: bool = True) -> str:
    """sha256 over the names and bytes of all sources of the library.

    The list of proven variants and the table of costs count as empty: they follow from
    measurements, and writing them must not make these stale.

    cuda  the kernels in csrc/cuda as well; what a CPU does is not of them
    """
    digest = hashlib.sha256()
    for folder in ("csrc", "lstm_fused"):
        for path in sorted((ROOT / folder).rglob("*")):
            if not cuda and CUDA in path.parents:
                continue
            if path.suffix in {".h", ".cpp", ".cu", ".cuh", ".py"}:
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
                content = {proven.FILE: proven.text({}).encode(), COSTS: b""}.get(path)
                digest.update((path.read_bytes() if content is None else content) + b"\0")
    return digest.hexdigest()


def stamp(device: torch.device, command: str) -> dict[str, Any]:
    """Everything that a time depends on and that a reader would ask for."""
    cuda = device.type == "cuda"
    limit = isa.limit()
    limited = f" as {limit}" if limit else ""
    gpu = costs.gpu_of(device) if cuda else None
    sources = source_hash()
    commit, dirty = revision.find(sources)
    return {
        "schema": SCHEMA,
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if cuda else cpu_model() + limited,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device)))
        if cuda
        else None,
        "multiprocessors": gpu.multiprocessors if gpu else None,
        "shared_memory": gpu.shared if gpu else None,
        "l2_cache": gpu.l2 if gpu else None,
        "driver": _gpu_query("driver_version") if cuda else None,
        "clocks": _gpu_query("clocks.sm,clocks.mem,clocks.max.sm") if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "cpu": cpu_model(),
        "cpu_flags": cpu_flags(),
        "cpu_as_torch_sees_it": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit,
        "dirty": dirty,
        "source_hash": sources,
        "cpu_source_hash": source_hash(cuda=False),
        "sass_digest": sass_digest() if cuda else None,
        "build": lstm_fused.build_info(),
        "nvcc": nvcc_version() if cuda else None,
        "command": command,
    }


def cpu_model() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Vector instructions of the processor that a kernel may depend on."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    return [flag for flag in flags if re.match(r"avx|fma|f16c|amx|asimd|sve|bf16|i8mm", flag)]


def _cpuinfo(key: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else None


def _output(*command: str) -> str | None:
    """What a command prints, or None if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _gpu_query(fields: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")


def nvcc_version() -> str | None:
    """The version to the build number: another one may make other machine code."""
    toolkit, _ = _build.find_toolkit()
    said = _output(toolkit.nvcc, "--version") if toolkit else None
    found = re.search(r"V(\d+\.\d+\.\d+)", said or "")
    return found.group(1) if found else None


def sass_digest() -> dict[str, str] | None:
    """sha256 of the machine code of each CUDA kernel, by "arch symbol"; None if it cannot be read.

    A comment or a change of host code leaves these as they were, so that a result stays valid.
    """
    module = _load.load()
    if module is None:
        return None
    try:
        return sass.digests(sass.read(Path(str(module.__file__)))) or None
    except sass.CannotRead:
        return None


class Meter:
    """How many CPUs others used, and the hypervisor took, since it was last asked."""

    def __init__(self) -> None:
        self.foreign = self.steal = 0.0
        self.worst_foreign = self.worst_steal = 0.0
        self._last = self._read()

    def quiet(self) -> bool:
        """Measure the time since the last call; False if somebody else used the machine."""
        now = self._read()
        wall = now["wall"] - self._last["wall"]
        used = {key: now[key] - self._last[key] for key in now}
        self._last = now
        # The counters tick every 10 ms: under 0.1 s they say nothing.
        if wall < 0.1:
            return True
        self.foreign = max(0.0, used["busy"] - used["own"]) / wall
        self.steal = used["steal"] / wall
        self.worst_foreign = max(self.worst_foreign, self.foreign)
        self.worst_steal = max(self.worst_steal, self.steal)
        return self.foreign <= FOREIGN_LIMIT and self.steal <= STEAL_LIMIT

    def _read(self) -> dict[str, float]:
        """Seconds since boot: of CPUs in use, of steal, of this process and its children."""
        reading = {"wall": time.monotonic(), "busy": 0.0, "steal": 0.0, "own": 0.0}
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        except OSError:  # not Linux: nothing is known, and nothing is called busy
            return reading
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, steal = (int(n) / tick for n in line.split()[1:9])
        reading["busy"] = user + nice + system + irq + softirq
        reading["steal"] = steal
        reading["own"] = time.process_time() + sum(_cpu_seconds(pid) for pid in _children())
        return reading


def _children() -> list[str]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return text.split()


def _cpu_seconds(pid: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
