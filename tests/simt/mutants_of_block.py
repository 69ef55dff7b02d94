"""Bugs of one line in cuda.block: its driver, plan, product and kernels."""

from __future__ import annotations

from tests.simt.mutation import Mutant

DRIVER, KERNEL = "block.cu", "lstm_fused/block.cuh"
FORWARD, BACKWARD = "lstm_fused/block_forward.cuh", "lstm_fused/block_backward.cuh"
PLAN, PRODUCT, MAP = (
    f"lstm_fused/{name}" for name in ("block_plan.h", "product.cuh", "product_plan.h")
)
UPLOAD, STEPS, VALUE, SCAN = (
    f"lstm_fused/{name}" for name in ("upload.cuh", "steps.cuh", "value.cuh", "scan.cuh")
)

# Barriers and what they protect.
MUTANTS = {
    "no barrier, forward": Mutant(FORWARD, "    __syncthreads();\n", "", "thread"),
    "no barrier, backward": Mutant(BACKWARD, "    __syncthreads();\n", "", "thread"),
    "a barrier of the warp, forward": Mutant(
        FORWARD, "__syncthreads();", "__syncwarp();", "thread"
    ),
    "a barrier of the warp, backward": Mutant(
        BACKWARD, "__syncthreads();", "__syncwarp();", "thread"
    ),
    "a barrier of half the threads": Mutant(
        FORWARD, "__syncthreads();", "if (threadIdx.x < blockDim.x / 2) __syncthreads();"
    ),
    "one copy of h": Mutant(
        FORWARD,
        "h_next = shared.take<unsigned char>(Self::kPlan.buffer);",
        "h_next = h_now;",
        "thread",
    ),
    "one copy of the gates' gradients": Mutant(
        BACKWARD,
        "dgates_before = shared.take<unsigned char>(Self::kPlan.buffer);",
        "dgates_before = dgates_now;",
        "thread",
    ),
    "the copies of h are not exchanged": Mutant(FORWARD, "h_now = h_next, h_next = read;", ""),
    "h is handed on into the copy being read": Mutant(
        FORWARD, "hand_on(h_next);", "hand_on(h_now);"
    ),
    # Shared memory.
    "one buffer of shared memory": Mutant(
        PLAN, "plan.shared = 2 * plan.buffer", "plan.shared = plan.buffer"
    ),
    "a fragment too little": Mutant(
        MAP, "size_t(slices - held) * tiles", "(size_t(slices - held) * tiles - 1)"
    ),
    "fragments of threads overlap": Mutant(
        PRODUCT, "kWarpTiles + tile) * kThreads", "kWarpTiles + tile) * (kThreads - 1)"
    ),
    "a pitch without its 16 bytes of columns": Mutant(
        MAP,
        "return factors * factor_size(product) + 16;",
        "return factors * factor_size(product) - 16;",
    ),
    # Which number stands where.
    "rows of a fragment": Mutant(MAP, "group + word % 2 * 8", "group + word / 2 * 8"),
    "factors of a fragment": Mutant(
        MAP, "in_group * 4 + word / 2 * 16", "in_group * 4 + word % 2 * 16"
    ),
    "factors of a plain fragment": Mutant(MAP, "in_group * 4 + word}", "word * 4 + in_group}"),
    "halves of a plain fragment": Mutant(
        MAP, "group + slice % 2 * 8", "group + (slice + 1) % 2 * 8"
    ),
    "pieces of the columns": Mutant(
        PRODUCT, "threadIdx.x % 32 / 8 * 16", "threadIdx.x % 32 / 16 * 16"
    ),
    "the second step's columns are the first's": Mutant(
        PRODUCT, "{b[eight][2 * half], b[eight][2 * half + 1]}", "{b[eight][0], b[eight][1]}"
    ),
    "sums of rows and columns exchanged": Mutant(
        PRODUCT,
        "(*sums[eight])[sum][k / 2][k % 2] = d[eight]",
        "(*sums[eight])[sum][k % 2][k / 2] = d[eight]",
    ),
    "sums are not sums": Mutant(
        PRODUCT, "d[eight][sum][k] = (*sums[eight])[sum][k / 2][k % 2]", "d[eight][sum][k] = 0"
    ),
    "half a quad's sum": Mutant(
        PRODUCT,
        "return (odd ? other : even) + __shfl_xor_sync(~0u, odd ? even : other, 1);",
        "return odd ? other : even;",
    ),
    "a quad gives what it keeps": Mutant(PRODUCT, "high ? d[0] : d[2], 2", "high ? d[2] : d[0], 2"),
    "the first shift is forgotten": Mutant(
        PRODUCT, "for (int k = 0; k < kHeld - 1; ++k)", "for (int k = 1; k < kHeld - 1; ++k)"
    ),
    "swapped gates": Mutant(FORWARD, "tile % 2 * 2 + row / 8", "tile % 2 * 2 + 1 - row / 8"),
    "units of the second pair": Mutant(
        FORWARD, "tile / 2 * 8 + row % 8", "(1 - tile / 2) * 8 + row % 8"
    ),
    "W_hh is not transposed": Mutant(
        BACKWARD, "(tile * H + k) * H + out", "(tile * H + out) * H + k"
    ),
    "two gates' gradients": Mutant(
        BACKWARD,
        "Self::sum(sums, 2, half, k) + Self::sum(sums, 3, half, k)",
        "Self::sum(sums, 2, half, k)",
    ),
    "the cell's unit": Mutant(
        KERNEL, "threadIdx.x % 32 / 4 + k / kOwn", "threadIdx.x % 32 / 4 + k % kOwn"
    ),
    # Bounds.
    "a factor too many, forward": Mutant(FORWARD, "unit < H && k < H", "unit < H && k <= H"),
    "a factor too many, backward": Mutant(BACKWARD, "out < H && k < H", "out < H && k <= H"),
    "a row too many": Mutant(KERNEL, "column(k) < rows.count", "column(k) <= rows.count"),
    "a unit too many": Mutant(
        KERNEL, "return unit(k) < sizes.H &&", "return unit(k) <= sizes.H &&"
    ),
    "states of rows that do not exist": Mutant(
        FORWARD, "Self::unit(k) < H && Self::column(k) < batch_rows;", "Self::unit(k) < H;"
    ),
    "final states of rows that do not exist": Mutant(
        FORWARD, "|| Self::column(k) >= batch_rows) continue", ") continue"
    ),
    "an idle warp at the end": Mutant(
        DRIVER, "unsigned(plan.threads), plan", "unsigned(plan.threads - 32), plan"
    ),
    "an idle block at the end": Mutant(
        DRIVER,
        "return ceil_div(d.B, columns_of(product));",
        "return std::max<int64_t>(1, d.B / columns_of(product));",
    ),
    "one direction": Mutant(DRIVER, "unsigned(p.d.D));", "1u);"),
    "the bucket below": Mutant(
        PLAN, "if (H > bucket.H) continue;", "if (H > bucket.H + 1) continue;"
    ),
    # Steps and rows of sequences.
    "the reverse direction goes forward": Mutant(
        KERNEL, "direction() == 1 ? steps - 1 - n : n", "n"
    ),
    "steps of the block before": Mutant(
        KERNEL,
        "sizes.offsets[sizes.T + 1 + blockIdx.x]",
        "sizes.offsets[sizes.T + blockIdx.x]",
    ),
    "a block's steps end a row early": Mutant(
        STEPS, "offsets[steps - 1] <= row", "offsets[steps - 1] <= 1 + row"
    ),
    "numbers lose their end": Mutant(UPLOAD, "k < p.count; k += 256", "k < p.count - 1; k += 256"),
    "numbers of the first part again": Mutant(
        UPLOAD, "numbers.values[k] = from[at + k]", "numbers.values[k] = from[k]"
    ),
    "a number too little of workspace": Mutant(STEPS, "(d.T + 1 + ceil_div", "(d.T + ceil_div"),
    "the input of the step before": Mutant(
        FORWARD, "    load_input(rows_next);\n    const", "    load_input(rows);\n    const"
    ),
    "c of the step after": Mutant(
        BACKWARD, "load_c(rows_later, c_prev)", "load_c(rows_next, c_prev)"
    ),
    "c is not carried": Mutant(BACKWARD, "      c[k] = c_prev[k];\n", ""),
    "dh of a cell that has ended": Mutant(
        BACKWARD, "      if (active(rows, k))\n        dh[k]", "        dh[k]"
    ),
    "cells without gradients hand on NaN": Mutant(
        BACKWARD,
        "narrow(active(rows, k) ? gate[g].x : 0.f,",
        "narrow(active(rows, k) ? gate[g].x : NAN,",
    ),
    "cells that have ended go on": Mutant(
        FORWARD, "c[k] = active(rows, k) ? c_new : c[k];", "c[k] = c_new;"
    ),
    "cells that have ended hand on": Mutant(
        FORWARD, "h[k] = active(rows, k) ? h_new : h[k];", "h[k] = h_new;"
    ),
    "dc of a cell that has ended": Mutant(
        BACKWARD, "dc[k] = active(rows, k) ? dc_new : dc[k];", "dc[k] = dc_new;"
    ),
    "dh_n is forgotten": Mutant(BACKWARD, "widen(p.dh_n[state_of(k)]) : 0", "0.f : 0"),
    "c0 is forgotten by a cell that starts late": Mutant(
        BACKWARD, "exists(k) && p.c0 ? p.c0[state_of(k)]", "exists(k) && p.c0 ? 0"
    ),
    "y and dy of one direction": Mutant(
        SCAN, "tensor + (direction * sizes.H + unit)", "tensor + unit"
    ),
    "gates and c of the other direction": Mutant(
        SCAN, "tensor + (direction * sizes.N * numbers + unit)", "tensor + unit"
    ),
    "rows of one direction follow each other in y": Mutant(
        SCAN,
        "const int row = sizes.D * sizes.H * int(sizeof(T));",
        "const int row = sizes.H * int(sizeof(T));",
    ),
    "a cell of the same row": Mutant(
        KERNEL, "(column(k) - column(0)) * width", "(column(k) - column(0))"
    ),
    "the gates are kept unfolded": Mutant(
        FORWARD, "(kFolded<T> ? folded : gate)[g].x", "gate[g].x"
    ),
    # Gates.
    "less is greater": Mutant(
        VALUE, "return a.x < b.x ? yes : no;", "return a.x > b.x ? yes : no;"
    ),
    "exp to another base": Mutant(VALUE, "x * 1.44269504f", "x * 1.44f"),
    "a coefficient of exp - 1": Mutant(
        VALUE,
        "0.16665342450141907f;\n  p = p * x + 0.49999934434890747f;\n  expm1_x",
        "0.16665342450141907f;\n  p = p * x + 0.49f;\n  expm1_x",
    ),
    "tanh loses its sign": Mutant(VALUE, "::copysignf(v.x, sign.x)", "v.x"),
    "c is rounded to the storage type": Mutant(
        FORWARD, "narrow(h_wide.x, h_new);", "narrow(h_wide.x, h_new); c_new = widen(T(c_new.x));"
    ),
    "dc is rounded to the storage type": Mutant(
        BACKWARD,
        "      c[k] = c_prev[k];\n",
        "      c[k] = c_prev[k]; dc[k] = widen(T(dc[k].x));\n",
    ),
}
