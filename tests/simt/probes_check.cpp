// The twins of ptx.cuh beside the definition of each operation:   probes_check [SEED]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "machine.h"
#include "probes_inputs.h"

namespace {

using namespace lf::probes;
constexpr int kWords = Words::kWords;

struct Run {
  const Probe* probe;
  std::vector<uint32_t> in, out;
  uint32_t input(int block, int lane, int k) const { return in[(block * 32 + lane) * kWords + k]; }
  uint32_t output(int block, int lane, int k) const {
    return out[(block * 32 + lane) * kWords + k];
  }
};

int wrong = 0;
Random numbers{1};

void check(bool right, const std::string& what) {
  if (right) return;
  std::printf("%s is wrong\n", what.c_str());
  ++wrong;
}

// make: the word k of a lane.
using Make = std::function<uint32_t(int lane, int k)>;
uint32_t any(int, int) { return uint32_t(numbers.next()); }

Run run(const std::string& name, const Make& make = any) {
  for (const Probe& probe : kProbes) {
    if (name != probe.name) continue;
    const size_t words = size_t(probe.blocks) * 32 * kWords;
    Run result{&probe, std::vector<uint32_t>(words), std::vector<uint32_t>(words)};
    std::vector<uint32_t> scratch(words + 32 * kWords);
    for (size_t k = 0; k < words; ++k) result.in[k] = make(int(k / kWords % 32), int(k % kWords));
    lf::dev::launch<Words>({}, probe.grid(), probe.kernel,
                           {result.in.data(), result.out.data(), scratch.data()});
    return result;
  }
  throw simt::Error("there is no probe " + name);
}

// want: word k of what a lane of a block must give.
void check_words(const Run& run, int words,
                 const std::function<uint32_t(int block, int lane, int k)>& want) {
  for (int block = 0; block < int(run.probe->blocks); ++block)
    for (int lane = 0; lane < 32; ++lane)
      for (int k = 0; k < words; ++k)
        check(run.output(block, lane, k) == want(block, lane, k), run.probe->name);
}

// The matrices of m16n8k16 and m16n8k8 by the tables of the PTX ISA (9.7.14.5): kPer elements of 32
// / kPer bits a word. `store` makes bits of a number, `value` the number that these bits are.
template <int kPer, class Store, class Value>
void check_multiply(const char* name, Store store, Value value) {
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
  const Run result = run(name, [&](int lane, int word) {
    const int group = lane / 4, in_group = lane % 4;
    if (word >= 6) return bits_of(float(lane * (word == 6 ? 1 : -1)));
    uint32_t packed = 0;
    for (int e = 0; e < kPer; ++e)
      packed |= (word < 4 ? bits_a[group + word % 2 * 8][in_group * kPer + word / 2 * K / 2 + e]
                          : bits_b[in_group * kPer + (word - 4) * K / 2 + e][group])
                << 16 * e;
    return packed;
  });
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < 4; ++k) {
      const int m = lane / 4 + k / 2 * 8, n = lane % 4 * 2 + k % 2;
      double sum = k == 0 || k == 3 ? lane : -lane, size = lane;
      for (int i = 0; i < K; ++i) sum += a[m][i] * b[i][n], size += std::fabs(a[m][i] * b[i][n]);
      check(std::fabs(float_of(result.output(0, lane, k)) - sum) < 1e-6 * size, name);
      check(std::fabs(float_of(result.output(0, lane, 4 + k)) - size) < 1e-6 * size, name);
    }
}

void check_numbers() {
  check_multiply<2>(
      "multiply_bf16", [](float x) { return bits_of(x) >> 16; },
      [](uint32_t bits) { return double(float_of(bits << 16)); });
  const auto half = [](uint32_t bits) {  // normal numbers only
    return (bits >> 15 ? -1 : 1) *
           std::ldexp(1 + (bits & 0x3ff) / 1024., int(bits >> 10 & 31) - 15);
  };
  check_multiply<2>(
      "multiply_f16",
      [](float x) {
        const uint32_t exponent = x < 0 ? 14 : 13;
        return uint32_t(x < 0) << 15 | exponent << 10 | (bits_of(x) >> 13 & 0x3ff);
      },
      half);
  check_multiply<1>(
      "multiply_tf32", [](float x) { return bits_of(x) & ~0x1fffu; },
      [](uint32_t bits) { return double(float_of(bits)); });

  const Run rounded =
      run("to_tf32", [](int lane, int k) { return bits_of(1.f + float(lane * k) / 4096.f); });
  check_words(rounded, kWords, [](int, int lane, int k) {
    return bits_of(float(std::round((1 + lane * k / 4096.) * 1024) / 1024));
  });
  const Run kept = run("to_tf32", [](int lane, int k) { return 0x7f800000u | lane << k; });
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < kWords; ++k)
      check(std::isnan(float_of(kept.output(0, lane, k))) == (lane != 0), "to_tf32 of NaN");

  // Every float between two numbers of 7 or 10 bits of mantissa; ties go to the even one.
  const Run narrowed =
      run("narrow", [](int lane, int k) { return 0x3f800000u | (lane * 8 + k) << 11; });
  check_words(narrowed, kWords, [](int, int lane, int k) {
    const int eighth_bits = lane * 8 + k;  // of 12 bits of mantissa
    const auto to_even = [&](int bits) {
      return unsigned(std::nearbyint(eighth_bits / (1. * bits)));
    };
    return (0x3f80 + to_even(32)) | (0x3c00 + to_even(4)) << 16;
  });
}

