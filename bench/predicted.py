"""What works on a GPU are predicted to take, in microseconds; costs.py says what the columns are.

By the heads of the kernels' files, and for torch's own LSTM by what others have published: see
NOTES.md. Written by hand, for an H100: bench.fit starts from here, whatever it has fitted before.
"""

# fmt: off
PREDICTED: dict[str, tuple[float, float, float, float, float, float, float, float]] = {
    #                                launch  read  wait  turn  product  fragments  streamed  round
    "cuda.decode":                   (  2.5, 0.33,  0.0,  0.0,     0.0,       0.0,      0.0,   0.0),
    "cuda.block forward":            (  2.5, 0.33,  0.0, 0.21,    0.69,      4.45,      0.0,   0.0),
    "cuda.block backward":           (  2.5, 0.33,  0.0, 0.23,    0.77,      4.45,      0.0,   0.0),
    "cuda.cluster forward":          (  2.5, 0.33, 0.37,  0.2,    0.57,      4.45,      0.0,   0.0),
    "cuda.cluster backward":         (  2.5, 0.33, 0.37, 0.15,     1.3,      4.45,      0.0,   0.0),
    "cuda.grid forward":             (  2.5, 0.33, 0.74, 0.34,    0.45,      4.45,     24.0,  0.12),
    "cuda.grid backward":            (  2.5, 0.33, 1.09, 0.27,    0.52,      4.45,     24.0,  0.18),
    "cuda.step":                     (  3.4, 0.18,  0.0,  0.0,    0.38,       0.0,      0.0,   0.0),
    "torch.native static forward":   (  5.0, 0.33,  0.0,  1.4,     1.6,       0.0,      0.0,   0.0),
    "torch.native static backward":  (  5.0, 0.33,  0.0,  2.0,     2.8,       0.0,      0.0,   0.0),
    "torch.native small forward":    (  5.0, 0.33,  0.0,  0.6,   250.0,       0.0,      0.0,   0.0),
    "torch.native small backward":   (  5.0, 0.33,  0.0,  0.9,   375.0,       0.0,      0.0,   0.0),
    "torch.native middling forward": (  5.0, 0.33,  0.0,  0.6,  1150.0,       0.0,      0.0,   0.0),
    "torch.native standard":         (  3.4, 0.18,  0.0,  0.0,    0.38,       0.0,      0.0,   0.0),
    "products":                      (  2.5, 0.33,  0.0,  0.0,    0.38,       0.0,      0.0,   0.0),
}
