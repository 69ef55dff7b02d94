"""The README's tables of numbers from the result files: `python -m bench.tables` writes them.

Between two marks in the README stands what block() gives. A test compares: the numbers must be
those of the files, and rows of older sources that are not yet marked stale are shown as a warning.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from bench import memory
from bench.plot import markdown
from bench.results import STALE, Row, Staleness, newest, read
from bench.run import RESULTS

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- python -m bench.tables writes this from bench/results/; more is in the same files -->"
END = "<!-- end of what bench.tables writes -->"

# Groups of cases that the README shows; from a CPU for one thread only, and none from a CPU that
# was limited to stand for another.
CPU_GROUPS = ("cpu-dense", "cpu-step", "cpu-packed", "cpu-half", "cpu-overhead")
# A page is more than such a call takes.
NO_MEMORY = ("cpu-overhead",)
GPU_GROUPS = ("flashrnn-b", "models")


def shown(rows: Iterable[Row]) -> list[Row]:
    """The rows of the README, of all that there are."""
    return [row for row in newest(rows) if _is_shown(row)]


def _is_shown(row: Row) -> bool:
    if not row.on_cpu:
        return row.case["group"] in GPU_GROUPS
    return row.case["group"] in CPU_GROUPS and row.data["threads"] == 1 and not row.limited


def block(folder: Path, staleness: Staleness) -> str:
    """What stands between the marks: the machine measured last, and the others folded away."""
    files = sorted(folder.glob("*.json"))
    times = shown(read(files))
    kept = [row for row in read(files, "memory") if row.case["group"] not in NO_MEMORY]
    taken = shown(kept)
    measured: dict[str, str] = {}
    for row in [*times, *taken]:
        measured[row.where] = max(measured.get(row.where, ""), row.stamp["utc"])
    parts: list[str] = []
    for where in sorted(measured, key=lambda where: measured[where], reverse=True):
        tables = [
            markdown([row for row in times if row.where == where], staleness),
            memory.markdown([row for row in taken if row.where == where], staleness),
        ]
        text = "\n".join(table for table in tables if table.strip()).rstrip("\n")
        summary = f"<summary>{where}, measured on {measured[where][:10]}</summary>"
        parts.append(f"<details>{summary}\n\n{text}\n\n</details>" if parts else text)
    return "\n\n".join(parts)


def between(text: str) -> str:
    """What the README has there; raises ValueError where the marks are missing."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{README} must hold the lines {BEGIN} and {END}")
    return found[1]


def unmarked(text: str) -> str:
    """The same without the marks of stale rows."""
    return text.replace(STALE, "")


def main() -> int:
    text = README.read_text(encoding="utf-8")
    new = block(RESULTS, Staleness())
    README.write_text(text.replace(between(text), new), encoding="utf-8")
    print(f"{README}: {new.count(STALE)} of its measurements are stale")
    return 0


if __name__ == "__main__":
    sys.exit(main())
