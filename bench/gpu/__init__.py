"""The parts of `python -m bench.gpu_check`, each a module with a `run(report)`."""
