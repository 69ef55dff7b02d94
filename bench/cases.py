"""What is measured: named shapes, each with the reason why it is here.

Letters: T steps, B batch, I input, H hidden, L layers; float32 where nothing is said.
"""
# ruff: noqa: E741  I is the house letter of the input size

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["forward", "training", "step"]


@dataclass(frozen=True)
class Case:
    """One row of a result file: a shape and what is done with it.

    forward   the whole sequence without gradients
    training  forward and the gradients of x and of every parameter
    step      T = 1 with a given state, without gradients: streaming, decoding, acting
    """

    group: str  # cases of one group are one figure
    name: str
    T: int
    B: int
    I: int
    H: int
    L: int = 1
    bidirectional: bool = False
    proj: int = 0
    dtype: str = "float32"
    kind: Kind = "forward"
    packed: bool = False  # a PackedSequence with random lengths of at most T

    @property
    def id(self) -> str:
        """Unique name, as `--filter` sees it."""
        return "/".join([self.group, self.name, self.dtype, self.kind])

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}


def both(cases: list[Case]) -> list[Case]:
    """Each case forward and in training."""
    return [replace(case, kind=kind) for case in cases for kind in ("forward", "training")]


def _cpu_dense() -> list[Case]:
    shapes = [
        ("keras", 120, 32, 16, 32),  # the hello-world model of the demo
        ("b1h64", 100, 1, 64, 64),  # one stream, a small model
        ("b32h128", 100, 32, 128, 128),
        ("b64h256", 50, 64, 256, 256),
        ("b32h512", 100, 32, 512, 512),
        ("b64h1024", 25, 64, 1024, 1024),  # weights do not stay in L3
        ("b1h256", 200, 1, 256, 256),
        ("t1000h128", 1000, 16, 64, 128),  # long: saved gates go to DRAM
    ]
    dense = [Case("cpu-dense", name, T, B, I, H) for name, T, B, I, H in shapes]
    dense += [
        Case("cpu-dense", "b32h128x2", 100, 32, 128, 128, L=2),
        Case("cpu-dense", "b64h256x2", 50, 64, 256, 256, L=2),
        Case("cpu-dense", "b32h128bi", 100, 32, 128, 128, bidirectional=True),
        Case("cpu-dense", "b64h256bi", 50, 64, 256, 256, bidirectional=True),
    ]
    return both(dense)


