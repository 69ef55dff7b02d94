"""A small C++ tree that builds in seconds: tests of the recipe need not wait for the real one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

# Two files of one name in two folders; plain C API, because pybind11 alone takes ten seconds.
FILES = {
    "common/answer.h": "#pragma once\nint first();\nint second();\n",
    "left/part.cpp": '#include "common/answer.h"\nint first() { return 40; }\n',
    "right/part.cpp": '#include "common/answer.h"\nint second() { return 2; }\n',
    "ops/module.cpp": """#include <Python.h>

#include "common/answer.h"

static PyObject* answer(PyObject*, PyObject*) { return PyLong_FromLong(first() + second()); }
static PyObject* file(PyObject*, PyObject*) { return PyUnicode_FromString(__FILE__); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, nullptr},
                                {"file", file, METH_NOARGS, nullptr},
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C",    nullptr, -1,     methods,
                                 nullptr,               nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
""",
}

# Loads as a user's program would, but from the tree in argv[1], and says what came of it.
PROGRAM = """
import pathlib, sys, warnings
from lstm_fused import _build, _load
_build.find_csrc = lambda: pathlib.Path(sys.argv[1])
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        module = _load.load()
seen = [w for w in seen if "lstm_fused" in str(w.message)]
state = _load.state()
print("answer", module and module.answer())
print("origin", state.origin)
print("why_not", state.why_not)
print("notes", *state.notes)
print("warnings", len(seen), *(w.message for w in seen))
print("file", module and module.__file__)
print("source", module and module.file())
"""

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write(folder: pathlib.Path) -> pathlib.Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def environment(cache: pathlib.Path, **changes: str) -> dict[str, str]:
    """This environment without our settings, with `cache` as the cache, and then `changes`."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("LSTM_FUSED_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**ours, "LSTM_FUSED_CACHE": str(cache), "PYTHONPATH": path, **changes}


def start(csrc: pathlib.Path, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(csrc)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, cwd="/")


def finish(process: subprocess.Popen[str]) -> dict[str, str]:
    """What PROGRAM printed, by its first words, and "stderr"."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in out.splitlines()}
    return {**said, "stderr": err}


def load(csrc: pathlib.Path, env: dict[str, str]) -> dict[str, str]:
    return finish(start(csrc, env))