void check_special_functions() {
  const auto number = [](int lane, int k) { return float(lane - 16) * 8.f + float(k) / 7; };
  const auto near = [](float got, double want) { return std::fabs(got - want) <= 1e-6 * want; };
  const Run powers = run("exp2", [&](int lane, int k) { return bits_of(number(lane, k)); });
  const Run inverses =
      run("reciprocal", [&](int lane, int k) { return bits_of(std::fabs(number(lane, k)) + 1); });
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < kWords; ++k) {
      const double x = number(lane, k), power = x < -126 ? 0 : std::exp2(x);
      check(near(float_of(powers.output(0, lane, k)), power), "exp2");
      check(near(float_of(inverses.output(0, lane, k)), 1 / (std::fabs(x) + 1)), "reciprocal");
    }
}

void check_places() {
  const Run same = run("unknown");
  check_words(same, kWords, [&](int block, int lane, int k) { return same.input(block, lane, k); });
  const Run moved = run("moved");
  check_words(moved, 4, [&](int block, int lane, int k) {
    const auto in = [&](int word) { return moved.input(block, lane, k / 2 * 4 + word); };
    const uint64_t from = in(0) | uint64_t(in(1)) << 32;
    const uint64_t to = from + uint64_t(int64_t(int(in(2))) * int(in(3)));
    return uint32_t(to >> k % 2 * 32);
  });
}

void check_stores() {
  const Run stored = run("store_words");
  check_words(stored, kWords, [&](int block, int lane, int k) {
    return stored.input(block, lane, (k + 4) % kWords);
  });
}

void check_copies() {
  const Run some = run("copy_some");
  check_words(some, 4, [&](int block, int lane, int k) {
    const int valid = int(some.input(block, lane, 7) % 17) - 4 * k;  // bytes of this word
    return valid <= 0 ? 0 : some.input(block, lane, k) & ~0u >> (valid < 4 ? 32 - 8 * valid : 0);
  });
  const Run groups = run("copy_groups");
  check_words(groups, 8, [&](int block, int lane, int k) {
    if (k >= 4) return groups.input(block, lane ^ 1, k - 4);
    return groups.input(block, lane, k < 2 ? k : k + 2);
  });
  const Run ahead = run("copy_ahead");
  check_words(ahead, 8, [&](int block, int lane, int turn) {
    return ahead.input(block, (lane + turn) % 32, turn % 4);
  });
  for (const int matrices : {2, 4}) {
    const Run loaded = run("load_" + std::to_string(matrices) + "_matrices");
    check_words(loaded, matrices, [&](int, int lane, int k) {
      const int named_by = k * 8 + lane / 4, row = (5 * named_by + 3) % 32, word = lane % 4;
      return row == 31 && word >= 2 ? 0 : loaded.input(0, row, word);
    });
  }
}

void check_lanes() {
  const Run done = run("collectives");
  const auto of = [&](int lane) { return done.input(0, lane, 0); };
  const auto ballot = [&](int from, int to, uint32_t bit) {
    uint32_t bits = 0;
    for (int lane = from; lane < to; ++lane) bits |= uint32_t((of(lane) & bit) != 0) << lane;
    return bits;
  };
  check_words(done, 8, [&](int, int lane, int k) {
    const uint32_t want[8] = {of(lane * 7 % 32),
                              of(lane / 8 * 8 + lane * 3 % 8),
                              of(lane ^ 13),
                              of((lane ^ 9) > (lane | 7) ? lane : lane ^ 9),
                              of(lane + 3 < 32 ? lane + 3 : lane),
                              of(lane % 16 + 5 < 16 ? lane + 5 : lane),
                              ballot(0, 32, 1),
                              ballot(lane / 16 * 16, lane / 16 * 16 + 16, 2)};
    return want[k];
  });
  check_words(run("clocks"), 2, [](int, int, int) { return 1; });
}

