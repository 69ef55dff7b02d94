"""Which CUDA variants result files prove on a GPU, and lstm_fused/_proven.py, which says so.

A file proves a variant if it comes from a GPU, every check of the variant in it is right, the
required ones are among them, and the machine code of each of the variant's kernels was then what
today's build has. It proves it for GPUs of the same capability: on others other kernels run, as
blocks have more or less shared memory. `python -m bench.gpu_check --prove` writes the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "lstm_fused" / "_proven.py"

# The stages of bench.gpu_check that must have come to their end. What else a file holds (twins,
# compute-sanitizer, the sweep) must be right as well, but may be absent: some machines refuse it.
REQUIRED = ("tests", "stress")
# Where one of these went wrong as a whole, nothing is proven.
NO_FAILURE = ("build", "twins", "tests", "sanitizer", "stress", "sweep")

# Words in the names of the kernels of a variant. One that is not here has all kernels for its own:
# then any change of any kernel takes the proof away.
KERNELS: dict[str, tuple[str, ...]] = {
    "cuda.decode": ("decode_step", "gates_backward"),
    "cuda.block": ("block_forward", "block_backward", "write_numbers"),
    "cuda.cluster": ("cluster_forward", "cluster_backward", "write_numbers"),
    "cuda.grid": ("grid_forward", "grid_backward", "write_numbers"),
    "cuda.step": ("gates_forward", "gates_backward", "output_gradient"),
}

Digest = Mapping[str, str]  # as machine.sass_digest() gives it: "arch kernel" to sha256
Proven = Mapping[str, tuple[str, ...]]  # by the capability of GPUs


def text(found: Proven) -> str:
    """The whole of _proven.py, as ruff would format it."""
    about = (
        "By the capability of GPUs. Written by `python -m bench.gpu_check --prove`."
        if found
        else "None yet: no CUDA kernel of this library has run on a GPU."
    )
    rows = ""
    for capability, names in found.items():
        listed = ", ".join(f'"{name}"' for name in names)
        rows += f'    "{capability}": ({listed}{"," if len(names) == 1 else ""}),\n'
    value = "{\n" + rows + "}" if rows else "{}"
    return (
        '"""The CUDA variants that a result file in bench/results/ proves for today\'s kernels.\n\n'
        f'{about}\n"""\n\nPROVEN: dict[str, tuple[str, ...]] = {value}\n'
    )


def right(content: Mapping[str, Any]) -> list[str]:
    """The CUDA variants for which every check of a result file is right."""
    if content["stamp"]["capability"] is None:
        return []
    seen: dict[str, set[str]] = {}
    wrong: set[str] = set()
    for check in content.get("checks", ()):
        variant = check.get("variant", "")
        seen.setdefault(variant, set()).add(check["check"])
        if check["result"] != "ok":
            wrong.add(variant)
    explained = {check["stage"] for check in content.get("checks", ()) if check["variant"]}
    for stage in content.get("stages", ()):
        failed = stage["result"] == "failed" and stage["name"] not in explained
        if failed and stage["name"] in NO_FAILURE:
            wrong.add("")
    if "" in wrong:  # what speaks of no variant speaks of all: the twins of ptx.cuh, say
        return []
    return [
        name
        for name, checks in seen.items()
        if name.startswith("cuda.") and name not in wrong and checks.issuperset(REQUIRED)
    ]


def same_code(variant: str, then: Digest | None, today: Digest) -> bool:
    """Whether today's kernels of the variant are those of a file, on the file's architectures."""
    if not then:
        return False
    words = KERNELS.get(variant, ("",))
    archs = {name.split(" ")[0] for name in then}

    def own(digest: Digest) -> dict[str, str]:
        return {
            name: code
            for name, code in digest.items()
            if name.split(" ")[0] in archs and any(word in name for word in words)
        }

    return bool(own(then)) and own(then) == own(today)


def proven(
    contents: Iterable[Mapping[str, Any]], today: Digest | None, order: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The proven variants by capability, in the order of the table.

    today  None: the machine code is not known here, so code that a file was right for counts
    """
    found: dict[str, set[str]] = {}
    for content in contents:
        stamp = content["stamp"]
        for name in right(content):
            if today is None or same_code(name, stamp["sass_digest"], today):
                found.setdefault(stamp["capability"], set()).add(name)
    order = list(order)
    return {
        capability: tuple(name for name in order if name in found[capability])
        for capability in sorted(found, key=lambda number: tuple(map(int, number.split("."))))
    }


def read(folder: Path) -> list[dict[str, Any]]:
    """The result files of a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def generate(folder: Path, today: Digest | None) -> tuple[Proven, str | None]:
    """The list for _proven.py, and why it could not all be judged, or None.

    Without today's machine code nothing is added to the list; what no file proves leaves it.
    """
    from lstm_fused.dispatch import KERNELS as order
    from lstm_fused.dispatch import PROVEN

    contents = read(folder)
    if today:
        return proven(contents, today, order), None
    candidates = proven(contents, None, order)
    if not candidates:
        return {}, None
    kept = {
        capability: both
        for capability, names in candidates.items()
        if (both := tuple(name for name in names if name in PROVEN.get(capability, ())))
    }
    return kept, (
        f"the machine code of today's build is not known here ({words(candidates)} could be "
        "proven): put cuobjdump on PATH and set LSTM_FUSED_BUILD=cuda"
    )


def words(found: Proven) -> str:
    """ "cuda.grid and cuda.step on 9.0", or "none"."""
    each = (f"{' and '.join(names)} on {capability}" for capability, names in found.items())
    return ", ".join(each) or "none"
