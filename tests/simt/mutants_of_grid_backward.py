"""Bugs of one line in cuda.grid, backward: its driver, plan and kernel."""

from __future__ import annotations

from tests.simt.mutation import Mutant

DRIVER, BACKWARD = "grid.cu", "lstm_fused/grid_backward.cuh"
PLAN = "lstm_fused/grid_plan.h"

MUTANTS = {
    # Barriers and what they protect.
    "no barrier behind the gradients": Mutant(
        BACKWARD,
        "now_read = written;\n    __syncthreads();\n",
        "now_read = written;\n",
        "thread",
    ),
    "one copy of the gradients": Mutant(
        BACKWARD,
        "unsigned char* now_written = shared.take<unsigned char>(int(kPlan.buffer));",
        "unsigned char* now_written = now_read;",
        "thread",
    ),
    "the copies are not exchanged": Mutant(
        BACKWARD, "now_written = now_read, now_read = written;", "now_read = written;"
    ),
    # What blocks hand to each other.
    "tags of a launch before": Mutant(
        DRIVER,
        "      dev::fill(context, dgates, 0,",
        "      if (false) dev::fill(context, dgates, 0,",
    ),
    "one copy of what is handed on": Mutant(
        BACKWARD, "(group * 2 + tag % 2) * turns", "(group * 2) * turns"
    ),
    "turns hand on in the same place": Mutant(
        BACKWARD, "(group * 2 + tag % 2) * turns + turn;", "(group * 2 + tag % 2) * turns;"
    ),
    "groups hand on in the same place": Mutant(
        BACKWARD, "(group * 2 + tag % 2) * turns", "(tag % 2) * turns"
    ),
    "a gradient without its tag is there": Mutant(
        BACKWARD,
        "return words[2] == tag && words[3] == tag;",
        "return words[2] == tag;",
    ),
    "a part that does not exist is awaited": Mutant(
        BACKWARD,
        "return words[2] == tag && (words[3] == tag || 2 * piece + 1 == parts);",
        "return words[2] == tag && words[3] == tag;",
    ),
    "shares of dh of the step itself": Mutant(
        BACKWARD, "take_dh(tag - 1, turn,", "take_dh(tag, turn,"
    ),
    "nobody hands on the end of a piece": Mutant(
        BACKWARD, "slice.unit < (H + kWhole - 1) / kWhole * kWhole;", "slice.unit < H;"
    ),
    "shares are sent of a row too few": Mutant(
        BACKWARD, "output + unit < H && column < rows)", "output + unit < H && column < rows - 1)"
    ),
    # Which number stands where.
    "W_hh is not transposed": Mutant(
        BACKWARD, "(tile * H + from) * H + to]", "(tile * H + to) * H + from]"
    ),
    "every block has the first part": Mutant(
        BACKWARD, "const int part = int(blockIdx.x) % kGridParts,", "const int part = 0,"
    ),
    "a part has no last units": Mutant(
        BACKWARD,
        "rows_on(piece) < rows && unit < units;",
        "rows_on(piece) < rows && unit < units - 1;",
    ),
    "rows of gradients": Mutant(
        BACKWARD,
        "(slice.column * 4 * kUnits + slice.unit % kUnits)",
        "((slice.column ^ 1) * 4 * kUnits + slice.unit % kUnits)",
    ),
    "gradients of the part before": Mutant(
        BACKWARD, "Gates{dgates_at(tag, turn, part),", "Gates{dgates_at(tag, turn, part / 2 * 2),"
    ),
    "shares of two gates": Mutant(
        BACKWARD, "share += sums[2][half][own] + sums[3][half][own];", "share += 0;"
    ),
    # Sixteen rows at a time.
    "shares of the first eight rows twice": Mutant(
        BACKWARD, "send(of_next_eight, kGridColumns);", "send(sums, kGridColumns);"
    ),
    "shares of all rows in the place of eight": Mutant(
        BACKWARD, "send(of_next_eight, kGridColumns);", "send(of_next_eight, 0);"
    ),
    "gradients of sixteen rows in the place of eight": Mutant(
        BACKWARD, "= dgates_words(kColumns, kPlan", "= dgates_words(kGridColumns, kPlan"
    ),
    "memory for gradients of eight rows": Mutant(
        DRIVER,
        "dgates_words(run.columns, run.plan.width",
        "dgates_words(kGridColumns, run.plan.width",
    ),
    "what was asked for has always come, backward": Mutant(
        BACKWARD, "    if (!source.is_there(piece, words)) return false;\n", ""
    ),
    "gradients that were asked for are not waited for": Mutant(
        BACKWARD, "have_come<Self::kPieces, 1>", "have_come<Self::kPieces, 2>", "address"
    ),
    "dh that was asked for is not waited for": Mutant(
        BACKWARD, "have_come<kPiecesOfDh, 1>", "have_come<kPiecesOfDh, 2>", "address"
    ),
    "the first piece that was asked for, for all": Mutant(
        BACKWARD,
        "const uint4 pairs = place[piece * kGridThreads];",
        "const uint4 pairs = place[0];",
    ),
    "gradients and dh that were asked for lie over each other": Mutant(
        BACKWARD, "asked_dh = Asked::take(shared, kPiecesOfDh);", "asked_dh = asked_gates;"
    ),
    "only the last piece of dh": Mutant(
        BACKWARD, "sum = piece == 0 ? share[0] : sum + share[0];", "sum = share[0];"
    ),
    # Shared memory.
    "factors past H are not zero": Mutant(
        BACKWARD, "  Self::clear(now_read);\n  Self::clear(now_written);\n", ""
    ),
    "dh and dc of a turn too few": Mutant(
        PLAN, "(forward ? 1 : 2) * plan.turns", "(forward ? plan.turns : 2 * plan.turns - 1)"
    ),
    # Steps, rows, turns.
    "the step before has not sent anything": Mutant(
        BACKWARD, "after = now, now = slice.step(n - 1);", "now = slice.step(n - 1);"
    ),
    "the input of the step itself again": Mutant(
        BACKWARD, "load_turn(slice.step(n - 1), n - 1, 0);", "load_turn(now, n, 0);"
    ),
    "c of the step itself as the one before": Mutant(
        BACKWARD, "slice.rows(slice.step(n - 1), turn));", "slice.rows(slice.step(n), turn));"
    ),
    "dh_n is forgotten": Mutant(
        BACKWARD, "widen(scan.dh_n[slice.state(turn)]) : 0.f;", "0.f : 0.f;"
    ),
    "dy of one direction": Mutant(
        BACKWARD,
        "(rows.first + slice.column) * D + slice.direction;",
        "(rows.first + slice.column) * D;",
    ),
    "dc is rounded to the storage type": Mutant(
        BACKWARD,
        "dc_of_all[Slice::place(turn)] = dc.x;",
        "dc_of_all[Slice::place(turn)] = widen(T(dc.x));",
    ),
    "the last turn sends nothing back": Mutant(
        BACKWARD,
        "for (int turn = 0; turn <= turns; ++turn) {",
        "for (int turn = 0; turn < turns; ++turn) {",
    ),
    "dh0 is never sent": Mutant(
        BACKWARD, "const bool sends = n > 0 || scan.dh0;", "const bool sends = n > 0;"
    ),
    "the second launch finds the first one's tags": Mutant(
        DRIVER,
        "size_t(rings.dgates + rings.dh) * sizeof(uint32_t));\n      launch",
        "size_t(rings.dgates) * sizeof(uint32_t));\n      launch",
    ),
}
