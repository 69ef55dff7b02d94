"""Limits on the machine code of the CUDA kernels: limits.toml read, and kernels held against it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import sass
from lstm_fused import _build

LIMITS = Path(__file__).with_name("limits.toml")
# What a limit may be of, and in words.
RESOURCES = {
    "registers": "registers",
    "stack": "bytes of stack",
    "local": "bytes of local memory",
    "shared": "bytes of shared memory",
}
WORDS = {*RESOURCES, "require", "least", "forbid", "from", "below", "kernels", "reason"}


@dataclass(frozen=True, eq=False)
class Limit:
    """One limit: of a resource, or on how often an instruction occurs."""

    what: str  # a key of RESOURCES, or a regular expression of instructions
    least: int
    most: int | None  # None: any number
    architectures: range  # 90 is sm_90, sm_90a, ...
    kernels: str  # regular expression: the names that it holds for
    reason: str

    def complaint(self, kernel: sass.Kernel) -> str | None:
        """What is wrong with the kernel, or None."""
        found: list[str] = []
        if self.what in RESOURCES:
            count, unit = getattr(kernel.usage, self.what), RESOURCES[self.what]
        else:
            # Whole words, so that RED is not REDUX; modifiers may follow: LDG is LDG.E.128, too.
            word = re.compile(f"(?:{self.what})(?![A-Z0-9])")
            found = [text for text in kernel.code.text if word.match(text)]
            count, unit = len(found), f"of {self.what}"
        if count < self.least:
            return f"{count} {unit}, at least {self.least}: {self.reason}"
        if self.most is not None and count > self.most:
            first = f" (the first: {found[0]})" if found else ""
            return f"{count} {unit}, at most {self.most}{first}: {self.reason}"
        return None


@dataclass(frozen=True, eq=False)
class Entry:
    """The limits of the kernels with such a name."""

    name: str  # regular expression, found anywhere in a demangled name
    limits: list[Limit]


@dataclass(frozen=True)
class Limits:
    """The file: limits of all kernels, then entries of which a kernel's first match counts."""

    everywhere: list[Limit]
    entries: list[Entry]


def parse(text: str) -> Limits:
    """The limits in a TOML text; a ValueError says what is wrong with it."""
    content = tomllib.loads(text)
    if unknown := content.keys() - {"everywhere", "kernel"}:
        raise ValueError(f"limits.toml: [[everywhere]] and [[kernel]] are known, got {unknown}")
    entries = []
    for table in content.get("kernel", []):
        if table.keys() != {"name", "limits"}:
            raise ValueError(f"limits.toml: a kernel has a name and limits, got {table}")
        entries.append(Entry(table["name"], [_limit(given) for given in table["limits"]]))
    return Limits([_limit(given) for given in content.get("everywhere", [])], entries)


def _limit(given: dict[str, Any]) -> Limit:
    if not str(given.get("reason", "")).strip():
        raise ValueError(f"limits.toml: a limit needs a reason, got {given}")
    kinds = given.keys() & {*RESOURCES, "require", "forbid"}
    if len(kinds) != 1 or given.keys() - WORDS or ("require" in kinds) != ("least" in given):
        raise ValueError(f"limits.toml: a limit is one of resource, require, forbid, got {given}")
    (kind,) = kinds
    counted = kind in ("require", "forbid")
    return Limit(
        what=given[kind] if counted else kind,
        least=given.get("least", 0),
        most={"require": None, "forbid": 0}.get(kind, None if counted else given[kind]),
        architectures=range(given.get("from", 0), given.get("below", 1000)),
        kernels=given.get("kernels", ""),
        reason=given["reason"],
    )


def violations(kernels: Sequence[sass.Kernel], limits: Limits) -> list[str]:
    """A sentence for everything that is not as the limits say."""
    said: list[str] = []
    used: set[Entry | Limit] = set()
    for kernel, name in zip(kernels, names(kernels), strict=True):
        entry = next((entry for entry in limits.entries if re.search(entry.name, name)), None)
        here = f"{name} on {kernel.arch}"
        if entry is None:
            said.append(f"{here}: limits.toml has no entry that matches it")
            continue
        used.add(entry)
        own = [limit for limit in entry.limits if _holds(limit, kernel, name)]
        replaced = {limit.what for limit in own if limit.what in RESOURCES}
        general = [limit for limit in limits.everywhere if _holds(limit, kernel, name)]
        all_of_them = [limit for limit in general if limit.what not in replaced] + own
        used.update(all_of_them)
        for limit in all_of_them:
            if complaint := limit.complaint(kernel):
                said.append(f"{here}: {complaint}")
        if missing := RESOURCES.keys() - {limit.what for limit in all_of_them}:
            said.append(f"{here}: limits.toml does not limit {', '.join(sorted(missing))}")
    return said + _stale(limits, used)


def _holds(limit: Limit, kernel: sass.Kernel, name: str) -> bool:
    number = _build.number(kernel.arch)
    return number in limit.architectures and bool(re.search(limit.kernels, name))


def _stale(limits: Limits, used: set[Entry | Limit]) -> list[str]:
    """What nothing has come under: a kernel was renamed or is gone."""
    said = []
    places = [("everywhere", limits.everywhere)]
    for entry in limits.entries:
        if entry in used:
            places.append((repr(entry.name), entry.limits))
        else:
            said.append(f"limits.toml: {entry.name!r} is the first match of no kernel")
    for place, some in places:
        for limit in some:
            if limit not in used:
                said.append(f"limits.toml: {place}: the limit on {limit.what} holds for no kernel")
    return said


def names(kernels: Iterable[sass.Kernel]) -> list[str]:
    """As in the source, without parameters."""
    return sass.demangle(kernel.symbol for kernel in kernels)


def table(kernels: Sequence[sass.Kernel]) -> list[str]:
    """For each architecture: how many kernels, and the one with the most registers."""
    lines = []
    named = list(zip(kernels, names(kernels), strict=True))
    for arch in sorted({kernel.arch for kernel in kernels}, key=_build.number):
        here = [(kernel.usage.registers, name) for kernel, name in named if kernel.arch == arch]
        registers, name = max(here)
        lines.append(f"{arch:8} {len(here):3} kernels, at most {registers:3} registers: {name}")
    return lines
