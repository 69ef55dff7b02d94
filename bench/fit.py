"""Fit the table of costs (lstm_fused/costs.py): `python -m bench.fit`. See NOTES.md.

To figures of whole scans (stage `scans` of bench.gpu_check) and to rows of dense layers, of ours
and of torch's (stage `sweep`, bench.run), all of one GPU. The table follows from these and from
what is predicted (predicted.py), not from the table that it replaces.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.gpu.scans import figure_of
from bench.least_squares import nonnegative
from bench.machine import COSTS as FILE
from bench.machine import SCHEMA
from bench.predicted import PREDICTED
from bench.run import RESULTS
from lstm_fused import _load, costs, ops
from lstm_fused.costs import TERMS, Costs, Gpu, Work

Table = Mapping[str, Costs]

# Each number is drawn to the predicted one by a residual of so much a part that it is off, where a
# time's is the part itself: among the squares it weighs 1e-4 of a time. What no time depends on
# stays as it is.
PULL = 0.01
# Nor does it fall below this part of that one: no term is ever lost.
LEAST = 0.01
# Which of two times of a step is the longer one depends on the numbers; few cases change sides.
ROUNDS = 20
# How far numbers of one fit may be apart: two machines add in different orders.
CLOSE = 2e-3


class NothingToFit(Exception):
    """The files have nothing that a table could be fitted to; the message says why."""


class Measured(NamedTuple):
    """A time and what it is the sum of."""

    name: str  # of the variant
    works: Sequence[Work]
    microseconds: float
    file: str

    @property
    def rows(self) -> set[str]:
        """Of the table."""
        return {work.row for work in self.works}


class Device(NamedTuple):
    """Two of one name may be of different size."""

    name: str
    gpu: Gpu

    def __str__(self) -> str:
        shared, l2 = self.gpu.shared >> 10, self.gpu.l2 >> 20
        return (
            f"{self.name} ({self.gpu.multiprocessors} multiprocessors, {shared} KB of shared "
            f"memory, {l2} MB of L2)"
        )


class File(NamedTuple):
    """A result file of a GPU: a time for each name of a figure, or case and arm."""

    name: str
    utc: str
    device: Device
    times: Mapping[tuple[str, ...], Measured]


class Fitted(NamedTuple):
    table: dict[str, Costs]
    settled: bool  # whether another round would change nothing


def predicted() -> dict[str, Costs]:
    """The table that nobody has measured."""
    return {name: Costs(*row, None) for name, row in PREDICTED.items()}


def read(paths: Sequence[Path], of: Collection[str] = ()) -> list[Measured]:
    """What the files have of a GPU, and of what several have the newest.

    of  names of files: where there are several GPUs, theirs is meant

    Raises NothingToFit where a file is not right, or where they are of several GPUs.
    """
    files = [file for file in map(_file, paths) if file and file.times]
    if meant := {file.device for file in files if file.name in of}:
        files = [file for file in files if file.device in meant]
    devices = {file.device: file.name for file in files}
    if len(devices) > 1:
        several = " and ".join(f"{name} of {device}" for device, name in devices.items())
        raise NothingToFit(f"a table is of one GPU, name the files of one: {several}")
    newest: dict[tuple[str, ...], Measured] = {}
    for file in sorted(files, key=lambda file: (file.utc, file.name)):
        newest |= file.times
    return list(newest.values())


def _file(path: Path) -> File | None:
    """None: it is of a CPU."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stamp = content["stamp"]
        if stamp["schema"] != SCHEMA:
            raise NothingToFit(f"{path}: schema must be {SCHEMA}, got {stamp['schema']}")
        if stamp["capability"] is None:
            return None
        numbers = ["multiprocessors", "shared_memory", "l2_cache"]
        wanted = [*((name, int) for name in numbers), ("device", str), ("utc", str)]
        for name, kind in wanted:
            if not isinstance(stamp.get(name), kind) or not stamp[name]:
                raise NothingToFit(
                    f"{path} lacks {name} of its GPU: its stamp has {stamp.get(name)!r}, "
                    f"bench.gpu_check writes {'a number' if kind is int else 'a text'}"
                )
        details = content.get("details", {})
        if not isinstance(details, dict) or not isinstance(details.get("scans", {}), dict):
            raise NothingToFit(f"{path}: details, and scans in them, must be objects")
        gpu = Gpu(*(stamp[name] for name in numbers))
        times = dict(_times(content, gpu, path))
        return File(path.name, stamp["utc"], Device(stamp["device"], gpu), times)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NothingToFit(f"{path} is not a result file of a GPU: {error!r}") from error


