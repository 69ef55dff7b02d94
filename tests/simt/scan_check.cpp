// A CUDA variant in the SIMT machine beside the oracle:   simt_check simt.step SEED [ROUNDS [wide]]
// What the variants take on GPUs of several generations:  simt_check limits
//
// Exits as tests/csrc/scan_check.cpp does, and with 1 and the machine's words where a kernel did
// what it must not.
#include "scan_check.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/ptx.cuh"
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

namespace {

// A small layer of sequences that have all steps.
template <class T>
struct SmallLayer {
  int64_t steps, D, H;
  std::vector<T> h0;      // [D, B, H]
  std::vector<float> c0;  // [D, B, H]
  int64_t B = 2;
  std::vector<T> y{}, h_n{};  // [steps, B, D, H], [D, B, H]
  std::vector<float> c_n{};   // [D, B, H]

  // In memory that holds `byte` everywhere.
  void run(const lf::Variant& variant, int byte, bool tf32 = true) {
    const std::vector<T> w_hh(4 * H * H, T(0.1f));
    std::vector<T> gates(D * steps * B * 4 * H);
    for (size_t k = 0; k < gates.size(); ++k) gates[k] = T(0.1f * float(k % H % 7));
    std::vector<int64_t> offsets;
    for (int64_t t = 0; t <= steps; ++t) offsets.push_back(B * t);
    h_n.assign(D * B * H, T(0.f));
    c_n.assign(D * B * H, 0);
    y.resize(steps * B * D * H);
    std::memset(static_cast<void*>(y.data()), byte, y.size() * sizeof(T));
    lf::LayerForward p{};
    p.dtype = p.storage = lf::oracle::Storage<T>::kDType;
    p.d = {.T = steps, .B = B, .H = H, .P = H, .D = D, .N = B * steps};
    p.offsets = offsets.data();
    p.w_hh[0] = p.w_hh[1] = w_hh.data();
    p.h0 = h0.data();
    p.c0 = c0.data();
    p.gates = gates.data();
    p.y = y.data();
    p.h_n = h_n.data();
    p.c_n = c_n.data();
    const Guarded<unsigned char> workspace(int64_t(variant.forward_workspace(p)), false, 64);
    std::fill_n(workspace.data(), workspace.size(), static_cast<unsigned char>(byte));
    lf::Context context{};
    context.tf32 = tf32;
    context.workspace = workspace.data();
    variant.forward(p, context);
  }
};

// What blocks of cuda.grid hand to each other lies in memory that may have held anything, and may
// be any number, also the NaN by which they know what is not there yet. And a layer's last step,
// from the states after those before it, is to the bit what it is in one scan: in 16 bits no
// tolerance would tell whether c keeps all its digits from step to step.
template <class T>
const char* what_is_handed_on_wrongly(const lf::Variant& variant) {
  for (const int64_t H : {24, 21}) {  // in y itself, and beside it
    const std::vector<T> h0(2 * 2 * H, T(0.3f));
    const std::vector<float> c0(2 * 2 * H, 0.3f);
    SmallLayer<T> whole{4, 2, H, h0, c0}, same = whole, with_nan = whole;
    whole.run(variant, 0xff);
    same.run(variant, 0);
    if (same.y != whole.y) return "the output depends on what memory held before";

    for (const int64_t row : {0, 2})  // the first of each direction
      std::fill_n(with_nan.c0.begin() + row * H, H, std::bit_cast<float>(~0u));
    with_nan.run(variant, 0xff);
    for (size_t k = 0; k < whole.y.size(); ++k)
      if (k / (2 * H) % 2 == 0 ? !std::isnan(float(with_nan.y[k])) : with_nan.y[k] != whole.y[k])
        return "a state that is NaN is lost, or reaches another row";

    whole.D = 1;
    whole.run(variant, 0xff);
    SmallLayer<T> first{3, 1, H, h0, c0};
    first.run(variant, 0xff);
    SmallLayer<T> last{1, 1, H, first.h_n, first.c_n};
    last.run(variant, 0xff);
    if (!std::equal(last.y.rbegin(), last.y.rend(), whole.y.rbegin()))
      return "a state that is handed on is not rounded as a given one is";
    if (last.c_n != whole.c_n) return "c loses digits from step to step";
  }
  return nullptr;
}

// All that backward of a small layer gives.
template <class T>
std::vector<float> small_gradients(const lf::Variant& variant, int64_t steps, int64_t H,
                                   int64_t B) {
  const int64_t rows = B * steps;
  const std::vector<T> w_hh(4 * H * H, T(0.1f)), gates(rows * 4 * H, T(0.5f)), dy(rows * H, T(1.f));
  const std::vector<float> c(rows * H, 0.5f);
  std::vector<T> dgates(rows * 4 * H), dh0(B * H);
  std::vector<float> dc0(B * H);
  std::vector<int64_t> offsets;
  for (int64_t t = 0; t <= steps; ++t) offsets.push_back(B * t);
  lf::LayerBackward p{};
  p.dtype = p.storage = lf::oracle::Storage<T>::kDType;
  p.d = {.T = steps, .B = B, .H = H, .P = H, .D = 1, .N = rows};
  p.offsets = offsets.data();
  p.w_hh[0] = w_hh.data();
  p.gates = gates.data();
  p.c = c.data();
  p.dy = dy.data();
  p.dgates = dgates.data();
  p.dh0 = dh0.data();
  p.dc0 = dc0.data();
  const Guarded<unsigned char> workspace(int64_t(variant.backward_workspace(p, 1)), false, 64);
  lf::Context context{};
  context.tf32 = true;
  context.workspace = workspace.data();
  variant.backward(p, context);
  std::vector<float> all(dgates.begin(), dgates.end());
  all.insert(all.end(), dh0.begin(), dh0.end());
  all.insert(all.end(), dc0.begin(), dc0.end());
  return all;
}

// Whether a pass says that an earlier one went wrong, instead of running.
template <class Run>
bool complains(Run run) {
  try {
    run();
    return false;
  } catch (const simt::Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    return std::strstr(error.what(), "cuda.grid") && std::strstr(error.what(), "NaN");
  }
}

// A pass of cuda.grid that does not have all of its blocks at once ends, with numbers that look
// wrong. The next pass says so, and no other one.
template <class Run>
const char* what_is_wrong_with_giving_up(int64_t waits, Run run) {
  const std::vector<float> right = run();
  const unsigned patience = std::exchange(lf::dev::patience_here, 128);
  const int told = lf::ptx::told_host;
  simt::late_blocks = 1;
  simt::late_waits = 0;
  const std::vector<float> wrong = run();
  simt::late_blocks = 0;
  lf::dev::patience_here = patience;
  const auto nans =
      std::count_if(wrong.begin(), wrong.end(), [](float x) { return std::isnan(x); });
  if (size_t(nans) < wrong.size() / 2)
    return "numbers of a pass that is given up do not look wrong";
  if (lf::ptx::told_host != told + 1) return "the host is not told once that a launch is given up";
  // Each of its 256 threads asks after 8 looks.
  if (simt::late_waits > uint64_t(5 * 256 * waits)) return "a block that starts late waits in vain";
  if (!complains(run)) return "nobody says that a launch was given up";
  if (run() != right) return "a pass is wrong after one that was given up";
  return nullptr;
}
// turns: of a group, with blocks of which the device has no more.
template <class T>
const char* what_is_wrong_with_giving_up(const lf::Variant& variant, int turns) {
  const int64_t steps = turns > 1 ? 4 : 10, H = turns > 1 ? 70 : 24, B = turns > 1 ? 16 * turns : 2;
  const lf::dev::Limits before = lf::dev::limits_here;
  if (turns > 1) lf::dev::limits_here.multiprocessors = 8;
  const auto forward = [&] {
    SmallLayer<T> layer{steps, 1, H, std::vector<T>(B * H, T(0.3f)), std::vector<float>(B * H), B};
    layer.run(variant, 0xff);
    return std::vector<float>(layer.y.begin(), layer.y.end());
  };
  const auto backward = [&] { return small_gradients<T>(variant, steps, H, B); };
  // With two rows few threads wait; with all, each does in every turn, backward twice.
  const int64_t waits = turns > 1 ? 4 * steps * turns : steps;
  const char* words = what_is_wrong_with_giving_up(waits, forward);
  if (!words) words = what_is_wrong_with_giving_up(waits, backward);
  lf::dev::limits_here = before;
  return words;
}

// Every pass of every variant begins with what went wrong earlier.
bool says_what_failed_earlier(const lf::Variant& variant) {
  lf::dev::alarm_here = 1;
  if (!complains([&] { variant.forward({}, {}); })) return false;
  lf::dev::alarm_here = 1;
  return complains([&] { variant.backward({}, {}); });
}

// An infinite state saturates the gates of float32, though no part of it but the first is a number:
// i, f and o are 1, and g is as well.
bool takes_infinite_states(const lf::Variant& variant) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t H = 24;
  SmallLayer<float> layer{1, 1, H, std::vector<float>(2 * H), std::vector<float>(2 * H, 0.25f)};
  layer.h0[5] = kInfinity;  // of the first row
  layer.run(variant, 0, false);
  return std::all_of(layer.c_n.begin(), layer.c_n.begin() + H, [](float c) { return c == 1.25f; });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && !std::strcmp(argv[1], "limits")) {
    const struct {
      const char* name;
      bool right;
    } variants[] = {{"simt.block", simt::block_knows_its_limits()},
                    {"simt.cluster", simt::cluster_knows_its_limits()},
                    {"simt.grid", simt::grid_knows_its_limits()}};
    int wrong = 0;
    for (const auto& variant : variants) {
      if (variant.right) continue;
      std::printf("%s takes what a GPU cannot hold, or refuses what it can\n", variant.name);
      ++wrong;
    }
    if (!simt::grid_has_room_for_what_it_streams()) {
      std::puts("simt.grid asks for less memory than it streams from");
      ++wrong;
    }
    if (!wrong) std::puts("ok");
    return wrong != 0;
  }
  const lf::Variant variants[] = {simt::block(), simt::cluster(), simt::decode(), simt::grid(),
                                  simt::step()};
  const lf::Variant* variant = nullptr;
  for (const lf::Variant& row : variants)
    if (argc >= 3 && !std::strcmp(row.name, argv[1])) variant = &row;
  if (!variant) {
    std::puts("usage: simt_check <name of a variant, such as simt.step> <seed> [rounds [wide]]");
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
  // On a GPU that has so many multiprocessors, and of shared memory so many KB a block.
  const auto check_on = [&]<class T>(int multiprocessors, int kind, int64_t H, Size size,
                                     size_t shared = 227) {
    const lf::dev::Limits before =
        std::exchange(lf::dev::limits_here, {90, shared << 10, multiprocessors});
    check.operator()<T>(kind, H, size);
    lf::dev::limits_here = before;
  };
  // One takes single steps only.
  const bool steps = !std::strcmp(variant->name, "simt.decode");
  const auto check_all = [&](int64_t H) {
    const Size size = steps ? Size::step : Size::small;
    check.operator()<float>(0, H, size);
    check.operator()<double>(1, H, size);
    check.operator()<__nv_bfloat16>(2, H, size);
    check.operator()<__half>(3, H, size);
    check.operator()<Tf32>(4, H, size);
  };
  try {
    for (const auto check_states :
         {what_is_handed_on_wrongly<Tf32>, what_is_handed_on_wrongly<__nv_bfloat16>})
      if (const char* const words = steps ? nullptr : check_states(*variant)) {
        std::printf("%s: %s\n", variant->name, words);
        return 1;
      }
    if (!says_what_failed_earlier(*variant)) {
      std::printf("%s does not say that an earlier pass went wrong\n", variant->name);
      return 1;
    }
    if (!steps && !takes_infinite_states(*variant)) {
      std::printf("%s: an infinite state is not what it is in float32\n", variant->name);
      return 1;
    }
    if (!std::strcmp(variant->name, "simt.grid")) {
      using Check = const char* (*)(const lf::Variant&, int turns);
      for (const Check check_giving_up : {Check(what_is_wrong_with_giving_up<Tf32>),
                                          Check(what_is_wrong_with_giving_up<__nv_bfloat16>)})
        for (const int turns : {1, 3})  // of three the words of the next are asked for ahead
          if (const char* const words = check_giving_up(*variant, turns)) {
            std::printf("%s: %s\n", variant->name, words);
            return 1;
          }
      // Terms of all warps, the second bucket, several groups, and launches for a part of the
      // rows.
      check.operator()<Tf32>(4, 126, Size::brief);
      check_on.operator()<Tf32>(20, 4, 130, Size::brief);
      check_on.operator()<float>(20, 0, 130, Size::brief);
      check_on.operator()<__nv_bfloat16>(8, 2, 70, Size::many);
      check_on.operator()<Tf32>(17, 4, 17, Size::many);
      // Three turns of 16 rows, which end and begin at different steps.
      check_on.operator()<__nv_bfloat16>(8, 2, 120, Size::turns);
      check_on.operator()<Tf32>(9, 4, 126, Size::turns);
      // A unit past the last one, whose word blocks of a third group of units wait for.
      check_on.operator()<float>(24, 0, 257, Size::brief);
      check_on.operator()<Tf32>(24, 4, 257, Size::turns);
      // What a block has no memory for comes out of L2: for two groups at once and one after the
      // other, of 8 rows at a time and forward of 16.
      check_on.operator()<float>(56, 0, 390, Size::both, 99);
      check_on.operator()<Tf32>(40, 4, 514, Size::both, 99);
      check_on.operator()<Tf32>(40, 4, 514, Size::brief, 99);
      // Half of the units a block, where there are blocks enough for all groups of 8 rows.
      check_on.operator()<Tf32>(99, 4, 258, Size::few);
      check_on.operator()<float>(99, 0, 261, Size::few);
    }
    if (!std::strcmp(variant->name, "simt.cluster")) {
      // Turns, on a GPU that has room for one or two clusters; a bucket whose blocks have more than
      // one set of units, the last block few.
      check_on.operator()<__nv_bfloat16>(1, 2, 20, Size::turns);
      check_on.operator()<Tf32>(6, 4, 35, Size::turns);
      check.operator()<Tf32>(4, 130, Size::brief);
      check.operator()<float>(0, 130, Size::brief);
      check.operator()<__nv_bfloat16>(2, 165, Size::brief);
    }
    for (int round = 0; round < rounds; ++round)
      for (const int64_t H : {1, 3, 4, 7, 8, 16, 17, 24, 33, 64}) check_all(H);
    check.operator()<__nv_bfloat16>(2, 1, Size::long_);
    if (wide) {
      for (const int64_t H : {65, 96, 100, 128, 129, 160, 190}) check_all(H);
      // Wider buckets of cuda.grid, and its last of float32; registers do not hold W_hh of these.
      check_on.operator()<__nv_bfloat16>(32, 2, 257, Size::brief);
      check_on.operator()<Tf32>(32, 4, 258, Size::brief);
      check_on.operator()<__half>(80, 3, 1025, Size::brief);
      if (!std::strcmp(variant->name, "simt.grid")) {
        check_on.operator()<__nv_bfloat16>(104, 2, 1550, Size::brief);  // one copy of 16 rows
        check_on.operator()<Tf32>(56, 4, 780, Size::turns);             // and three turns of them
        // Wider buckets and what streams, of 16 rows at a time in both passes.
        check_on.operator()<__half>(24, 3, 270, Size::turns);
        check_on.operator()<Tf32>(40, 4, 514, Size::turns, 99);
        check_on.operator()<Tf32>(48, 4, 600, Size::turns);
        check_on.operator()<float>(64, 0, 390, Size::both, 99);  // two groups backward, too
        // Widths that stream, and those of few rows, some for each seed.
        if (simt::seed % 2) {
          check_on.operator()<__nv_bfloat16>(100, 2, 514, Size::few);
          check_on.operator()<Tf32>(100, 4, 530, Size::few);
          check_on.operator()<float>(100, 0, 770, Size::few);
          check_on.operator()<__half>(72, 3, 1030, Size::brief, 99);
          check_on.operator()<Tf32>(80, 4, 1170, Size::both);
        } else {
          check_on.operator()<__half>(100, 3, 770, Size::few);
          check_on.operator()<float>(100, 0, 530, Size::few);
          check_on.operator()<Tf32>(100, 4, 770, Size::few);
          check_on.operator()<__nv_bfloat16>(72, 2, 1030, Size::both, 99);
          check_on.operator()<Tf32>(104, 4, 1540, Size::both);
        }
      }
      check_on.operator()<float>(64, 0, 1024, Size::brief);
      if (!std::strcmp(variant->name, "simt.cluster")) {  // and those of its own
        check.operator()<__nv_bfloat16>(2, 512, Size::brief);
        check.operator()<Tf32>(4, 390, Size::brief);
        check.operator()<float>(0, 512, Size::brief);
      }
    }
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::printf("%d problems, worst error %.3g %.3g %.3g %.3g %.3g eps\n", problems, worst[0],
              worst[1], worst[2], worst[3], worst[4]);
  return 0;
}
