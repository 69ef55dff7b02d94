// How a layer is shared among the members of a team, and a workspace among its parts.
//
// Directions are independent, and so are slices of the batch: members that share by these do not
// wait for each other in a step. What is left over shares the hidden units of one slice, at the
// price of a barrier per time step (0.2 to 0.3 us on two cores).
#pragma once

#include "common/macros.h"
#include "common/types.h"
#include "contract/order.h"
#include "contract/params.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

// Below this a second thread costs more than it brings: waking a team takes about 5 us, in which
// one core does some 3e5 flops; a step's barrier as much as 1e4.
constexpr double kFlopsPerMember = 3e5, kFlopsPerPart = 3e4;

constexpr double step_flops(const Dims& d, int64_t rows) { return 8.0 * d.H * d.P * rows; }

constexpr int team_for(double flops, int threads) {
  const double wanted = flops / kFlopsPerMember;
  const int most = threads < kMaxTeam ? threads : kMaxTeam;
  return wanted < most ? int(wanted) + 1 : most;
}

constexpr int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// How many groups of members have directions of their own, slices there are of the batch, and parts
// of the hidden units of each.
struct Split {
  int groups, slices, parts;
  constexpr int members() const { return groups * slices * parts; }
};

// The split that has work for most of some members; among those first by directions, then by
// slices. tile_rows: how many rows a kernel handles at once; a slice holds at least as many on
// average. most_parts: into how many pieces a kernel can cut the hidden units.
constexpr Split split(const Dims& d, int tile_rows, int64_t most_parts, int members) {
  Split best{1, 1, 1};
  for (int groups = members < d.D ? 1 : int(d.D); groups > 0; --groups)
    for (int slices = int(clamp(d.B / tile_rows, 1, members / groups)); slices > 0; --slices) {
      const double worth = step_flops(d, ceil_div(d.B, slices)) / kFlopsPerPart;
      const int64_t limit = worth < double(most_parts) ? int64_t(worth) : most_parts;
      const Split next{groups, slices, int(clamp(limit, 1, members / groups / slices))};
      if (next.members() > best.members()) best = next;
    }
  return best;
}

// How the scan of a layer is split among at most so many threads.
constexpr Split scan_split(const Dims& d, int tile_rows, int64_t most_parts, int threads) {
  return split(d, tile_rows, most_parts, team_for(d.D * step_flops(d, d.N), threads));
}

// One member's share: directions [d0, d1), slice `slice` of `slices` of the batch, and part `part`
// of `parts` of the hidden units. The parts of one slice share the barrier with index `barrier`.
// A member that the split has no work for has no directions.
struct Share {
  int64_t d0, d1;
  int slice, slices, part, parts, barrier;
};
constexpr Share share(const Dims& d, const Split& split, int member) {
  if (member >= split.members()) return {};
  const int barrier = member / split.parts, group = barrier / split.slices;
  return {.d0 = split.groups == 1 ? 0 : group,
          .d1 = split.groups == 1 ? d.D : group + 1,
          .slice = barrier % split.slices,
          .slices = split.slices,
          .part = member % split.parts,
          .parts = split.parts,
          .barrier = barrier};
}

// Rows of the steps [step, step1) that belong to the first b sequences.
LF_FN int64_t rows_below(const Order& order, int64_t step, int64_t step1, int64_t b) {
  int64_t all = 0;
  for (int64_t s = step; s < step1; ++s) all += clamp(b, 0, order.rows(s));
  return all;
}

// The batch row that slice `slice` of `slices` begins with, if they are to have about as many rows
// of the steps [step, step1) each: sequences of different lengths lie longest first, so half of
// the sequences may be three quarters of the work.
static int64_t first_of_slice(const Order& order, int64_t step, int64_t step1, int slice,
                              int slices) {
  const int64_t early = order.rows(step), late = order.rows(step1 - 1);
  const int64_t B = early < late ? late : early;
  if (early == late || slice == 0 || slice == slices) return B * slice / slices;
  const int64_t wanted = rows_below(order, step, step1, B) * slice / slices;
  int64_t low = 0, high = B;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (rows_below(order, step, step1, middle) < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Rows [first, end) of a layer, of time step t on. Backward comes to them after later steps, unless
// they are the first; then come earlier steps, unless they are the last.
struct Rows {
  int64_t first, end, t;
  bool is_first, is_last;
};

// The rows of direction i that the steps [step, step1) hold.
LF_FN Rows rows_of(const LayerBackward& p, int64_t i, int64_t step, int64_t step1) {
  const int64_t T = p.d.T, t = i ? T - step1 : step;
  return {p.offsets[t], p.offsets[t + step1 - step], t, step1 == T, step == 0};
}

// The next n numbers of a workspace, of which `used` bytes are taken; null where base is: to
// measure.
template <class T>
static T* take(void* base, int64_t& used, int64_t n) {
  T* const place = base ? reinterpret_cast<T*>(static_cast<char*>(base) + used) : nullptr;
  used += ceil_div(n * int64_t(sizeof(T)), 64) * 64;
  return place;
}

}  // namespace lf::LF_ISA