def _times(
    content: Mapping[str, Any], gpu: Gpu, path: Path
) -> Iterator[tuple[tuple[str, ...], Measured]]:
    if _load.load() is None:
        raise NothingToFit(f"{path} is of a GPU, the plans of its kernels: {_load.why_not()}")
    for figures in content.get("details", {}).get("scans", {}).values():
        for name, value in figures.items():
            figure = figure_of(name, gpu)
            if figure and value["value"]:
                variant = ".".join(name.split(".")[:2])
                time = float(value["value"]) * figure.T
                yield (name,), Measured(variant, [figure.work], time, path.name)
    for row in content["rows"]:
        if row["status"] != "ok" or not row.get("seconds"):
            continue
        if _dtype(row) is None:
            raise NothingToFit(f"{path}: {row['case']['id']} has an unknown dtype {row['dtype']!r}")
        works, time = _works(row, gpu), float(row["seconds"]["median"]) * 1e6
        if works and time:
            yield (row["case"]["id"], row["arm"]), Measured(_variant(row), works, time, path.name)


def _dtype(row: Mapping[str, Any]) -> torch.dtype | None:
    known = {str(dtype): dtype for dtype in ops.DTYPE_CODES}
    return known.get(f"torch.{row['dtype']}")


def _variant(row: Mapping[str, Any]) -> str:
    if row["family"] == "torch":
        return costs.NATIVE
    return str(row["arm"]).removesuffix(".tf32").removesuffix(".ieee")


def _works(row: Mapping[str, Any], gpu: Gpu) -> list[Work] | None:
    """Of a dense case of one layer by an arm of bench.arms; None for others."""
    case, dtype = row["case"], _dtype(row)
    if case["L"] != 1 or case["packed"] or dtype is None:
        return None
    layer = costs.Layer(
        case["T"],
        case["B"],
        case["I"],
        case["H"],
        case["proj"],
        2 if case["bidirectional"] else 1,
        dtype,
        row["arm"].endswith(".tf32"),
        False,
        gpu,
    )
    names = row.get("pair") or [_variant(row)] * 2
    return costs.works(names if case["kind"] == "training" else names[:1], layer)


def fit(measured: Sequence[Measured], start: Table) -> Fitted:
    """The table under which the works' prices come nearest to what was measured.

    By least squares of relative errors over the terms that are not zero at the start. Rows that too
    few measurements speak of stay as they are.
    """
    measured = _enough(measured, start)
    files: dict[str, dict[str, None]] = {}
    for one in measured:
        for work in one.works:
            files.setdefault(work.row, {})[one.file] = None
    places = [(row, term) for row in files for term in _terms(start[row])]
    first = np.array([getattr(start[row], term) for row, term in places])
    table = dict(start)
    before = np.zeros(0)
    settled = not places
    for _ in range(ROUNDS if places else 0):
        # Of relative numbers: relative errors, and the pull to 1.
        matrix = np.array([_parts(one, places, table) for one in measured]) * first
        matrix = np.vstack([matrix, PULL * np.eye(len(places))])
        settled = np.array_equal(matrix, before)
        if settled:
            break
        before = matrix
        target = np.append(np.ones(len(measured)), np.full(len(places), PULL))
        numbers = first * (nonnegative(matrix, target - LEAST * matrix.sum(1)) + LEAST)
        for (row, term), number in zip(places, numbers, strict=True):
            new: dict[str, Any] = {term: float(number)}
            table[row] = table[row]._replace(**new)
    for row, names in files.items():
        table[row] = table[row]._replace(measured=", ".join(sorted(names)))
    return Fitted(table, settled)


def _enough(measured: Sequence[Measured], start: Table) -> list[Measured]:
    """Those of whose rows each has at least as many measurements as terms.

    Others would draw what is wrong with a prediction into the numbers of the rows beside it.
    """
    kept = list(measured)
    while True:
        times = Counter(row for one in kept for row in one.rows)
        few = {row for row, number in times.items() if number < len(_terms(start[row]))}
        if not few:
            return kept
        kept = [one for one in kept if not few & one.rows]


def _terms(row: Costs) -> list[str]:
    return [term for term in TERMS if getattr(row, term)]


def _parts(one: Measured, places: Sequence[tuple[str, str]], table: Table) -> list[float]:
    """How much of a measured time each number makes up, for a number of 1."""
    parts = dict.fromkeys(places, 0.0)
    for work in one.works:
        for term, count in zip(TERMS, costs.counts(work, table[work.row]), strict=True):
            if (work.row, term) in parts:
                parts[work.row, term] += count / one.microseconds
    return list(parts.values())


def report(measured: Sequence[Measured], table: Table, start: Table) -> str:
    """How far the table is from what was measured, by its rows and by variant."""
    lines = [_line("row", "times", "median error", "worst error")]
    for name, row in table.items():
        errors = [error_of(one, table) for one in measured if name in one.rows]
        floor = [t for t in _terms(start[name]) if _is_least(getattr(row, t), start[name], t)]
        if row.measured is None:
            said = f"predicted: {len(_terms(row))} terms"
        else:
            said = f"at the floor: {', '.join(floor)}" if floor else ""
        lines.append(_line(name, len(errors), *_middle_and_worst(errors), said))
    lines += ["", _line("variant", "times", "median error", "worst error")]
    for name in dict.fromkeys(one.name for one in measured):
        errors = [error_of(one, table) for one in measured if one.name == name]
        lines.append(_line(name, len(errors), *_middle_and_worst(errors)))
    return "\n".join(lines)


