// How the rows of one direction follow each other in time.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace lf::LF_ISA {

// Processing step s is time step t(s). Rows are packed by time (contract/params.h), longest
// sequence first, so the rows that two neighbouring steps share are the first ones of both.
struct Order {
  const int64_t* offsets;  // [T + 1]
  int64_t T;
  bool reverse;

  int64_t t(int64_t s) const { return reverse ? T - 1 - s : s; }
  int64_t first_row(int64_t s) const { return offsets[t(s)]; }
  int64_t rows(int64_t s) const { return s < 0 || s >= T ? 0 : offsets[t(s) + 1] - offsets[t(s)]; }
  // Batch rows below this continue a sequence that step s - 1 holds too; the others start.
  int64_t continued(int64_t s) const { return rows(s) < rows(s - 1) ? rows(s) : rows(s - 1); }
  // Batch rows below this go on in step s + 1; the others end.
  int64_t continuing(int64_t s) const { return rows(s) < rows(s + 1) ? rows(s) : rows(s + 1); }
};

}  // namespace lf::LF_ISA
