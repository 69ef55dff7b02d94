"""The README says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from lstm_fused import dispatch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_variants_is_printed_from_the_code() -> None:
    assert dispatch.support_table() in README


def test_its_commands_name_extras_that_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'pip install -c constraints\.txt "\.\[(\w+)\]"', README)
    assert named == ["examples", "test"]
    for extra in named:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_every_file_it_names_exists() -> None:
    files = re.findall(r"`((?:csrc|bench|tests|lstm_fused|\.ci)/[\w./]*)`", README)
    assert files
    missing = [name for name in files if not (ROOT / name).exists()]
    assert not missing
