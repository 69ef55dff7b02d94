"""What works on a GPU take in microseconds; costs.py says what the columns are.

Written by `python -m bench.fit --write` from bench/predicted.py and bench/results. Behind each row
the files that it was fitted to, or None: it is predicted.
"""
# ruff: noqa: E501  names of files

# fmt: off
COSTS: dict[str, tuple[float, float, float, float, float, float, float, float, str | None]] = {
    #                                   launch      read      wait      turn   product fragments  streamed     round  measured
    "cuda.decode":                   (      2.5,     0.33,      0.0,      0.0,      0.0,      0.0,      0.0,      0.0, None),
    "cuda.block forward":            (      2.5,     0.33,      0.0,     0.21,     0.69,     4.45,      0.0,      0.0, None),
    "cuda.block backward":           (      2.5,     0.33,      0.0,     0.23,     0.77,     4.45,      0.0,      0.0, None),
    "cuda.cluster forward":          (      2.5,     0.33,     0.37,      0.2,     0.57,     4.45,      0.0,      0.0, None),
    "cuda.cluster backward":         (      2.5,     0.33,     0.37,     0.15,      1.3,     4.45,      0.0,      0.0, None),
    "cuda.grid forward":             (      2.5,     0.33,     0.74,     0.34,     0.45,     4.45,     24.0,     0.12, None),
    "cuda.grid backward":            (      2.5,     0.33,     1.09,     0.27,     0.52,     4.45,     24.0,     0.18, None),
    "cuda.step":                     (      3.4,     0.18,      0.0,      0.0,     0.38,      0.0,      0.0,      0.0, None),
    "torch.native static forward":   (      5.0,     0.33,      0.0,      1.4,      1.6,      0.0,      0.0,      0.0, None),
    "torch.native static backward":  (      5.0,     0.33,      0.0,      2.0,      2.8,      0.0,      0.0,      0.0, None),
    "torch.native small forward":    (      5.0,     0.33,      0.0,      0.6,    250.0,      0.0,      0.0,      0.0, None),
    "torch.native small backward":   (      5.0,     0.33,      0.0,      0.9,    375.0,      0.0,      0.0,      0.0, None),
    "torch.native middling forward": (      5.0,     0.33,      0.0,      0.6,   1150.0,      0.0,      0.0,      0.0, None),
    "torch.native standard":         (      3.4,     0.18,      0.0,      0.0,     0.38,      0.0,      0.0,      0.0, None),
    "products":                      (      2.5,     0.33,      0.0,      0.0,     0.38,      0.0,      0.0,      0.0, None),
}
