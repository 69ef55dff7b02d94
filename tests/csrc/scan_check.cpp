// The CPU scan beside the oracle:   scan_check cpu.avx2 [nested]
//
// nested: fewer problems, by two threads at once, each in a parallel region already.
//
// Exits with 0 and "N problems, worst error X eps", with 1 and the first wrong tensor, or with 2
// and a sentence where the variant cannot run here. stderr holds a line per problem, written before
// it runs: the last one is the problem that crashed.
#include "scan_check.h"

#include "dispatch/registry.h"
#include "narrow.h"

namespace {

const lf::Row* find(const char* name) {
  for (const lf::Row& row : lf::variant_table())
    if (!std::strcmp(row.name, name) && row.device == lf::Device::cpu) return &row;
  return nullptr;
}

using lf::check::Random, lf::check::Size;

// The problems of one thread: how many, and the worst error.
struct Done {
  int problems = 0;
  double worst = 0;
};

Done check_all(const lf::Variant& variant, int rounds, uint64_t seed) {
  // Around the widths of vectors (2 to 16) and of panels (8 to 64), and enough for a team of three.
  const int64_t sizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                           12, 13, 14, 15, 16, 17, 31, 32, 33, 50, 65};
  Random random{seed};
  Done done;
  const auto check = [&]<class T, class W>(int64_t H, Size size) {
    const auto error = lf::check::check_one<T, W>(variant, {}, random, H, size, done.problems + 1);
    if (!error) return;
    ++done.problems;
    done.worst = std::max(done.worst, *error);
  };
  using lf::check::BFloat16, lf::check::Float16;
  const auto check_dtypes = [&](int64_t H, Size size) {
    check.operator()<float, float>(H, size);
    check.operator()<double, double>(H, size);
    check.operator()<BFloat16, BFloat16>(H, size);
    check.operator()<float, BFloat16>(H, size);
    check.operator()<float, Float16>(H, size);
  };
  for (int round = 0; round < rounds; ++round)
    for (const int64_t H : sizes) check_dtypes(H, Size::small);
  // Several chunks of backward need 65 units and 256 rows.
  for (const int64_t H : {1, 5, 16, 33, 65, 65, 65}) check_dtypes(H, Size::large);
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  const bool nested = argc == 3 && !std::strcmp(argv[2], "nested");
  const lf::Row* const row = argc == 2 || nested ? find(argv[1]) : nullptr;
  if (!row) {
    std::puts("usage: scan_check <name of a CPU variant, such as cpu.generic> [nested]");
    return 1;
  }
  if (const char* const reason = lf::why_not_here(*row)) {
    std::printf("%s: %s\n", row->name, reason);
    return 2;
  }
  Done all[2];
  if (nested) {
#pragma omp parallel for num_threads(2)
    for (int k = 0; k < 2; ++k) all[k] = check_all(*row->variant, 2, uint64_t(k) + 1);
  } else {
    all[0] = check_all(*row->variant, 8, 1);
  }
  std::printf("%d problems, worst error %.3g eps\n", all[0].problems + all[1].problems,
              std::max(all[0].worst, all[1].worst));
  return 0;
}
