"""A command with a time limit, its output line by line, and nothing left running behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 1.0
GRACE_SECONDS = 5.0  # between asking a process to end and killing it
MOST_LINES = 20_000


@dataclass
class Ended:
    """How a command ended."""

    code: int | None = None  # None: stopped at its limit
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)  # the first MOST_LINES of its output

    @property
    def last(self) -> str:
        """The last line that says something: of a traceback, the error."""
        return next((line for line in reversed(self.lines) if line.strip()), "no output")


def run(
    command: Sequence[str],
    seconds: float,
    *,
    say: Callable[[str], None] = lambda _: None,
    poll: Callable[[], None] = lambda: None,
    env: Mapping[str, str] | None = None,
    group: bool = False,
) -> Ended:
    """Run the command at the root of the checkout for at most so many seconds.

    say    gets every line of its output; poll is called every second meanwhile
    env    added to the environment
    group  give it a process group of its own, and end all of that with it. A stage has one; what a
           stage starts stays in it, so that nothing outlives the stage.
    """
    ended, start = Ended(), time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        process_group=0 if group else None,
    )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if len(ended.lines) < MOST_LINES:
                ended.lines.append(line.rstrip("\n"))
            say(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while time.monotonic() < start + seconds:
            try:
                left = start + seconds - time.monotonic()
                ended.code = process.wait(max(0.01, min(POLL_SECONDS, left)))
                break
            except subprocess.TimeoutExpired:
                poll()
    finally:
        _end(process, group)
    reader.join(GRACE_SECONDS)
    poll()
    ended.seconds = time.monotonic() - start
    return ended


def _end(process: subprocess.Popen[str], group: bool) -> None:
    """End the process, if it runs, and what it left of its group."""

    def send(number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)

    if process.poll() is None:
        send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    send(signal.SIGKILL)
    process.wait()
