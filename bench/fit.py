"""Fit the table of costs (lstm_fused/costs.py): `python -m bench.fit`. See NOTES.md.

To figures of whole scans (stage `scans` of bench.gpu_check) and to rows of dense layers, of ours
and of torch's (stage `sweep`, bench.run), all of one GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu.scans import figure_of
from bench.machine import COSTS as FILE
from bench.results import SCHEMA
from bench.run import RESULTS
from lstm_fused import costs
from lstm_fused.costs import TERMS, Costs, Work

Table = Mapping[str, Costs]

# Each number is drawn to the one that stands in the table, like by a measurement of this weight,
# where those of times have 1: what no time depends on stays as it is.
PULL = 0.01
# Nor does it fall below this part of that one: no term is ever lost.
LEAST = 0.01
# Which of two times of a step is the longer one depends on the numbers; few cases change sides.
ROUNDS = 20


class NothingToFit(Exception):
    """The files have nothing that a table could be fitted to; the message says why."""


class Measured(NamedTuple):
    """A time and what it is the sum of."""

    name: str  # of the variant
    works: Sequence[Work]
    microseconds: float
    file: str


def read(paths: Sequence[Path]) -> list[Measured]:
    """What the files have. Raises NothingToFit, also where they are of several GPUs."""
    found: list[Measured] = []
    devices: dict[str, str] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stamp = content["stamp"]
            if stamp["schema"] != SCHEMA:
                raise NothingToFit(f"{path}: schema must be {SCHEMA}, got {stamp['schema']}")
            if stamp["capability"] is None:
                continue
            new = list(_measurements(content, path.name))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NothingToFit(f"{path} is not a result file of a GPU: {error!r}") from error
        if new:
            devices[stamp["device"]] = path.name
        found += new
    if len(devices) > 1:
        several = " and ".join(f"{file} of {device}" for device, file in devices.items())
        raise NothingToFit(f"a table is of one GPU, name the files of one: {several}")
    if not found:
        raise NothingToFit(
            f"none of {len(paths)} files has a time of a GPU that the model speaks of: run stages "
            "scans and sweep of bench.gpu_check on one"
        )
    return found


def _measurements(content: Mapping[str, Any], file: str) -> Iterator[Measured]:
    multiprocessors = content["stamp"]["multiprocessors"]
    for figures in content.get("details", {}).get("scans", {}).values():
        for name, value in figures.items():
            figure = figure_of(name, multiprocessors)
            if figure and value["value"]:
                variant = ".".join(name.split(".")[:2])
                yield Measured(variant, [figure.work], value["value"] * figure.T, file)
    for row in content["rows"]:
        if row["status"] != "ok" or "seconds" not in row:
            continue
        works = _works(row, multiprocessors)
        if works:
            yield Measured(_variant(row), works, row["seconds"]["median"] * 1e6, file)


def _variant(row: Mapping[str, Any]) -> str:
    if row["family"] == "torch":
        return costs.NATIVE
    return str(row["arm"]).removesuffix(".tf32").removesuffix(".ieee")


def _works(row: Mapping[str, Any], multiprocessors: int) -> list[Work] | None:
    """Of a dense case of one layer by an arm of bench.arms; None for others."""
    case = row["case"]
    if case["L"] != 1 or case["packed"]:
        return None
    layer = costs.Layer(
        case["T"],
        case["B"],
        case["I"],
        case["H"],
        case["proj"],
        2 if case["bidirectional"] else 1,
        getattr(torch, row["dtype"]),
        row["arm"].endswith(".tf32"),
        False,
        multiprocessors,
    )
    return costs.works(_variant(row), layer, case["kind"] == "training")


def fit(measured: Sequence[Measured], start: Table) -> dict[str, Costs]:
    """The table under which the works' prices come nearest to what was measured.

    By least squares of relative errors over the terms that are not zero at the start. Rows that no
    measurement speaks of stay as they are.
    """
    files: dict[str, list[str]] = {}
    for one in measured:
        for work in one.works:
            names = files.setdefault(work.row, [])
            if one.file not in names:
                names.append(one.file)
    places = [(row, term) for row in files for term in TERMS if getattr(start[row], term)]
    first = np.array([getattr(start[row], term) for row, term in places])
    table = dict(start)
    before = np.zeros(0)
    for _ in range(ROUNDS):
        # Of relative numbers: relative errors, and the pull to 1.
        matrix = np.array([_parts(one, places, table) for one in measured]) * first
        matrix = np.vstack([matrix, PULL * np.eye(len(places))])
        if np.array_equal(matrix, before):
            break
        before = matrix
        target = np.append(np.ones(len(measured)), np.full(len(places), PULL))
        numbers = first * (nonnegative(matrix, target - LEAST * matrix.sum(1)) + LEAST)
        for (row, term), number in zip(places, numbers, strict=True):
            new: dict[str, Any] = {term: float(number)}
            table[row] = table[row]._replace(**new)
    for row, names in files.items():
        table[row] = table[row]._replace(measured=", ".join(names))
    return table


def _parts(one: Measured, places: Sequence[tuple[str, str]], table: Table) -> list[float]:
    """How much of a measured time each number makes up, for a number of 1."""
    parts = dict.fromkeys(places, 0.0)
    for work in one.works:
        for term, count in zip(TERMS, costs.counts(work, table[work.row]), strict=True):
            if (work.row, term) in parts:
                parts[work.row, term] += count / one.microseconds
    return list(parts.values())


def nonnegative(matrix: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """The x >= 0 for which matrix @ x is nearest to the target.

    By active sets (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23): free the
    number that helps most, solve for the free ones, and hold those at 0 that would fall below.
    """
    q, matrix = np.linalg.qr(matrix)  # a triangle has the same answer, and few rows
    target = q.T @ target
    x = np.zeros(matrix.shape[1])
    free = np.zeros(len(x), dtype=bool)
    enough = 1e-12 * float(np.linalg.norm(matrix.T @ target))
    for _ in range(3 * len(x)):  # where rounding frees a number again and again
        gain = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if free.all() or gain.max() <= enough:
            break
        free[gain.argmax()] = True
        while True:
            wanted = np.zeros(len(x))
            wanted[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
            below = free & (wanted <= 0)
            if not below.any():
                break
            steps = np.full(len(x), np.inf)
            steps[below] = x[below] / np.maximum(x[below] - wanted[below], 1e-300)
            x = x + steps.min() * (wanted - x)
            free[steps.argmin()] = False
            x[~free] = 0
        x = wanted
    return x


def report(measured: Sequence[Measured], table: Table) -> str:
    """How far the table is from what was measured, by variant."""
    lines = [f"{'variant':<14} {'times':>5}  median error   worst error"]
    for name in dict.fromkeys(one.name for one in measured):
        errors = [error_of(one, table) for one in measured if one.name == name]
        middle, worst = statistics.median(errors), max(errors)
        lines.append(f"{name:<14} {len(errors):>5}  {middle:>11.1%}  {worst:>11.1%}")
    return "\n".join(lines)


def error_of(one: Measured, table: Table) -> float:
    """Of an estimate, relative to what was measured."""
    said = sum(costs.price(work, table[work.row]) for work in one.works)
    return abs(said / one.microseconds - 1)


def text(table: Table) -> str:
    """The whole of _costs.py."""
    head = '''"""What works on a GPU take in microseconds; costs.py says what the columns are.

