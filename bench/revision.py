"""Commit and dirty flag where git is not: from a file that was written where it is.

`python -m bench.gpu_check --write-revision` writes revision.json in the root of the checkout. It is
not in .gitignore, so that it travels with the untracked files of a tree; it is never committed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "revision.json"


class Revision(NamedTuple):
    """What was checked out; None: nobody knows."""

    commit: str | None
    dirty: bool | None


def of_git() -> Revision | None:
    """What git says, or None where there is no git or no repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return Revision(
        commit, bool(_git("status", "--porcelain", "--", "csrc", "lstm_fused", "bench"))
    )


def find(source_hash: str) -> Revision:
    """What git says, else what the file says; sources changed since it was written are dirty."""
    found = of_git()
    if found is not None:
        return found
    try:
        written = json.loads(FILE.read_text(encoding="utf-8"))
        changed = written["source_hash"] != source_hash
        return Revision(written["commit"], written["dirty"] or changed)
    except (OSError, json.JSONDecodeError, KeyError):
        return Revision(None, None)


def write(source_hash: str) -> Path:
    """Write the file. Raises RuntimeError where git is not."""
    found = of_git()
    if found is None:
        raise RuntimeError(f"{ROOT} is no git repository, so there is no revision to write down")
    content = {**found._asdict(), "source_hash": source_hash}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return FILE


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
