"""One stage, in the process that bench.gpu_check starts for it.

    python -m bench.gpu <module> <file> <device> <end> <options>

What goes wrong ends the process with a traceback; the file then holds what the stage had reported.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path

from bench.gpu.report import Report


def main(module: str, path: str, device: str, end: str, options: str) -> None:
    # As an exception, so that a stage that waits for a process of its own takes that with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by bench.gpu_check"))
    report = Report(Path(path), device, float(end), json.loads(options))
    try:
        importlib.import_module(module).run(report)
    finally:
        report.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