Written by `python -m bench.fit --write`. Behind each row the file that it was fitted to, or None:
it is predicted, by the heads of the kernels' files and bench/NOTES.md.
"""
# ruff: noqa: E501  names of files

# fmt: off
COSTS: dict[str, tuple[float, float, float, float, float, float, str | None]] = {
'''
    titles = "".join(f"{term:>10}" for term in TERMS)
    rows = [f"    # {'':<30}{titles}  measured"]
    for name, row in table.items():
        numbers = "".join(f"{_rounded(number):>9}," for number in row[:-1])
        source = "None" if row.measured is None else json.dumps(row.measured)
        rows.append(f"    {json.dumps(name) + ':':<33}({numbers} {source}),")
    return head + "\n".join(rows) + "\n}\n"


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.fit", description=(__doc__ or "").split(":")[0])
    parser.add_argument("files", nargs="*", type=Path, help="of one GPU; bench/results/*.json")
    parser.add_argument("--out", type=Path, help="a file for LSTM_FUSED_COSTS with what was fitted")
    parser.add_argument("--write", action="store_true", help="write lstm_fused/_costs.py")
    args = parser.parse_args(argv)
    start = {name: Costs(*row) for name, row in costs.COSTS.items()}
    try:
        measured = read(args.files or sorted(RESULTS.glob("*.json")))
    except NothingToFit as error:
        print(error, file=sys.stderr)
        return 2
    table = fit(measured, start)
    print(report(measured, table))
    fitted = {name: row for name, row in table.items() if row != start[name]}
    print(f"still predicted: {', '.join(n for n, r in table.items() if not r.measured) or 'none'}")
    if args.out:
        rows = {
            name: {term: _rounded(getattr(row, term)) for term in TERMS}
            | {"measured": row.measured}
            for name, row in fitted.items()
        }
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.write:
        FILE.write_text(text(table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
