"""The CUDA variants that a result file in bench/results/ proves for today's kernels.

None yet: no CUDA kernel of this library has run on a GPU.
"""

PROVEN: dict[str, tuple[str, ...]] = {}
