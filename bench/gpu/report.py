"""What a stage has found so far. The stage's process writes it; bench.gpu_check reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

OK, FAILED, SKIPPED, OUT_OF_TIME = "ok", "failed", "skipped", "out of time"


class Report:
    """Passed to the `run(report)` of a stage.

    device   "cuda", or "cpu": walk the same path where there is no GPU
    options  "filter": a regex for the ids of cases; "tests": an expression for pytest -k;
             "out": folder of the result files
    rows     rows of a result file, as bench.run writes them
    checks   what was found right or wrong, with the variant that it speaks of, if of one
    details  anything else that can be written as JSON
    stamp    set by the first stage only
    """

    def __init__(self, path: Path, device: str, end: float, options: dict[str, Any]) -> None:
        self.device, self.options = device, options
        self.rows: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}
        self.stamp: dict[str, Any] | None = None
        self.result = OK
        self.reason: str | None = None
        self._path, self._end = path, end

    def left(self) -> float:
        """Seconds until the stage should have ended by itself; at most 0 when it is late."""
        return self._end - time.time()

    def say(self, text: str) -> None:
        """A line for the terminal and the log."""
        print(text, flush=True)

    def check(self, name: str, wrong: str | None, *, variant: str = "", case: str = "") -> None:
        """One thing that was checked: wrong says what is not right, None that all is."""
        result = OK if wrong is None else f"{FAILED}: {wrong}"
        self.checks.append({"check": name, "variant": variant, "case": case, "result": result})
        if wrong is not None:
            self.result = FAILED
            self.say(" ".join(filter(None, [name, variant, case, result])))

    def put(self, name: str, value: Any) -> None:
        """One of the details, saved at once."""
        self.details[name] = value
        self.save()

    def skip(self, reason: str) -> None:
        """Nothing could be done here, and that is no fault."""
        self._end_with(SKIPPED, reason)

    def fail(self, reason: str) -> None:
        """The stage as a whole went wrong."""
        self._end_with(FAILED, reason)

    def cut(self, reason: str) -> None:
        """Time ran out: what there is counts, and the reason says what is missing."""
        self._end_with(OUT_OF_TIME, reason)

    def _end_with(self, result: str, reason: str) -> None:
        if self.result != FAILED:  # nothing makes up for a failure
            self.result, self.reason = result, reason
        elif self.reason is None:
            self.reason = reason
        self.say(f"{result}: {reason}")

    def in_time(self, items: Iterable[Item], what: str = "cases") -> Iterator[Item]:
        """The items, one after another while there is time; what came before is saved."""
        todo = list(items)
        for number, item in enumerate(todo):
            if self.left() <= 0:
                self.cut(f"{number} of {len(todo)} {what} done")
                return
            yield item
            self.save()

    def save(self) -> None:
        """Write everything, in one piece or not at all."""
        names = ("rows", "checks", "details", "stamp", "result", "reason")
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({name: getattr(self, name) for name in names}))
        part.replace(self._path)
