"""The stages of bench.gpu_check, a module each: `run(report)`, in a process of its own."""
