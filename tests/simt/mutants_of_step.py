"""Bugs of one line in cuda.step: its driver and gate kernels."""

from __future__ import annotations

from tests.simt.mutation import Mutant

STEP, GATES, MEMORY = "step.cu", "lstm_fused/gates.cuh", "lstm_fused/memory.cuh"
MUTANTS = {
    "swapped gates": Mutant(GATES, "{pre[0][k], pre[1][k],", "{pre[1][k], pre[0][k],"),
    "one thread too many, forward": Mutant(
        GATES,
        "if (index >= p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H;",
        "if (index > p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H;",
    ),
    "one thread too many, backward": Mutant(
        GATES,
        "if (index >= p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H, at",
        "if (index > p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H, at",
    ),
    "one thread too many, projection": Mutant(
        GATES, "if (index >= p.rows * p.P)", "if (index > p.rows * p.P)"
    ),
    "folded gates are not unfolded": Mutant(GATES, "  unfold_sigmoids<Cell, T>(gates);\n", ""),
    "gates are kept unfolded": Mutant(GATES, "(kFolded<T> ? kept : gate)", "gate"),
    "the tanh is unfolded too": Mutant(GATES, "k < kCount && Cell::is_sigmoid(g)", "k < kCount"),
    "a row that ends asks its next step": Mutant(
        GATES, "row < continuing ? dh_recurrent", "row <= continuing ? dh_recurrent"
    ),
    "a row that starts takes another's c": Mutant(
        GATES, "row < p.continued ? p.c_prev", "row <= p.continued ? p.c_prev"
    ),
    "c is not kept": Mutant(GATES, "  store(p.c_state + index, c);\n", ""),
    "dc is not kept": Mutant(GATES, "  store(p.dc + index, dc);\n", ""),
    "h without its stride": Mutant(GATES, "p.h + row * p.h_stride + unit", "p.h + index"),
    "dy without its stride": Mutant(GATES, "dy + row * dy_stride", "dy + row * width"),
    "h_cell at its row": Mutant(GATES, "store(p.h_cell + index", "store(p.h_cell + row"),
    "gates at the wrong stride": Mutant(
        GATES, "load(p.gates + at + g * p.H", "load(p.gates + at + g * p.rows"
    ),
    "the last of a pack is not loaded": Mutant(
        MEMORY, "k < kCount; ++k) to[k]", "k < kCount - 1; ++k) to[k]"
    ),
    "the last of a pack is not stored": Mutant(
        MEMORY, "k < kCount; ++k) narrow", "k < kCount - 1; ++k) narrow"
    ),
    "too few blocks": Mutant(
        STEP, "ceil_div(threads, kGateThreads)", "(threads - 1) / kGateThreads + (threads % 2)"
    ),
    "idle tail": Mutant(
        STEP,
        "launch(context, gates_forward<CellType, T, 1>, k, units)",
        "launch(context, gates_forward<CellType, T, 1>, k, units & ~31)",
    ),
    "h0 is forgotten": Mutant(STEP, "if (h0 && continued < k.rows)", "if (false)"),
    "h_n at the first row": Mutant(STEP, "h_n + continuing * d.P", "h_n"),
    "dh0 at the first row": Mutant(STEP, "matrix(dh0 + k.continued * d.P", "matrix(dh0"),
    "later steps are forgotten": Mutant(STEP, "      k.continuing = continuing;\n", ""),
    "half of c0": Mutant(
        STEP,
        "at<State<T>>(p.c0, i * d.B * d.H), d.B * d.H * sizeof(State<T>));\n  const T* y_prev",
        "at<State<T>>(p.c0, i * d.B * d.H), d.B * d.H * sizeof(T));\n  const T* y_prev",
    ),
    "the workspace is too small": Mutant(
        STEP, "(recurrent_elements(p.d) + cell)", "(p.d.B * p.d.P + cell - 1)"
    ),
    "packs across rows": Mutant(STEP, "d.H % kPacked<T> == 0 && k.dy_stride", "k.dy_stride"),
    "the input of another direction": Mutant(
        STEP, "k.gates = at<T>(p.gates, (i * d.N + row)", "k.gates = at<T>(p.gates, (0 * d.N + row)"
    ),
    "forward does not ask what failed earlier": Mutant(
        STEP,
        "LayerForward& p, const Context& context) {\n  say_what_failed_earlier();\n",
        "LayerForward& p, const Context& context) {\n",
    ),
    "backward does not ask what failed earlier": Mutant(
        STEP,
        "LayerBackward& p, const Context& context) {\n  say_what_failed_earlier();\n",
        "LayerBackward& p, const Context& context) {\n",
    ),
}
