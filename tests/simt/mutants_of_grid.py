"""Bugs of one line in cuda.grid, forward: its driver, plan and kernel."""

from __future__ import annotations

from tests.simt.mutation import Mutant

DRIVER, GROUP, FORWARD = "grid.cu", "lstm_fused/grid.cuh", "lstm_fused/grid_forward.cuh"
SLICE, PRODUCT = "lstm_fused/group.cuh", "lstm_fused/product.cuh"
PLAN, STEPS = "lstm_fused/grid_plan.h", "lstm_fused/steps.cuh"

MUTANTS = {
    # Barriers and what they protect.
    "no barrier before the first h": Mutant(
        FORWARD,
        "Self::clear(h_now + copy * kBuffer);\n  __syncthreads();\n",
        "Self::clear(h_now + copy * kBuffer);\n",
        "thread",
    ),
    "no barrier behind h": Mutant(
        FORWARD,
        "kPlan.copies == 1 && others(before));\n        __syncthreads();",
        "kPlan.copies == 1 && others(before));",
        "thread",
    ),
    "a barrier of the warp behind the sums": Mutant(
        FORWARD,
        "      __syncthreads();\n      if constexpr (kPlan.copies == 1) {",
        "      __syncwarp();\n      if constexpr (kPlan.copies == 1) {",
        "thread",
    ),
    "a barrier of those who own cells": Mutant(
        FORWARD,
        "      __syncthreads();\n      if constexpr (kPlan.copies == 1) {",
        "      if (Slice::owns_cells()) __syncthreads();\n      if constexpr (kPlan.copies == 1) {",
    ),
    "sums are handed over where the next ones are": Mutant(
        FORWARD,
        "return sums_now[term_share * kPlan.cells +",
        "return sums_now[term_share / 2 * kPlan.cells +",
        "thread",
    ),
    # What blocks hand to each other.
    "nothing says that a state is not there": Mutant(
        DRIVER,
        "  dev::fill(context, exchange.first, kAbsentByte",
        "  if (false) dev::fill(context, exchange.first, kAbsentByte",
    ),
    "a NaN is not there": Mutant(FORWARD, "kOtherNan = 0x7fff7fff", "kOtherNan = kAbsent"),
    "the first word answers for four": Mutant(
        FORWARD,
        "return words[0] != kAbsent && words[1] != kAbsent && words[2] != kAbsent && "
        "words[3] != kAbsent;",
        "return words[0] != kAbsent;",
    ),
    "the odd unit hands on": Mutant(GROUP, "unit % 2 == 0;", "unit % 2 == 1;"),
    "factors are not rounded": Mutant(
        GROUP, "return uint32_t(Kind<kProduct>::factor(x));", "return word;"
    ),
    # Sixteen rows at a time.
    "h is taken ahead over the one that is read": Mutant(
        FORWARD, "h_now + (kPlan.copies - 1) * kBuffer;", "h_now;", "thread"
    ),
    "sums are handed over while others are read": Mutant(
        FORWARD, "sums_now + (kPlan.copies - 1) * kSums;", "sums_now;", "thread"
    ),
    "a turn waits for itself": Mutant(
        FORWARD, "ahead = kPlan.copies == 2 && others(now);", "ahead = kPlan.copies == 2;"
    ),
    "a turn of another slice is one of this": Mutant(
        FORWARD, "return turns_follow(kPlan, turns) && (turn", "return (turn"
    ),
    "blocks of few units stand as far apart as others": Mutant(
        GROUP, "int(blockIdx.x) * kUnits + grid_unit", "int(blockIdx.x) * kGridUnits + grid_unit"
    ),
    "as many groups of few units as there are rows for": Mutant(
        PLAN, "if (groups * grid_blocks(pass, H, kGridFew) > multiprocessors) return usual;", ""
    ),
    "h of the turn before": Mutant(
        FORWARD, "slice.rows(before, turn + 1)", "slice.rows(before, turn)"
    ),
    # What is asked for ahead.
    "h of the turn itself was asked for": Mutant(
        FORWARD,
        "kPlan.copies == 1 && others(before));",
        "kPlan.copies == 1 && turns > 1);",
    ),
    "h is asked for before all have read the one before": Mutant(
        FORWARD,
        "        is_there = ahead;\n      }\n      __syncthreads();",
        "        is_there = ahead;\n      }\n      ask_for_h(rows, rows, h_now);\n"
        "      __syncthreads();",
        "thread",
    ),
    "nobody waits for what was asked for": Mutant(GROUP, "  ptx::wait_copies<kAfter>();\n", ""),
    "what was asked for has always come": Mutant(
        GROUP, "all = source.came(piece) && all;", "source.came(piece);"
    ),
    "what was asked for is not rounded": Mutant(
        FORWARD, "    if (Self::kRounds) take(piece, words);\n", ""
    ),
    "h is asked for over the one that is read": Mutant(
        FORWARD,
        "ask_for_h(rows_before, rows, h_next);",
        "ask_for_h(rows_before, rows, h_now);",
    ),
    "h of this step is asked for": Mutant(
        FORWARD,
        "use(slice.rows(now, 0), slice.rows(next, 0), 0);",
        "use(slice.rows(before, 0), slice.rows(next, 0), 0);",
    ),
    "the first eight rows twice": Mutant(
        PRODUCT, "columns + eight * kColumns * kPitch + tile", "columns + tile"
    ),
    "sums of the first eight rows twice": Mutant(
        FORWARD, "share(of_next_eight, 8);", "share(sums, 8);"
    ),
    "all warps have the first units": Mutant(
        FORWARD, "first_unit = Self::warp() % kCuts * kUnitsOfWarp;", "first_unit = 0;"
    ),
    "steps of slices of eight rows": Mutant(
        DRIVER,
        "upload_steps(context, p.d, p.offsets, run.columns,",
        "upload_steps(context, p.d, p.offsets, kGridColumns,",
    ),
    # What becomes of a launch whose blocks do not all run at once.
    "nobody loses patience": Mutant(
        GROUP, "if (looks < waiting.patience) return true;", "return true;"
    ),
    "nobody hears that the launch is given up": Mutant(
        GROUP, "  if (ptx::poll_word(waiting.given_up)) return false;\n", ""
    ),
    "who gives up does not say so to the launch": Mutant(
        GROUP, "ptx::exchange_word(waiting.given_up, 1)", "ptx::poll_word(waiting.given_up)"
    ),
    "nobody tells the host": Mutant(
        GROUP, "ptx::tell_host(waiting.alarm, 1);", "ptx::poll_word(waiting.alarm);"
    ),
    "who gives up takes what was there before": Mutant(
        GROUP, "{kNothing, kNothing, kNothing, kNothing}", "words[k]"
    ),
    "who gives up looks once more": Mutant(
        GROUP,
        "kNothing, kNothing});\n    return;\n",
        "kNothing, kNothing});\n",
    ),
    "a pass begins as one that is given up": Mutant(
        DRIVER, "  dev::fill(context, word, 0, sizeof(uint32_t));\n", ""
    ),
    "the word of the pass is one that is handed on": Mutant(
        DRIVER,
        "size_t streamed_at() const { return word_at() + 64; }",
        "size_t streamed_at() const { return word_at(); }",
    ),
    "nobody asks what failed earlier": Mutant(
        "lstm_fused/family.cuh", "  say_what_failed_earlier();\n", ""
    ),
    # Which number stands where.
    "pieces of another row": Mutant(
        FORWARD,
        "from(states + Self::first_row() * stride",
        "from(states + (Self::first_row() ^ 1) * stride",
    ),
    "the first pieces only": Mutant(
        GROUP,
        "for (int first = 0; first < kPieces; first += kAtOnce)",
        "for (int first = 0; first < kAtOnce; first += kAtOnce)",
    ),
    "a piece too few": Mutant(
        GROUP, "return first + k < kPieces && source", "return first + k < kPieces - 1 && source"
    ),
    "sums of seven warps": Mutant(
        FORWARD,
        "for (int w = 0; w < kPlan.shares; ++w)",
        "for (int w = 0; w < kPlan.shares - 1; ++w)",
    ),
    "swapped gates": Mutant(FORWARD, "tile % 2 * 2 + row / 8", "tile % 2 * 2 + 1 - row / 8"),
    "units of the first block": Mutant(
        FORWARD,
        "const int unit = int(blockIdx.x) * Self::kUnits + first_unit",
        "const int unit = first_unit",
    ),
    # float32 by three products.
    "low parts of W_hh are left out": Mutant(
        PRODUCT, "          ptx::multiply_tf32(low[tile], a_low, b_of_half);\n", ""
    ),
    "low parts of h are left out": Mutant(
        PRODUCT,
        "          ptx::multiply_tf32(low[tile], a, {b_low[2 * half], b_low[2 * half + 1]});\n",
        "",
    ),
    "low parts of the first half": Mutant(
        PRODUCT, "{b_low[2 * half], b_low[2 * half + 1]}", "{b_low[0], b_low[1]}"
    ),
    "sums of low parts are left out": Mutant(
        PRODUCT, "finite ? high[tile][k] + low[tile][k]", "finite ? high[tile][k]"
    ),
    "low parts of infinite factors count": Mutant(PRODUCT, "[k]) < INFINITY;", "[k]) <= INFINITY;"),
    "W_hh is rounded to TF32": Mutant(
        PRODUCT, "? bits + 2 : bits) & ~3u", "? bits : bits) & ~0x1fffu"
    ),
    "products of the first part of h": Mutant(
        PRODUCT,
        "slice = kHeld; slice < end; slice += 2)\n      add_pair",
        "slice = kHeld; slice < kHeld; slice += 2)\n      add_pair",
    ),
    # Shared memory.
    "c of one turn too few": Mutant(
        PLAN, "(forward ? 1 : 2) * plan.turns", "(forward ? plan.turns - 1 : 2 * plan.turns)"
    ),
    "fragments not held have no memory": Mutant(
        PLAN,
        "plan.shared = used + plan.kept * slice;",
        "plan.shared = used + plan.kept * slice - slice;",
    ),
    "h past the hidden size is not zero": Mutant(
        FORWARD,
        "  for (int copy = 0; copy < kPlan.copies; ++copy) Self::clear(h_now + copy * kBuffer);\n",
        "",
    ),
    # Bounds.
    "a term too many": Mutant(FORWARD, "unit < H && term < H ?", "unit < H && term <= H ?"),
    "a row too many": Mutant(
        SLICE,
        "return owns_cells() && unit < sizes.H && column < rows.count;",
        "return owns_cells() && unit < sizes.H && column <= rows.count;",
    ),
    "the end of a row is not handed on": Mutant(
        FORWARD, "rows.count && byte < bytes &&", "rows.count && slice.unit < H &&"
    ),
    "states past a row's end are awaited": Mutant(
        FORWARD, "Self::bytes_on(piece) < bytes;", "Self::bytes_on(piece) <= bytes;"
    ),
    "blocks wait for one that has no room": Mutant(
        PLAN, "cut.directions = D < groups ? D : groups;", "cut.directions = D;"
    ),
    # Rows, turns, launches.
    "rows past the first launch": Mutant(
        PLAN, "for (long long row = 0; row < B; row +=", "for (long long row = 0; row < 1; row +="
    ),
    "every launch runs the first direction": Mutant(
        DRIVER, "GridShare{int(row), direction, cut.turns}", "GridShare{int(row), 0, cut.turns}"
    ),
    "all launches run the first rows": Mutant(
        SLICE, "first_row(share.first_row + int(blockIdx.y)", "first_row(int(blockIdx.y)"
    ),
    "the reverse direction goes forward": Mutant(SLICE, "direction == 1 ? steps - 1 - n : n", "n"),
    "steps of the slice before": Mutant(
        SLICE, "all.offsets[all.T + 1 + first_row", "all.offsets[all.T + first_row"
    ),
    "states lie over the steps": Mutant(
        DRIVER,
        "Exchange{workspace_at(context, run.handed_on_at()), int",
        "Exchange{workspace_at(context, 0), int",
    ),
    # What is streamed.
    "all blocks stream from one place": Mutant(
        GROUP, "all.first + block * int64_t(all.block)", "all.first"
    ),
    "groups stream from one place": Mutant(
        GROUP, "= group() * gridDim.x + blockIdx.x;", "= blockIdx.x;"
    ),
    "what is streamed is left out": Mutant(
        PRODUCT, "int slice = end; slice < kSlices;", "int slice = end; slice < end;"
    ),
    "what shared memory keeps is streamed": Mutant(
        PRODUCT, "int slice = end; slice < kSlices;", "int slice = kHeld; slice < kSlices;"
    ),
    "all of a round is its first slice": Mutant(
        PRODUCT, "= *in_l2(tile, slice + k);", "= *in_l2(tile, slice);"
    ),
    "what is streamed begins behind what is kept": Mutant(
        PRODUCT, "(slice - kHeld - streamed_.kept) *", "(slice - kHeld) *"
    ),
    "slices are kept one by one": Mutant(PLAN, "fit / at_once * at_once", "fit"),
    "memory for what one group streams": Mutant(
        DRIVER, "size_t(of_launch.x) * of_launch.y * of_launch.z", "size_t(of_launch.x)"
    ),
    "memory for what TF32 streams": Mutant(DRIVER, "tf32 : {false, true})", "tf32 : {true})"),
    "states lie over what is streamed": Mutant(
        DRIVER,
        ": Exchange{workspace_at(context, run.handed_on_at())",
        ": Exchange{workspace_at(context, run.streamed_at())",
    ),
    "gradients lie over what is streamed": Mutant(
        DRIVER,
        "reinterpret_cast<uint32_t*>(workspace_at(context, run.handed_on_at()))",
        "reinterpret_cast<uint32_t*>(workspace_at(context, run.streamed_at()))",
    ),
    "y holds states of odd length": Mutant(
        DRIVER,
        "return state_bytes(d, dtype) == d.H * int64_t(element_size(dtype));",
        "return true;",
    ),
    "y of one direction": Mutant(
        FORWARD,
        "((rows.first + slice.column) * D + slice.direction) * H",
        "((rows.first + slice.column) * D) * H",
    ),
    "a turn breaks off those before it": Mutant(
        FORWARD, "if (rows.count == 0) break;", "if (rows.count < kGridColumns) break;"
    ),
    "rows of the step itself": Mutant(
        FORWARD, "rows_before = slice.rows(before, turn);", "rows_before = slice.rows(now, turn);"
    ),
    "h0 only of the first rows": Mutant(
        FORWARD,
        "slice.first_row + turn * kColumns + row;",
        "slice.first_row + row;",
    ),
    "h0 of rows that go on": Mutant(
        FORWARD,
        "for (int row = going_on(rows_before, rows); row < rows.count; ++row)",
        "for (int row = 0; row < rows.count; ++row)",
        "thread",
    ),
    "h0 is not rounded": Mutant(
        FORWARD, "Kind<kProduct>::factor(scan.h0 ?", "__builtin_bit_cast(Factor, scan.h0 ?"
    ),
    "c of the turn before": Mutant(
        FORWARD,
        "Value c = c_of_all[Slice::place(turn)];",
        "Value c = c_of_all[Slice::place(turn / 2 * 2)];",
    ),
    "c is rounded to the storage type": Mutant(
        FORWARD,
        "c_of_all[Slice::place(turn)] = c.x;",
        "c_of_all[Slice::place(turn)] = widen(T(c.x));",
    ),
    "the input of the step after the next": Mutant(
        FORWARD, "rows_after : slice.rows(next, 0));", "rows_after : slice.rows(later, 0));"
    ),
    "the last step is one late": Mutant(
        FORWARD, "(turn) >= next.count) {", "(turn) > next.count) {"
    ),
    "steps do not move on": Mutant(
        FORWARD, "before = now, now = next, next = later;", "now = next, next = later;"
    ),
}
