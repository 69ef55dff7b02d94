// The twins of ptx.cuh beside the definition of each operation:   probes_check [SEED]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../csrc/scan_oracle.h"
#include "machine.h"
#include "probes.cuh"

namespace {

using lf::probes::Words;
constexpr int kWords = Words::kWords;

struct Run {
  std::vector<uint32_t> in, out;
  uint32_t input(int block, int lane, int k) const { return in[(block * 32 + lane) * kWords + k]; }
  uint32_t output(int block, int lane, int k) const {
    return out[(block * 32 + lane) * kWords + k];
  }
};

int wrong = 0;
lf::oracle::Random numbers{1};

void check(bool right, const char* what) {
  if (right) return;
  std::printf("%s is wrong\n", what);
  ++wrong;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// make: the word k of a lane.
template <class Make>
Run run(void (*kernel)(Words), simt::Launch launch, Make make) {
  const size_t words = launch.grid.x * 32 * kWords;
  Run result{std::vector<uint32_t>(words), std::vector<uint32_t>(words)};
  for (size_t k = 0; k < words; ++k) result.in[k] = make(int(k / kWords % 32), int(k % kWords));
  launch.block = 32;
  simt::run(launch, [&] { kernel({result.in.data(), result.out.data()}); });
  return result;
}

uint32_t any(int, int) { return uint32_t(numbers.next()); }

// The matrices of m16n8k16 and m16n8k8 by the tables of the PTX ISA (9.7.14.5): kPer elements of 32
// / kPer bits a word. `store` makes bits of a number, `value` the number that these bits are.
template <int kPer, class Store, class Value>
void check_multiply(void (*kernel)(Words), const char* name, Store store, Value value) {
  constexpr int K = 8 * kPer;
  double a[16][K], b[K][8];
  uint32_t bits_a[16][K], bits_b[K][8];
  const auto draw = [&](double& x, uint32_t& bits) {
    bits = store(float(numbers.next() >> 40) * 0x1p-23f - 1);
    x = value(bits);
  };
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; ++k) draw(a[m][k], bits_a[m][k]);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < 8; ++n) draw(b[k][n], bits_b[k][n]);
  const Run result = run(kernel, {}, [&](int lane, int word) {
    const int group = lane / 4, in_group = lane % 4;
    uint32_t packed = 0;
    for (int e = 0; e < kPer; ++e) {
      uint32_t bits = 0;
      if (word < 4)
        bits = bits_a[group + word % 2 * 8][in_group * kPer + word / 2 * K / 2 + e];
      else if (word < 6)
        bits = bits_b[in_group * kPer + (word - 4) * K / 2 + e][group];
      packed |= bits << 16 * e;
    }
    return packed;
  });
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < 4; ++k) {
      const int m = lane / 4 + k / 2 * 8, n = lane % 4 * 2 + k % 2;
      double sum = 0;
      for (int i = 0; i < K; ++i) sum += a[m][i] * b[i][n];
      check(std::fabs(float_of(result.output(0, lane, k)) - sum) < 1e-5, name);
    }
}

void check_matrices() {
  check_multiply<2>(
      lf::probes::multiply_bf16, "multiply_bf16", [](float x) { return bits_of(x) >> 16; },
      [](uint32_t bits) { return double(float_of(bits << 16)); });
  const auto half = [](uint32_t bits) {  // normal numbers only
    return (bits >> 15 ? -1 : 1) *
           std::ldexp(1 + (bits & 0x3ff) / 1024., int(bits >> 10 & 31) - 15);
  };
  check_multiply<2>(
      lf::probes::multiply_f16, "multiply_f16",
      [](float x) {
        const uint32_t exponent = x < 0 ? 14 : 13;
        return uint32_t(x < 0) << 15 | exponent << 10 | (bits_of(x) >> 13 & 0x3ff);
      },
      half);
  check_multiply<1>(
      lf::probes::multiply_tf32, "multiply_tf32", [](float x) { return bits_of(x) & ~0x1fffu; },
      [](uint32_t bits) { return double(float_of(bits)); });

  const Run rounded = run(lf::probes::to_tf32, {},
                          [](int lane, int k) { return bits_of(1.f + lane * k / 4096.f); });
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < kWords; ++k)
      check(
          float_of(rounded.output(0, lane, k)) == std::round((1 + lane * k / 4096.) * 1024) / 1024,
          "to_tf32");

  const auto check_load = [](void (*kernel)(Words), int matrices, const char* name) {
    const Run loaded = run(kernel, {.shared = 32 * 16}, any);
    for (int lane = 0; lane < 32; ++lane)
      for (int k = 0; k < matrices; ++k) {
        const int named_by = k * 8 + lane / 4, row = (5 * named_by + 3) % 32, word = lane % 4;
        const uint32_t want = row == 31 && word >= 2 ? 0 : loaded.input(0, row, word);
        check(loaded.output(0, lane, k) == want, name);
      }
  };
  check_load(lf::probes::load_2_matrices, 2, "load_matrix of 2");
  check_load(lf::probes::load_4_matrices, 4, "load_matrix of 4");
}

void check_stores() {
  const Run stored = run(lf::probes::store_words, {}, any);
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < kWords; ++k)
      check(stored.output(0, lane, k) == stored.input(0, lane, (k + 4) % kWords), "store_words");
}

void check_between_blocks() {
  const Run handed = run(lf::probes::hand_over, {.grid = 2, .cooperative = true}, any);
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < 4; ++k)
      check(handed.output(1, lane, k) == handed.input(0, 31 - lane, k), "hand_over");

  const Run read = run(lf::probes::read_peer, {.grid = 8, .shared = 128, .cluster = 4}, any);
  for (int block = 0; block < 8; ++block)
    for (int lane = 0; lane < 32; ++lane) {
      const int right = block / 4 * 4 + (block + 1) % 4;
      check(read.output(block, lane, 0) == read.input(right, 31 - lane, 0), "of_peer");
      check(read.output(block, lane, 1) == uint32_t(block % 4), "cluster_rank");
    }

  const Run sent = run(lf::probes::send_to_peer, {.grid = 8, .shared = 2048, .cluster = 4}, any);
  for (int block = 0; block < 8; ++block)
    for (int lane = 0; lane < 32; ++lane)
      for (int k = 0; k < kWords; ++k) {
        const int left = block / 4 * 4 + (block + 3) % 4;
        check(sent.output(block, lane, k) == sent.input(left, 31 - lane, k), "store_async");
      }
}

}  // namespace

int main(int argc, char** argv) {
  simt::seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
  try {
    check_matrices();
    check_stores();
    check_between_blocks();
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