def _line(name: str, times: object, middle: str, worst: str, said: str = "") -> str:
    return f"{name:<30} {times:>5}  {middle:>12}  {worst:>11}  {said}".rstrip()


def _middle_and_worst(errors: Sequence[float]) -> tuple[str, str]:
    return (f"{statistics.median(errors):.1%}", f"{max(errors):.1%}") if errors else ("", "")


def _is_least(number: float, start: Costs, term: str) -> bool:
    return number <= 1.0001 * LEAST * float(getattr(start, term))


def error_of(one: Measured, table: Table) -> float:
    """Of an estimate, relative to what was measured."""
    said = sum(costs.price(work, table[work.row]) for work in one.works)
    return abs(said / one.microseconds - 1)


def text(table: Table) -> str:
    """The whole of _costs.py."""
    head = '''"""What works on a GPU take in microseconds; costs.py says what the columns are.

Written by `python -m bench.fit --write` from bench/predicted.py and bench/results. Behind each row
the files that it was fitted to, or None: it is predicted.
"""
# ruff: noqa: E501  names of files

# fmt: off
COSTS: dict[str, tuple[float, float, float, float, float, float, float, float, str | None]] = {
'''
    titles = "".join(f"{term:>10}" for term in TERMS)
    rows = [f"    # {'':<30}{titles}  measured"]
    for name, row in rounded(table).items():
        numbers = "".join(f"{number:>9}," for number in row[:-1])
        source = "None" if row.measured is None else json.dumps(row.measured)
        rows.append(f"    {json.dumps(name) + ':':<33}({numbers} {source}),")
    return head + "\n".join(rows) + "\n}\n"


def rounded(table: Table) -> dict[str, Costs]:
    """As it is written."""
    new: dict[str, dict[str, Any]] = {
        name: {term: float(f"{getattr(row, term):.4g}") for term in TERMS}
        for name, row in table.items()
    }
    return {name: row._replace(**new[name]) for name, row in table.items()}


def standing() -> dict[str, Costs]:
    """The table of _costs.py."""
    rows = runpy.run_path(str(FILE))["COSTS"] if FILE.exists() else {}
    return {name: Costs(*row) for name, row in rows.items()}


def is_written(table: Table) -> bool:
    """Whether _costs.py is the table, and as it would be written."""
    stands = standing()
    if not FILE.exists() or FILE.read_text(encoding="utf-8") != text(stands):
        return False
    return list(stands) == list(table) and all(
        row.measured == stands[name].measured
        and _apart(row, stands[name]) <= (CLOSE if row.measured else 0)
        for name, row in rounded(table).items()
    )


def _apart(row: Costs, other: Costs) -> float:
    """The worst of their terms, relative to the other."""
    pairs = [(getattr(row, term), getattr(other, term)) for term in TERMS]
    return float(max(abs(one / two - 1) if two else one for one, two in pairs))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.fit", description=(__doc__ or "").split(":")[0])
    parser.add_argument("files", nargs="*", type=Path, help="of one GPU; bench/results/*.json")
    parser.add_argument("--out", type=Path, help="a file for LSTM_FUSED_COSTS with what was fitted")
    parser.add_argument("--write", action="store_true", help="write lstm_fused/_costs.py")
    parser.add_argument("--check", action="store_true", help="exit 1 where it is another")
    args = parser.parse_args(argv)
    start = predicted()
    paths = args.files or sorted(RESULTS.glob("*.json"))
    try:
        # Where bench/results has several GPUs, the table stays that of its own.
        of = {n for row in standing().values() for n in (row.measured or "").split(", ")}
        measured = read(paths, () if args.files else of)
        if not measured and (args.files or args.out or not (args.write or args.check)):
            raise NothingToFit(
                f"none of {len(paths)} files has a time of a GPU that the model speaks of: run "
                "`python -m bench.gpu_check --stages scans,sweep --out FOLDER` on one, and name "
                "the file that it writes"
            )
    except NothingToFit as error:
        print(error, file=sys.stderr)
        return 2
    table, settled = fit(measured, start)
    print(report(measured, table, start))
    if not settled:
        print(
            f"which time of a step is the longer one still changes after {ROUNDS} rounds: the "
            "numbers are not to be trusted",
            file=sys.stderr,
        )
    if args.out:
        rows = {n: row._asdict() for n, row in rounded(table).items() if row.measured}
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if not settled and (args.write or args.check):
        return 1
    if args.write:
        FILE.write_text(text(table), encoding="utf-8")
    if args.check and not is_written(table):
        print(
            "lstm_fused/_costs.py is not what bench/predicted.py and the result files give: "
            "`python -m bench.fit --write` writes it",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
