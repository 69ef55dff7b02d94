"""Bugs of one line in cuda.cluster: its driver, plan and kernels."""

from __future__ import annotations

from tests.simt.mutation import Mutant

DRIVER, PLAN, EXCHANGES = "cluster.cu", "lstm_fused/cluster_plan.h", "lstm_fused/cluster.cuh"
FORWARD, BACKWARD = "lstm_fused/cluster_forward.cuh", "lstm_fused/cluster_backward.cuh"

MUTANTS = {
    # Exchanges and their barriers.
    "h is sent before barriers are there": Mutant(
        FORWARD,
        "ptx::cluster_sync();\n\n  const auto h_at",
        "__syncthreads();\n\n  const auto h_at",
        "thread",
    ),
    "shares are sent before barriers are there": Mutant(
        BACKWARD,
        "ptx::cluster_sync();\n\n  const auto gates",
        "__syncthreads();\n\n  const auto gates",
        "thread",
    ),
    "the last h is sent to blocks that may be gone": Mutant(
        FORWARD, "if (slice.rows(next, turn).count > 0) hand_on", "hand_on"
    ),
    "the last shares are sent to blocks that may be gone": Mutant(
        BACKWARD, "const bool sends = n > 0 || scan.dh0;", "const bool sends = true;"
    ),
    "an idle tail warp does not wait": Mutant(
        FORWARD,
        "      exchanges.await(turn, m, bytes(turn));",
        "      if (first_unit + Self::set() * kSetUnits < H)\n"
        "        exchanges.await(turn, m, bytes(turn));",
        "thread",
    ),
    "an early arm": Mutant(
        EXCHANGES,
        "ptx::arrive_expecting(barrier, bytes);",
        "ptx::arrive_expecting(of(turn, k + 1), bytes);",
    ),
    "the parity of every exchange": Mutant(EXCHANGES, "unsigned(k) / 2 % 2;", "unsigned(k) % 2;"),
    "one barrier for both copies": Mutant(
        EXCHANGES, "return barriers + turn * 2 + k % 2;", "return barriers + turn * 2;"
    ),
    "turns have the same barriers": Mutant(
        EXCHANGES, "return barriers + turn * 2 + k % 2;", "return barriers + k % 2;"
    ),
    "one copy of h": Mutant(
        FORWARD, "h_of_all + (turn * 2 + m % 2)", "h_of_all + turn * 2", "thread"
    ),
    "one copy of the shares": Mutant(
        BACKWARD, "((turn * 2 + k % 2) * blocks", "((turn * 2) * blocks", "thread"
    ),
    "h of whole pieces alone is awaited": Mutant(
        FORWARD, "(H + Piece::kUnits - 1) / Piece::kUnits", "H / Piece::kUnits"
    ),
    "h of rows past the batch is awaited": Mutant(
        FORWARD, "unsigned(Self::batch_rows(slice, turn) *", "unsigned(kClusterColumns *"
    ),
    "shares of a set without units are awaited": Mutant(
        BACKWARD, "(units + kSetUnits - 1) / kSetUnits;", "kUnits / kSetUnits;"
    ),
    "shares of an odd last row are not awaited": Mutant(
        BACKWARD, "(Self::batch_rows(slice, turn) + 1) / 2;", "Self::batch_rows(slice, turn) / 2;"
    ),
    "the last block gets no h": Mutant(
        FORWARD, "k < Self::blocks(); k += Piece", "k < Self::blocks() - 1; k += Piece"
    ),
    # Barriers of a block and what they protect.
    "a barrier of the warp behind the sums": Mutant(
        FORWARD,
        "__syncthreads();\n#pragma unroll\n      for (int w = 0",
        "__syncwarp();\n#pragma unroll\n      for (int w = 0",
        "thread",
    ),
    "one copy of the sums": Mutant(
        FORWARD, "*sums_before = sums_of_all + kSums;", "*sums_before = sums_of_all;", "thread"
    ),
    "a barrier of the warp behind the gradients": Mutant(
        BACKWARD,
        "      __syncthreads();\n      if (sends)",
        "      __syncwarp();\n      if (sends)",
        "thread",
    ),
    "one copy of the gradients": Mutant(
        BACKWARD,
        "unsigned char* dgates_before = shared.take<unsigned char>(int(kPlan.buffer));",
        "unsigned char* dgates_before = dgates_now;",
        "thread",
    ),
    # Which number stands where.
    "sums of the first set": Mutant(
        FORWARD, "(Self::set() * kSetWarps + w) * kSumsOfWarp", "w * kSumsOfWarp"
    ),
    "pieces of the same row": Mutant(
        FORWARD, "/ 32 * 2 + index() * kUnits / kSetUnits;", "/ 32 * 2;"
    ),
    "shares of all blocks but one": Mutant(
        BACKWARD, "for (int from = 1; from < blocks;", "for (int from = 1; from < blocks - 1;"
    ),
    "shares for the first set": Mutant(
        BACKWARD, "output % kUnits / kSetUnits * kSetThreads", "output % kUnits / kSetUnits * 0"
    ),
    "gates are kept unfolded": Mutant(FORWARD, "(kFolded<T> ? kept : gate)", "gate"),
    "the cell of the first row": Mutant(
        "lstm_fused/group.cuh",
        "place_of_cell(sizes, direction, column,",
        "place_of_cell(sizes, direction, 0,",
    ),
    "W_hh is not transposed": Mutant(
        BACKWARD, "(gate * H + from) * H + to]", "(gate * H + to) * H + from]"
    ),
    # float32 by three products.
    "low parts of W_hh are left out": Mutant(
        "lstm_fused/product.cuh",
        "          ptx::multiply_tf32(low[tile], a_low, b_of_half);\n",
        "",
    ),
    # Rows and turns.
    "a turn that begins late counts from the start": Mutant(
        FORWARD, "late ? slice.steps - Self::steps_of(slice, turn) : 0;", "late ? 0 : 0;"
    ),
    "a turn that ends early counts to the end": Mutant(
        BACKWARD, "early ? Self::steps_of(slice, turn) : slice.steps;", "slice.steps;"
    ),
    "h0 of the rows that begin at once": Mutant(FORWARD, "active ? out : h0_of(turn)", "out"),
    "shares of a row that is not there": Mutant(
        BACKWARD,
        "    if (!slice.active(rows)) return;\n    const float* const share",
        "    const float* const share",
    ),
    "c_prev of the step itself": Mutant(
        BACKWARD, "load_turn(before, earlier, 0);", "load_turn(before, before, 0);"
    ),
    "dh0 without its last shares": Mutant(
        BACKWARD, "if (scan.dh0) take_dh(turn, 0,", "if (false) take_dh(turn, 0,"
    ),
    # Shared memory and the batch.
    "h past the hidden size is not zero": Mutant(
        FORWARD, "  Self::clear(h_of_all, 2 * turns * int(kPlan.buffer));\n", ""
    ),
    "memory for one turn": Mutant(DRIVER, "    grid.shared = shared_bytes(plan, cut.turns);\n", ""),
    "rows of the last slice": Mutant(
        PLAN, "return {int(slices(turns)), turns};", "return {int(eights / turns), turns};"
    ),
}
