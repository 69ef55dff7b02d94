// The CPU scan beside the oracle:   scan_check cpu.avx2
//
// Exits with 0 and "N problems, worst error X eps", with 1 and the first wrong tensor, or with 2
// and a sentence where the variant cannot run here. stderr holds a line per problem, written before
// it runs: the last one is the problem that crashed.
#include "scan_check.h"

#include "bfloat16.h"
#include "dispatch/registry.h"

namespace {

const lf::Row* find(const char* name) {
  for (const lf::Row& row : lf::variant_table())
    if (!std::strcmp(row.name, name) && row.device == lf::Device::cpu) return &row;
  return nullptr;
}

}  // namespace

using lf::check::Random, lf::check::Size;

int main(int argc, char** argv) {
  const lf::Row* const row = argc == 2 ? find(argv[1]) : nullptr;
  if (!row) {
    std::puts("usage: scan_check <name of a CPU variant, such as cpu.generic>");
    return 1;
  }
  if (const char* const reason = lf::why_not_here(*row)) {
    std::printf("%s: %s\n", row->name, reason);
    return 2;
  }
  constexpr int kRounds = 8;
  // Around the widths of vectors (2 to 16) and of panels (8 to 64), and enough for a team of three.
  const int64_t sizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                           12, 13, 14, 15, 16, 17, 31, 32, 33, 50, 65};
  Random random{1};
  double worst = 0;
  int problems = 0;
  const auto check = [&]<class T>(int64_t H, Size size) {
    const auto error = lf::check::check_one<T>(*row->variant, {}, random, H, size, problems + 1);
    if (!error) return;
    ++problems;
    worst = std::max(worst, *error);
  };
  const auto check_all = [&](int64_t H, Size size) {
    check.operator()<float>(H, size);
    check.operator()<double>(H, size);
    check.operator()<lf::check::BFloat16>(H, size);
  };
  for (int round = 0; round < kRounds; ++round)
    for (const int64_t H : sizes) check_all(H, Size::small);
  for (const int64_t H : {1, 5, 16, 33, 65}) check_all(H, Size::large);
  std::printf("%d problems, worst error %.3g eps\n", problems, worst);
  return 0;
}