void check_flags() {
  const Run turns = run("take_turns");
  std::vector<uint32_t> word[2];
  for (int block = 0; block < 2; ++block)
    for (int lane = 0; lane < 32; ++lane) word[block].push_back(turns.input(block, lane, 0));
  for (int turn = 0; turn < kTurns; ++turn)
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t& to = word[1 - turn % 2][lane];
      to = mix(to, word[turn % 2][31 - lane]);
    }
  check_words(turns, 1, [&](int block, int lane, int) { return word[block][lane]; });

  const Run added = run("add_from_all");
  check_words(added, 5, [&](int, int lane, int k) {
    return k == 4 ? 4 * 32 * 33 / 2 : added.input(k, 31 - lane, 0);
  });
  for (const char* const name : {"publish", "ask_ahead"}) {
    const Run published = run(name);
    check_words(published, 8, [&](int block, int lane, int k) {
      return published.input(1 - block, 31 - lane, k) | 1;
    });
  }
  for (const char* const name : {"publish_pairs", "ask_for_pairs"}) {
    const Run published = run(name);
    check_words(published, 8, [&](int block, int lane, int k) {
      return published.input(1 - block, 31 - lane, k);
    });
  }
  const Run given_up = run("give_up");
  check_words(given_up, 4, [&](int block, int lane, int k) {
    const uint32_t want[4] = {0, given_up.input(block, lane, 0),
                              given_up.input(1 - block, 31 - lane, 2) | 1, 1};
    return want[k];
  });
}

template <unsigned kCluster>
void check_cluster() {
  constexpr int C = kCluster;
  const std::string size = "_" + std::to_string(C);
  const Run read = run("read_peers" + size);
  check_words(read, 8, [&](int block, int lane, int k) {
    const int rank = block % C, from = block - rank + (rank + k) % C;
    return k == 7 ? uint32_t(rank) : read.input(from, (31 - lane + k) % 32, 0);
  });
  const Run written = run("write_peers" + size);
  check_words(written, 8, [&](int block, int lane, int k) {
    const int rank = block % C, from = block - rank + (rank + 16 * C - 1 - k) % C;
    return written.input(from, 31 - lane, k);
  });

  const Run sent = run("send_to_peers" + size);
  using Values = std::vector<uint32_t>;  // [blocks, 32, 4]
  const auto at = [](int block, int lane, int w) { return (block * 32 + lane) * 4 + w; };
  const int blocks = int(sent.probe->blocks), lanes = 32 / C;
  Values value(size_t(blocks) * 32 * 4);
  for (int block = 0; block < blocks; ++block)
    for (int lane = 0; lane < 32; ++lane)
      for (int w = 0; w < 4; ++w) value[at(block, lane, w)] = sent.input(block, lane, w);
  for (unsigned phase = 0; phase < kPhases; ++phase) {
    const Values before = value;
    for (int block = 0; block < blocks; ++block)
      for (int lane = 0; lane < 32; ++lane)
        for (int k = 0; k < int(kMessages<kCluster>); ++k) {
          // The slot that this lane reads, who wrote into it, and by which of its lanes.
          const int slot = 31 - lane, from = slot / lanes, rank = block % C;
          const int by = slot % lanes * C + (rank + C - k % C) % C;
          for (int w = 0; w < 4; ++w) {
            uint32_t got = before[at(block - rank + from, by, w)];
            if (w == 0) got += uint32_t(k);
            if (w == 3) got ^= uint32_t(rank);
            uint32_t& to = value[at(block, lane, w)];
            to = mix(to, got);
          }
        }
  }
  check_words(sent, 4, [&](int block, int lane, int k) { return value[at(block, lane, k)]; });
}

void check_barriers() {
  check_words(run("count_arrivals"), 1, [](int, int, int) { return 0b01001'01001'01001'01001; });
  const Run counted = run("count_bytes");
  check_words(counted, 8,
              [&](int block, int lane, int k) { return counted.input(block ^ 1, 31 - lane, k); });
}

}  // namespace

int main(int argc, char** argv) {
  simt::seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
  try {
    check_special_functions();
    check_places();
    check_stores();
    check_numbers();
    check_copies();
    check_lanes();
    check_flags();
    check_cluster<2>();
    check_cluster<4>();
    check_cluster<8>();
    check_cluster<16>();
    check_barriers();
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
