"""Result files to figures and to the README's table.

    python -m bench.plot bench/results/*.json --out docs/plots
    python -m bench.plot bench/results/*.json --markdown

One figure answers one question: a group of cases at one place, forward or in training. torch's
own LSTM is always in it: it is the line at 1, with its own spread.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.results import Row, Staleness, newest, read

Figure = tuple[str, str, str]  # where, group, kind


def figures(rows: Iterable[Row]) -> dict[Figure, list[Row]]:
    """The rows of each figure, in the order of the file."""
    found: dict[Figure, list[Row]] = defaultdict(list)
    for row in rows:
        if row.ok:
            found[row.where, row.case["group"], row.case["kind"]].append(row)
    return dict(found)


def label(row: Row) -> str:
    """A case as one reads it on an axis: its name, and its dtype if it is not float32."""
    dtype = row.case["dtype"]
    return row.case["name"] + ("" if dtype == "float32" else f"\n{dtype}")


def draw(figure: Figure, rows: Sequence[Row], path: Path, stale: bool) -> None:
    """One figure: for each case the speed of every arm against torch's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    where, group, kind = figure
    cases = list(dict.fromkeys(row.case["id"] for row in rows))
    arms = list(dict.fromkeys(row.data["arm"] for row in rows))
    labels = {row.case["id"]: label(row) for row in rows}
    # Quartiles of an arm's time turned into speeds; the yardstick's own become its error bar.
    by_place = {(row.case["id"], row.data["arm"]): row for row in rows}
    width = 0.8 / len(arms)
    size = max(6.0, 1.5 + 0.95 * len(cases))
    plot, axes = pyplot.subplots(figsize=(size, 4.5), dpi=120, layout="constrained")
    for number, arm in enumerate(arms):
        places, heights, low, high = [], [], [], []
        for place, case in enumerate(cases):
            row = by_place.get((case, arm))
            if row is None or not row.data["speed"]:
                continue
            seconds, speed = row.data["seconds"], row.data["speed"]
            places.append(place + (number - (len(arms) - 1) / 2) * width)
            heights.append(speed)
            low.append(max(0.0, speed - speed * seconds["median"] / seconds["q3"]))
            high.append(max(0.0, speed * seconds["median"] / seconds["q1"] - speed))
        # On a logarithmic axis a bar has no natural foot: it stands on, or hangs from, torch's 1.
        grown = [height - 1.0 for height in heights]
        axes.bar(places, grown, width, bottom=1.0, yerr=[low, high], label=arm, capsize=2)
    axes.axhline(1.0, color="black", linewidth=1.0, linestyle="--", label="torch.nn.LSTM = 1")
    axes.set_xticks(range(len(cases)), [labels[case] for case in cases], rotation=30, ha="right")
    axes.set_ylabel("times as fast as torch.nn.LSTM")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}x")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title(f"{group}, {kind}: {where}" + (" (STALE)" if stale else ""), fontsize=10)
    axes.grid(axis="y", which="both", alpha=0.25)
    plot.legend(loc="outside lower center", ncols=4, fontsize=8)
    plot.savefig(path)
    pyplot.close(plot)


def markdown(rows: Sequence[Row], staleness: Staleness) -> str:
    """One table per figure, with the geometric mean and the worst case of each arm below it."""
    parts = []
    for (where, group, kind), members in figures(rows).items():
        arms = list(dict.fromkeys(row.data["arm"] for row in members))
        by_place = {(row.case["id"], row.data["arm"]): row for row in members}
        lines = [
            f"**{group}, {kind}**: {where}, torch {members[0].stamp['torch']}",
            "",
            "| case | T, B, I, H, L | " + " | ".join(arms) + " |",
            "|---|---|" + "---|" * len(arms),
        ]
        for row in {row.case["id"]: row for row in members}.values():
            case = row.case
            shape = ", ".join(str(case[letter]) for letter in "TBIHL")
            cells = [cell(by_place.get((case["id"], arm)), staleness) for arm in arms]
            name = label(row).replace("\n", " ")
            lines.append(f"| {name} | {shape} | " + " | ".join(cells) + " |")
        summary = [overall([row for row in members if row.data["arm"] == arm]) for arm in arms]
        lines.append("| all | | " + " | ".join(summary) + " |")
        parts.append("\n".join(lines))
    parts += refusals(rows)
    return "\n\n".join(parts) + "\n"


def cell(row: Row | None, staleness: Staleness) -> str:
    """Time, spread and speed of one arm, and a mark where the row is of older sources."""
    if row is None:
        return "–"
    speed = f", {row.data['speed']:.2f}x" if row.data["speed"] else ""
    return f"{row.milliseconds:.3g} ms ±{row.data['spread']:.0%}{speed}{staleness.mark(row)}"


def overall(rows: Sequence[Row]) -> str:
    """Geometric mean and worst of the speeds: no choosing of cases."""
    speeds = [row.data["speed"] for row in rows if row.data["speed"]]
    if not speeds:
        return "–"
    mean = math.exp(statistics.fmean(math.log(speed) for speed in speeds))
    return f"{mean:.2f}x, worst {min(speeds):.2f}x"


def refusals(rows: Iterable[Row]) -> list[str]:
    """What is wrong, and is therefore not timed."""
    failed = [row for row in rows if row.data["status"] == "failed"]
    lines = [
        f"- {row.data['arm']} on {row.case['id']}: {row.data['reason']} "
        f"(error {row.data['error']['ratio']:.2f} of what is allowed)"
        for row in failed
    ]
    return ["**Wrong, so not timed**\n\n" + "\n".join(lines)] if lines else []


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.plot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the figures")
    parser.add_argument("--format", choices=["png", "svg"], default="png")
    parser.add_argument("--markdown", action="store_true", help="print tables, draw nothing")
    args = parser.parse_args(argv)
    try:
        rows = newest(read(args.files))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    staleness = Staleness()
    if args.markdown:
        print(markdown(rows, staleness), end="")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    for figure, members in figures(rows).items():
        name = re.sub(r"[^a-z0-9]+", "-", "-".join(figure).lower()).strip("-")
        path = args.out / f"{name}.{args.format}"
        draw(figure, members, path, any(staleness.stale(row) for row in members))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