def cpu() -> list[Case]:
    """Shapes on which nn.LSTM, its native path and onnxruntime were measured before we began."""
    dense = _cpu_dense()
    by_name = {case.name: case for case in dense if case.kind == "forward"}
    few = [by_name[name] for name in ("keras", "b32h128", "b64h256")]
    step = [Case("cpu-step", f"h{H}", 1, 1, H, H, kind="step") for H in (128, 256, 512, 1024)]
    step += [Case("cpu-step", "h512x2", 1, 1, 512, 512, L=2, kind="step")]  # EnCodec, streaming
    # So small that only Python and the dispatcher are measured.
    overhead = both([Case("cpu-overhead", "h8", 1, 1, 8, 8)])
    packed = [
        replace(by_name[name], group="cpu-packed", packed=True)
        for name in ("keras", "b32h128", "t1000h128")
    ]
    half = [
        replace(case, group="cpu-half", dtype=dtype)
        for case in [*few, by_name["b1h256"]]
        for dtype in ("bfloat16", "float16")
    ]
    half_step = [
        replace(case, group="cpu-half", dtype=dtype)
        for case in step
        if case.name in ("h256", "h1024")
        for dtype in ("bfloat16", "float16")
    ]
    double = [replace(case, group="cpu-float64", dtype="float64") for case in few]
    proj = [replace(case, group="cpu-proj", proj=case.H // 2) for case in few]
    return dense + step + overhead + both(packed) + both(half) + half_step + double + proj


def _gpu_flashrnn() -> list[Case]:
    """FlashRNN's published sweep: I = H = 768, bf16."""
    batch = [("b", B, 1024) for B in (16, 2, 8, 32, 64, 128, 256)]
    length = [("t", 16, T) for T in (256, 512, 1024, 2048)]
    return [
        Case(f"flashrnn-{axis}", f"t{T}b{B}h768", T, B, 768, 768, dtype="bfloat16")
        for axis, B, T in batch + length
    ]


def _gpu_deepbench() -> list[Case]:
    """Baidu DeepBench's LSTM list, fp16: (H, T) with the batches for training and for serving."""
    training = [
        (512, 25, (16, 32, 64, 128)),
        (1024, 25, (16, 32, 64, 128)),
        (2048, 25, (16, 32, 64, 128)),
        (4096, 25, (16, 32, 64, 128)),
        (1536, 50, (8, 16, 32)),
        (256, 150, (16, 32, 64)),
    ]
    serving = [
        (H, T, (1, 2, 4)) for H, T in ((512, 25), (1024, 25), (2048, 25), (1536, 50), (256, 150))
    ]

    def cases(rows: Sequence[tuple[int, int, tuple[int, ...]]], kind: Kind) -> list[Case]:
        return [
            Case("deepbench", f"t{T}b{B}h{H}", T, B, H, H, dtype="float16", kind=kind)
            for H, T, batches in rows
            for B in batches
        ]

    return cases(training, "training") + cases(serving, "forward")


def _gpu_small_h() -> list[Case]:
    """The 20 LSTM rows on which PyTorch chose cuDNN's small-H algorithm; some are far off."""
    rows = [
        (1125, 44, 40, 160, 1), (1709, 8, 40, 104, 4), (1892, 47, 104, 88, 4),
        (2560, 3, 368, 40, 4), (2091, 7, 320, 152, 4), (3854, 16, 112, 128, 1),
        (2058, 62, 16, 168, 1), (5005, 8, 80, 128, 4), (1314, 20, 344, 32, 3),
        (2721, 6, 128, 72, 1), (3047, 6, 104, 40, 1), (5654, 5, 232, 64, 4),
        (5895, 1, 288, 152, 4), (3401, 47, 16, 56, 4), (1981, 45, 56, 152, 4),
        (5826, 1, 200, 160, 4), (3095, 9, 16, 152, 4), (1252, 12, 304, 192, 1),
        (3717, 45, 24, 80, 3), (1212, 55, 56, 112, 4),
    ]  # fmt: skip
    return [
        Case("small-h", f"t{T}b{B}i{I}h{H}x{L}", T, B, I, H, L=L, dtype=dtype)
        for dtype in ("float16", "float32")
        for T, B, I, H, L in rows
    ]


def _gpu_models() -> list[Case]:
    """Layers of models that people run."""
    half = {"dtype": "float16"}
    models: list[tuple[str, int, int, int, int, dict[str, Any]]] = [
        # MLPerf RNN-T: 16.7 s of audio, frames of 10 ms stacked by 3, then by 2.
        ("rnnt-pre", 557, 192, 256, 1024, {"L": 2, **half}),
        ("rnnt-post", 278, 192, 2048, 1024, {"L": 3, **half}),
        # The prediction network reads text; 100 characters is our guess of an utterance.
        ("rnnt-prediction", 100, 192, 512, 512, {"L": 2, **half}),
        ("gnmt-encoder0", 50, 128, 1024, 1024, {"bidirectional": True, **half}),
        ("gnmt-decoder", 50, 128, 1024, 1024, {"L": 4, **half}),
        ("pyannote-default", 589, 32, 60, 128, {"L": 2, "bidirectional": True}),
        ("pyannote-b1", 589, 1, 60, 128, {"L": 4, "bidirectional": True}),
        ("pyannote-b32", 589, 32, 60, 128, {"L": 4, "bidirectional": True}),
        ("encodec-1s", 75, 1, 512, 512, {"L": 2}),
        ("encodec-30s", 2250, 1, 512, 512, {"L": 2}),
        ("encodec-b16", 75, 16, 512, 512, {"L": 2}),  # training: crops of a second
        ("awd-lstm", 70, 64, 400, 1152, {}),
        ("awd-lstm-inner", 70, 64, 1152, 1152, {}),
        ("awd-lstm-last", 70, 64, 1152, 400, {}),
        ("awd-lstm-1150", 70, 64, 400, 1150, {}),  # H % 8 != 0
        ("guitar-amp", 65535, 2, 1, 24, {"L": 3}),  # the most steps that cuDNN takes
    ]
    return [Case("models", name, T, B, I, H, **more) for name, T, B, I, H, more in models]


def _gpu_grids() -> list[Case]:
    """fastrnns, flashlstm over T, then haste's and FastLSTM's grids, thinned out."""
    flash = [
        Case("flashlstm-t", f"t{T}", T, 32, 1024, 1024, dtype="bfloat16")
        for T in (64, 256, 1024, 2048, 8192)
    ]
    fastrnns = [
        Case("fastrnns", "default", 100, 64, 512, 512),
        Case("fastrnns", "layers2", 100, 64, 512, 512, L=2),
    ]
    fast = [_fastlstm(256, B, H) for B in (4, 32, 128) for H in (64, 128, 256, 512, 1024, 2048)]
    return fastrnns + flash + fast + _haste(256)


def _gpu_rest_of_grids() -> list[Case]:
    """What is between and around the points of the thinned grids, the most telling first."""
    fast = [
        _fastlstm(T, B, H)
        for T in (64, 128, 512, 1024)
        for B in (4, 8, 16, 32, 64, 128)
        for H in (64, 128, 256, 512, 1024, 2048)
    ]
    fast += [_fastlstm(256, B, H) for B in (8, 16, 64) for H in (64, 128, 256, 512, 1024, 2048)]
    return fast + _haste(64) + _haste(128) + _haste(512)


def _fastlstm(T: int, B: int, H: int) -> Case:
    name = f"b{B}h{H}" if T == 256 else f"t{T}b{B}h{H}"
    return Case("fastlstm", name, T, B, H, H, dtype="float16")


def _haste(I: int) -> list[Case]:
    """haste's grid at one of its input sizes."""
    return [
        Case("haste", f"n{B}h{H}" if I == 256 else f"n{B}c{I}h{H}", 50, B, I, H)
        for B in (1, 16, 32, 64, 128)
        for H in (128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)
    ]


def _gpu_ugly() -> list[Case]:
    """Sizes that no tile divides."""
    shapes = [
        (50, 3, 5, 1), (50, 5, 1, 7), (50, 13, 33, 33), (50, 130, 1500, 100), (50, 3, 200, 200),
        (20, 1000, 64, 100), (2, 13, 650, 650), (1, 3, 1150, 1150),
    ]  # fmt: skip
    return [Case("ugly", f"t{T}b{B}i{I}h{H}", T, B, I, H) for T, B, I, H in shapes]


def gpu() -> list[Case]:
    """Shapes of the published benchmarks, headline cases first: a cut-off run still has them."""
    flashrnn = _gpu_flashrnn()
    step = [
        Case("gpu-step", f"b{B}h{H}", 1, B, H, H, dtype="float16", kind="step")
        for H in (256, 512, 1024, 2048)
        for B in (1, 16)
    ]
    packed = [Case("gpu-packed", f"t{T}", T, 16, 512, 512, packed=True) for T in (100, 1000, 4000)]
    return [
        *both(flashrnn[:1]),
        *both(_gpu_models()),
        *step,
        *_gpu_deepbench(),
        *both(flashrnn[1:]),
        *both(packed),
        *both(_gpu_small_h()),
        *both(_gpu_ugly()),
        *both(_gpu_grids()),
        *both(_gpu_rest_of_grids()),
    ]


SUITES = {"cpu": cpu, "gpu": gpu}

# A minute or less: one case of each kind.
QUICK = {
    "cpu": (
        "cpu-dense/keras/float32/forward",
        "cpu-dense/keras/float32/training",
        "cpu-dense/b32h128/float32/forward",
        "cpu-dense/b32h128/float32/training",
        "cpu-step/h256/float32/step",
    ),
    "gpu": (
        "flashrnn-b/t1024b16h768/bfloat16/forward",
        "flashrnn-b/t1024b16h768/bfloat16/training",
        "models/pyannote-b32/float32/training",
        "models/encodec-1s/float32/forward",
        "gpu-step/b1h1024/float16/step",
    ),
}


def suite(name: str, *, quick: bool = False, matching: str = "") -> list[Case]:
    """Cases of a suite whose id a regular expression finds something in; all by default."""
    cases = SUITES[name]()
    if quick:
        cases = [case for case in cases if case.id in QUICK[name]]
    return [case for case in cases if re.search(matching, case.id)]
