"""Bugs of one line in cuda.decode: its driver and its kernel."""

from __future__ import annotations

from tests.simt.mutation import Mutant

DRIVER, KERNEL = "decode.cu", "lstm_fused/decode.cuh"
MUTANTS = {
    "nobody waits for the sums": Mutant(
        KERNEL, "= kept;\n  __syncthreads();\n", "= kept;\n", "thread"
    ),
    # Who does what.
    "a unit too many": Mutant(KERNEL, "  if (unit < H) {", "  if (unit <= H) {"),
    "a cell too many": Mutant(KERNEL, "own_unit >= H ||", "own_unit > H ||"),
    "a row too many": Mutant(KERNEL, "row >= rows) return", "row > rows) return"),
    "factors of a row too many": Mutant(KERNEL, "row >= count) break", "row > count) break"),
    "a warp's share is left out": Mutant(KERNEL, "part < split;", "part < split - split / 2;"),
    "warps have the same share": Mutant(KERNEL, "= warp % split * 32 + lane,", "= lane,"),
    "shares overlap": Mutant(KERNEL, "step = split * 32;", "step = split * 16;"),
    "half of the lanes are summed up": Mutant(KERNEL, "other = 16;", "other = 8;"),
    "blocks too few": Mutant(
        DRIVER, "ceil_div(k.H, kDecodeWarps / k.split)", "1 + (k.H - 1) / (kDecodeWarps)"
    ),
    "rows of one block alone": Mutant(DRIVER, "ceil_div(k.B, kRows)", "ceil_div(kRows, kRows)"),
    # Where things lie.
    "the states of the first direction": Mutant(
        KERNEL, "(direction * p.B + first_row) * H", "first_row * H"
    ),
    "y has one direction": Mutant(KERNEL, "* p.D + direction) * H", "* p.D) * H"),
    "weights of the first direction": Mutant(KERNEL, "p.w_hh[direction] +", "p.w_hh[0] +"),
    "terms of x for h": Mutant(KERNEL, "rows, H, first, step", "rows, p.I, first, step"),
    "packs of rows that are not whole": Mutant(DRIVER, "if (k.I % kCount ||", "if (false ||"),
    "packs of rows that begin anywhere": Mutant(DRIVER, "(first) % 16)", "(first) % 2)"),
    # What comes out.
    "one bias": Mutant(
        KERNEL, "    if (p.b_hh[direction]) sum += widen(p.b_hh[direction][at]);\n", ""
    ),
    "gates are kept unfolded": Mutant(KERNEL, "(kFolded<T> ? kept_gates : gate)", "gate"),
    "c is rounded to the storage type": Mutant(
        KERNEL, "p.c_n[state] = c.x;", "p.c_n[state] = T(c.x);"
    ),
    "c is kept where no backward is wanted": Mutant(KERNEL, "  if (!p.c) return;\n", ""),
    "nobody asks what failed earlier": Mutant(DRIVER, "  say_what_failed_earlier();\n", ""),
}
