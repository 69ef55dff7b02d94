"""Package lstm_fused: metadata is in pyproject.toml, the build recipe in lstm_fused/_build.py."""

import importlib.util
import pathlib

from setuptools import setup

ROOT = pathlib.Path(__file__).parent
# Loaded by path: importing the package would import torch, which an isolated build has not got.
spec = importlib.util.spec_from_file_location("_build", ROOT / "lstm_fused" / "_build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

setup(**build.setup_arguments(ROOT))
