"""The commit where git is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import revision

ROOT = Path(__file__).resolve().parents[2]


def test_the_revision_travels_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "FILE", tmp_path / "revision.json")
    answers = {"rev-parse": "abc123", "status": " M csrc/x.cpp"}
    monkeypatch.setattr(revision, "_git", lambda *arguments: answers[arguments[0]])
    assert revision.find("hash") == ("abc123", True)
    answers["status"] = ""
    revision.write("hash")
    monkeypatch.setattr(revision, "_git", lambda *arguments: None)
    assert revision.find("hash") == ("abc123", False)
    assert revision.find("other sources") == ("abc123", True)
    with pytest.raises(RuntimeError, match="no git repository"):
        revision.write("hash")
    revision.FILE.unlink()
    assert revision.find("hash") == (None, None)


def test_the_revision_file_is_not_committed_and_not_ignored() -> None:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )

    if git("rev-parse").returncode:
        pytest.skip("no repository here")
    assert git("ls-files", revision.FILE.name).stdout == ""
    assert git("check-ignore", revision.FILE.name).returncode == 1
