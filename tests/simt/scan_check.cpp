// A CUDA variant in the SIMT machine beside the oracle:   simt_check simt.step SEED [ROUNDS [wide]]
//
// Exits as tests/csrc/scan_check.cpp does, and with 1 and the machine's words where a kernel did
// what it must not.
#include "scan_check.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "machine.h"
#include "variants.h"

template <>
struct lf::oracle::Storage<__nv_bfloat16> {
  using State = float;
  static constexpr DType kDType = DType::bf16;
  static constexpr const char* kName = "bf16";
  static constexpr double kEps = 0x1p-7, kTolerance = 2;
};
template <>
struct lf::oracle::Storage<__half> {
  using State = float;
  static constexpr DType kDType = DType::f16;
  static constexpr const char* kName = "f16";
  static constexpr double kEps = 0x1p-10, kTolerance = 2;
};

// float32 whose scans may round to TF32.
struct Tf32 {
  float value;
  Tf32() = default;
  Tf32(double x) : value(float(x)) {}
  operator float() const { return value; }
};
template <>
struct lf::oracle::Storage<Tf32> {
  using State = float;
  static constexpr DType kDType = DType::f32;
  static constexpr const char* kName = "tf32";
  static constexpr double kEps = 0x1p-10, kTolerance = 2;
};

using lf::check::Size;

int main(int argc, char** argv) {
  const lf::Variant variants[] = {simt::block(), simt::grid(), simt::step()};
  const lf::Variant* variant = nullptr;
  for (const lf::Variant& row : variants)
    if (argc >= 3 && !std::strcmp(row.name, argv[1])) variant = &row;
  if (!variant) {
    std::puts("usage: simt_check <name of a variant, such as simt.step> <seed> [rounds [wide]]");
    return 1;
  }
  if (!simt::block_knows_its_limits()) {
    std::puts("simt.block takes what a GPU cannot hold, or refuses what it can");
    return 1;
  }
  simt::seed = std::strtoull(argv[2], nullptr, 10);
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 2;
  const bool wide = argc > 4;
  lf::check::Random random{simt::seed + 1};
  double worst[5] = {};
  int problems = 0;
  const auto check = [&]<class T>(int kind, int64_t H, Size size = Size::small) {
    lf::Context context{};
    context.tf32 = std::is_same_v<T, Tf32>;
    // Some refuse projections, which half of the problems have.
    std::optional<double> error;
    for (int tries = 0; tries < 8 && !error; ++tries)
      error = lf::check::check_one<T>(*variant, context, random, H, size, problems + 1);
    if (!error) return;
    worst[kind] = std::max(worst[kind], *error);
    ++problems;
  };
  const auto check_all = [&](int64_t H) {
    check.operator()<float>(0, H);
    check.operator()<double>(1, H);
    check.operator()<__nv_bfloat16>(2, H);
    check.operator()<__half>(3, H);
    check.operator()<Tf32>(4, H);
  };
  try {
    for (int round = 0; round < rounds; ++round)
      for (const int64_t H : {1, 3, 4, 7, 8, 16, 17, 24, 33, 64}) check_all(H);
    check.operator()<__nv_bfloat16>(2, 1, Size::long_);
    if (wide)
      for (const int64_t H : {65, 96, 100, 128, 129, 160, 190, 192}) check_all(H);
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::printf("%d problems, worst error %.3g %.3g %.3g %.3g %.3g eps\n", problems, worst[0],
              worst[1], worst[2], worst[3], worst[4]);
  return 0;
}
