"""What is said of variants: explain(), and the README's table of what each is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lstm_fused import costs, dispatch
from lstm_fused.dispatch import Case, Choice

ABOUT = {
    "cuda.decode": "one time step of up to 16 sequences in one launch, in eager mode; fp16, bf16, "
    "fp32",
    "cuda.block": "a whole sequence in one block, weights on the chip: H to 160 in fp16 and bf16, "
    "to 128 in tf32 and fp32",
    "cuda.cluster": "a whole sequence in a cluster of 1 to 16 blocks, sm_90 and later: H to 512 in "
    "fp16, bf16, tf32 and fp32",
    "cuda.grid": "a whole sequence in a group of blocks, as much of W_hh on their chips as fits, "
    "the rest from L2: H to 128 for every 8 SMs, at most 2304 in fp16 and bf16, 2048 in tf32 and "
    "fp32",
    "cuda.step": "one matrix product and one gate kernel per time step; fp16, bf16, fp32, fp64",
    "cpu.avx512bf16": "the same scan for bf16, products of pairs: twice the operations of fp32",
    "cpu.avx512": "fused scan, 6 x 64 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.avx2": "fused scan, 3 x 32 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.neon": "fused scan, 6 x 16 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.generic": "the same scan for any CPU, 3 x 16 tiles",
    dispatch.NATIVE: "torch's own LSTM (cuDNN, oneDNN, ATen): the yardstick",
    dispatch.COMPOSITE: "plain PyTorch ops: any device, any dtype, differentiable to any order",
}


def support_table() -> str:
    """The variants as the Markdown table of the README: the same on every machine."""
    lines = ["| variant | what it is | chosen by itself |", "|---|---|---|"]
    for name in ABOUT:
        places = ["CPU"] if name in dispatch.default("cpu") else []
        places += [f"CUDA {where}" for where, names in dispatch.PROVEN.items() if name in names]
        places += ["CUDA"] if name == dispatch.NATIVE else []
        when = " and ".join(f"on {place}" for place in places)
        if name == dispatch.COMPOSITE:
            when = "where nothing is built, and on other devices"
        lines.append(f"| `{name}` | {ABOUT[name]} | {when or 'no: not yet proven on a GPU'} |")
    return "\n".join(lines)


def case_of(module: nn.Module) -> Case:
    """The case that an LSTM or LSTMCell module stands for. Raises TypeError for another object."""
    weight = getattr(module, "weight_hh_l0", getattr(module, "weight_hh", None))
    hidden_size = getattr(module, "hidden_size", 0)
    if not isinstance(weight, Tensor) or weight.shape[0] != 4 * hidden_size:
        raise TypeError(
            "explain takes an LSTM or LSTMCell module or a lstm_fused.Case, "
            f"got {type(module).__name__}"
        )
    return Case(
        hidden_size=hidden_size,
        proj_size=getattr(module, "proj_size", 0),
        bidirectional=bool(getattr(module, "bidirectional", False)),
        dtype=weight.dtype,
        device=str(weight.device),
        input_size=getattr(module, "input_size", 0),
        training=weight.requires_grad and torch.is_grad_enabled(),
    )


def explain(module_or_case: nn.Module | Case) -> str:
    """Which variants run a module or Case, and a line for each of the others with the reason.

    On a GPU with an estimate for each that can run it: forward, or forward and backward where
    gradients would be wanted; by measurements ("fitted") or without any ("predicted"). A module is
    taken with Case's T and B. Raises Refused if the forced variant refuses the case, TypeError for
    what is neither, and on CUDA ValueError if the file of LSTM_FUSED_COSTS is not right.
    """
    case = module_or_case if isinstance(module_or_case, Case) else case_of(module_or_case)
    chosen = dispatch.choose(case)
    candidates = dispatch.default(case.device)
    how = "forced" if dispatch.forced() else "chosen"
    shared = chosen.forward != chosen.backward
    is_, comes = ("are", "come") if shared else ("is", "comes")
    lines = [
        f"LSTM H={case.hidden_size}"
        + (f" P={case.proj_size}" if case.proj_size else "")
        + (" bidirectional" if case.bidirectional else "")
        + f" {str(case.dtype).removeprefix('torch.')} on {case.device}"
    ]
    for name in dispatch.names():
        refusal = dispatch.why_not(name, case)
        passes: Sequence[str | None] = dispatch.passes_of(Choice(name, name), case)
        if name in chosen and shared:
            passes = [name] if name == chosen.forward else [None, name]
            reason = f"{how} for {_words_of_passes(passes)}"
        elif name in chosen:
            reason = how
        elif refusal is not None:
            reason = refusal
        elif dispatch.forced():
            reason = f"{chosen} {is_} forced"
        elif name not in candidates:
            if dispatch.was_added(name):
                reason = "it was added; ask for it by name"
            elif name.startswith("cuda."):
                reason = "not proven on such a GPU by this build's results; ask for it by name"
            else:
                reason = "the yardstick; ask for it by name"
        else:
            own = dispatch.estimate(Choice(name, name), case)
            others = dispatch.estimate(chosen, case)
            known = own is not None and others is not None and own != others
            reason = f"{chosen} {f'{is_} estimated to take less' if known else f'{comes} first'}"
        estimate = "" if refusal else _words_of_estimate(passes, case)
        lines.append(f"  {name:<16} {reason}{estimate}")
    if torch.device(case.device).type == "cuda" and case.dtype == torch.float32:
        lines.append(f"  float32 in scans: {dispatch.scan_precision()}")
        lines.append(f"  float32 in products: {dispatch.product_precision()}")
    return "\n".join(lines)


def _words_of_passes(passes: Sequence[str | None]) -> str:
    words = zip(("forward", "backward"), passes, strict=False)
    return " and ".join(word for word, name in words if name)


def _words_of_estimate(passes: Sequence[str | None], case: Case) -> str:
    """ ", about 1480 us forward (predicted)", or "(fitted to ...json)", or nothing."""
    layer = dispatch.layer_of(case)
    works = None if layer is None else costs.works(passes, layer)
    if works is None:
        return ""
    microseconds, files = costs.total(works), costs.sources(works)
    rests_on = "predicted" if files is None else f"fitted to {', '.join(files)}"
    number = f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.3g}"
    return f", about {number} us {_words_of_passes(passes)} ({rests_on})"
