"""Package lstm_fused: metadata is in pyproject.toml, the build recipe in lstm_fused/_build.py.

Where torch can be imported (pip --no-build-isolation) the C++ is compiled here and now. An isolated
build has no torch and makes a wheel of sources, which are compiled at first use.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

ROOT = pathlib.Path(__file__).resolve().parent
FAILURES = (BaseError, CCompilerError, RuntimeError, OSError, subprocess.CalledProcessError)


def load_recipe():
    # By path: importing the package would import torch.
    spec = importlib.util.spec_from_file_location("_build", ROOT / "lstm_fused" / "_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


class CleanBuildPy(build_py):
    """Start from an empty folder.

    setuptools leaves build/lib behind; a C++ source that was deleted since would still be packed
    from there, and compiled at first use.
    """

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(pathlib.Path(self.build_lib) / "lstm_fused", ignore_errors=True)
        super().run()


def plan_ahead_of_time(explicit):
    """What to compile now, or None. explicit: LSTM_FUSED_BUILD asks for it by name."""
    if importlib.util.find_spec("torch") is None:
        recipe.announce("no torch to build against, so the C++ is compiled at first use")
        return None
    try:
        recipe.check_tools()
        return recipe.make_plan(ROOT / "csrc")
    except recipe.CannotBuild as error:
        if explicit:
            raise SystemExit(f"lstm_fused: {error}") from error
        recipe.announce(f"not compiled ahead of time, because {error}")
        return None


def extension(plan, optional):
    """The module and its build_ext command; optional: a failure leaves a wheel of sources."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class Build(BuildExtension):
        def run(self):
            os.environ.update(recipe.build_environment())
            try:
                super().run()
            except (*FAILURES, recipe.CannotBuild) as error:
                if not optional:
                    raise
                recipe.announce(f"not compiled ahead of time, because the build failed: {error}")

        def build_extension(self, ext):
            folder = pathlib.Path(self.build_temp).resolve() / "cuda"
            objects, link = recipe.compile_cuda(plan, folder)
            ext.extra_objects += objects
            ext.extra_link_args += link
            super().build_extension(ext)

        def copy_extensions_to_source(self):
            super().copy_extensions_to_source()
            # An editable install: _load.py compares, so that edited sources are not shadowed.
            stamp = ROOT / "lstm_fused" / "_C.sources"
            stamp.write_text(recipe.source_hash(plan.csrc))

    module = CppExtension(
        "lstm_fused._C",
        [os.path.relpath(source, ROOT) for source in plan.host_sources],
        depends=[os.path.relpath(source, ROOT) for source in recipe.source_files(plan.csrc)],
        include_dirs=recipe.include_folders(plan),
        extra_compile_args=recipe.cxx_flags(plan),
        extra_link_args=list(recipe.LINK_FLAGS),
    )
    module.optional = optional
    return module, Build


def main():
    wanted = recipe.mode()
    plan = None if wanted == "off" else plan_ahead_of_time(explicit=wanted != "auto")
    modules, commands = [], {"build_py": CleanBuildPy}
    if plan is not None:
        module, commands["build_ext"] = extension(plan, optional=wanted == "auto")
        modules.append(module)
    setup(
        packages=[
            *find_packages(str(ROOT), include=["lstm_fused", "lstm_fused.*"]),
            "lstm_fused.csrc",
            "lstm_fused.examples",
        ],
        package_dir={"lstm_fused.csrc": "csrc", "lstm_fused.examples": "examples"},
        package_data={
            "lstm_fused": ["py.typed"],
            "lstm_fused.csrc": [f"**/*{suffix}" for suffix in recipe.SOURCE_SUFFIXES],
        },
        include_package_data=False,  # MANIFEST.in lists what the sdist holds, not the wheel
        ext_modules=modules,
        cmdclass=commands,
    )


main()
