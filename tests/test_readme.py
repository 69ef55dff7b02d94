"""The README says what the code says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from bench import results, run, tables
from lstm_fused import explained

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_variants_is_printed_from_the_code() -> None:
    assert explained.support_table() in README


def test_its_numbers_are_those_of_the_result_files() -> None:
    """Rows of older sources are told, not failed: an edit to a kernel need not touch the README."""
    new, old = tables.block(run.RESULTS, results.Staleness()), tables.between(README)
    assert tables.unmarked(new) == tables.unmarked(old), "run python -m bench.tables"
    unsaid = new.count(tables.STALE) - old.count(tables.STALE)
    if unsaid:
        warnings.warn(f"{unsaid} stale numbers in the README: measure anew", stacklevel=1)


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
