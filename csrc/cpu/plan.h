// How a layer is shared among the members of a team, and a workspace among its parts: pure
// arithmetic.
//
// Directions are independent, and so are slices of the batch: sharing by these needs no
// synchronisation. What is left over shares the hidden units of one slice, at the price of a
// barrier per time step (0.2 to 0.3 us on two cores).
#pragma once

#include "common/macros.h"
#include "common/types.h"
#include "contract/params.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

// One member's share: directions [d0, d1), batch rows [b0, b1), and part `part` of `parts` of the
// hidden units. The parts of one slice share the barrier with index `barrier`.
struct Share {
  int64_t d0, d1, b0, b1;
  int part, parts, barrier;
};

// Below this a second thread costs more than it brings: waking a team takes about 5 us, in which
// one core does some 3e5 flops; a step's barrier as much as 1e4.
constexpr double kFlopsPerMember = 3e5, kFlopsPerPart = 3e4;

constexpr double step_flops(const Dims& d, int64_t rows) { return 8.0 * d.H * d.P * rows; }

constexpr int team_for(double flops, int threads) {
  const double wanted = flops / kFlopsPerMember;
  const int most = threads < kMaxTeam ? threads : kMaxTeam;
  return wanted < most ? int(wanted) + 1 : most;
}
constexpr int team_size(const Dims& d, int threads) {
  return team_for(d.D * step_flops(d, d.N), threads);
}

// The largest divisor of n that is at most limit (and at least 1).
constexpr int largest_divisor(int n, int64_t limit) {
  int best = 1;
  for (int k = 2; k <= n && k <= limit; ++k)
    if (n % k == 0) best = k;
  return best;
}

// tile_rows: how many rows a kernel handles at once; a slice holds at least as many.
constexpr Share share(const Dims& d, int tile_rows, int member, int members) {
  const int direction_groups = members % d.D == 0 ? int(d.D) : 1;
  const int group_members = members / direction_groups;
  const int slices = largest_divisor(group_members, d.B / tile_rows);
  const int left = group_members / slices;
  const int64_t slice_rows = ceil_div(d.B, slices);
  const double part_limit = step_flops(d, slice_rows) / kFlopsPerPart;
  const int parts = largest_divisor(left, part_limit < left ? int64_t(part_limit) : left);

  const int group = member / group_members, rank = member % group_members;
  const int slice = rank / left, part = rank % left;
  Share s{};
  s.d0 = direction_groups == 1 ? 0 : group;
  s.d1 = direction_groups == 1 ? d.D : group + 1;
  s.b0 = d.B * slice / slices;
  s.b1 = part < parts ? d.B * (slice + 1) / slices : s.b0;  // members without a part idle
  s.part = part;
  s.parts = parts;
  s.barrier = group * slices + slice;
  return s;
}

constexpr int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Rows [first, end) of a layer, of time step t on. Backward comes to them after later steps, unless
// they are the first; then come earlier steps, unless they are the last.
struct Rows {
  int64_t first, end, t;
  bool is_first, is_last;
};

// The rows of direction i that the steps [step, step1) hold.
static Rows rows_of(const LayerBackward& p, int64_t i, int64_t step, int64_t step1) {
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
