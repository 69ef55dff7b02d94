// How the CPU scan shares a layer among a team, over sizes and teams of 1 to 64:
//   share_check
#include <cstdio>
#include <numeric>
#include <set>
#include <vector>

#define LF_ISA oracle
#include "cpu/plan.h"

using namespace lf;
using namespace lf::oracle;

namespace {

int wrong = 0;

void check(bool right, const char* what, const Dims& d, int members) {
  if (right) return;
  std::printf("%s: T %lld, B %lld, H %lld, D %lld, %d members\n", what, static_cast<long long>(d.T),
              static_cast<long long>(d.B), static_cast<long long>(d.H), static_cast<long long>(d.D),
              members);
  ++wrong;
}

// Every part of every slice of every direction has one member.
void check_shares(const Dims& d, const Split& split, int members) {
  std::set<std::vector<int64_t>> seen;
  int64_t pieces = 0;
  for (int member = 0; member < members; ++member) {
    const Share s = share(d, split, member);
    for (int64_t i = s.d0; i < s.d1; ++i, ++pieces) seen.insert({i, s.slice, s.part});
    check(s.d0 == s.d1 || (s.slices == split.slices && s.parts == split.parts &&
                           s.barrier < split.groups * split.slices),
          "a share is not of the split", d, members);
  }
  const int64_t all = d.D * split.slices * split.parts;
  check(int64_t(seen.size()) == all && pieces == all, "not every piece has one member", d, members);
}

void check_splits() {
  constexpr int kTile = 6;
  constexpr int64_t kMostParts = 8;
  for (const int64_t D : {1, 2})
    for (const int64_t B : {1, 5, 11, 12, 32, 100})
      for (const int64_t H : {1, 32, 128, 1024}) {
        const Dims d{100, B, H, H, D, 100 * B};
        int before = 0;
        for (int members = 1; members <= 64; ++members) {
          const Split s = split(d, kTile, kMostParts, members);
          check(s.members() <= members, "more shares than members", d, members);
          // A team of 7 had one share where a team of 6 had six: only divisors were tried.
          check(s.members() >= before, "a larger team does less", d, members);
          before = s.members();
          check(s.slices == 1 || s.slices * kTile <= B, "a slice of less than a tile", d, members);
          check(s.parts <= kMostParts, "more parts than a kernel has", d, members);
          check(s.parts == 1 || step_flops(d, ceil_div(B, s.slices)) >= kFlopsPerPart * s.parts,
                "parts not worth a barrier", d, members);
          // What a team of just the wanted size is split into.
          const Split again = split(d, kTile, kMostParts, s.members());
          check(again.groups == s.groups && again.slices == s.slices && again.parts == s.parts,
                "a team that idles nowhere is split otherwise", d, members);
          check_shares(d, s, members);
        }
        // 11 tiles of work and more: everybody has some, but for what is left of a direction.
        if (B == 100 && H >= 128)
          for (int members = 1; members <= 16; ++members)
            check(split(d, kTile, kMostParts, members).members() > members * 3 / 4, "idle members",
                  d, members);
      }
}

// Slices have about equal numbers of rows of any steps, in both orders of time.
void check_cuts() {
  const std::vector<std::vector<int64_t>> lengths = {
      {9, 9, 9, 9, 9, 9, 9}, {100, 1, 1, 1}, {40, 33, 32, 31, 20, 10, 9, 8, 7, 6, 5, 5, 2, 1, 1}};
  for (const std::vector<int64_t>& all : lengths) {
    const int64_t T = all[0], B = int64_t(all.size());
    std::vector<int64_t> offsets(T + 1);
    for (const int64_t length : all)
      for (int64_t t = 0; t < length; ++t) ++offsets[t + 1];
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    const Dims d{T, B, 8, 8, 1, offsets[T]};
    for (const bool reverse : {false, true})
      for (const int slices : {1, 2, 3, 4})
        for (const auto& [step, step1] : std::vector<std::pair<int64_t, int64_t>>{
                 {0, T}, {0, 1}, {T - 1, T}, {T / 3, T - 1}, {1, T / 2}}) {
          if (step >= step1) continue;
          const Order order{offsets.data(), T, reverse};
          const auto rows_of = [&](int64_t b0, int64_t b1) {
            int64_t rows = 0;
            for (int64_t s = step; s < step1; ++s)
              rows += clamp(b1, 0, order.rows(s)) - clamp(b0, 0, order.rows(s));
            return rows;
          };
          int64_t before = 0;
          for (int slice = 0; slice < slices; ++slice) {
            const int64_t b0 = first_of_slice(order, step, step1, slice, slices);
            const int64_t b1 = first_of_slice(order, step, step1, slice + 1, slices);
            check(b0 == before && b0 <= b1, "slices do not follow each other", d, slices);
            before = b1;
            // One sequence more or less has at most so many of these steps.
            check(rows_of(b0, b1) <= rows_of(0, B) / slices + 2 * (step1 - step),
                  "a slice has too many rows", d, slices);
          }
          check(rows_of(before, B) == 0, "rows without a slice", d, slices);
        }
  }
}

}  // namespace

int main() {
  check_splits();
  check_cuts();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
