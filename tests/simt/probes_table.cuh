// All probes: how each is launched, what words it is given, and what a GPU's answer must have in
// common with the machine's. The order is that of trust: a later probe uses what earlier ones show.
#pragma once

#include "cuda/lstm_fused/dev.cuh"
#include "probes.cuh"
#include "probes_between.cuh"

namespace lf::probes {

// What the words of a lane are (probes_inputs.h).
enum class Inputs { bits, floats, bf16, f16, tf32 };

// What two answers must have in common.
enum class Answer {
  same,          // every bit
  same_but_nan,  // every bit, and NaN where the other has NaN
  near,          // floats within 2^-21 of each other, NaN where the other has NaN
  products,      // 4 sums of products, near each other by the 4 sums of absolute values behind them
};

struct Probe {
  const char* name;
  void (*kernel)(Words);
  Inputs inputs = Inputs::bits;
  Answer answer = Answer::same;
  unsigned blocks = 1;
  unsigned row_bytes = 0;    // dynamic shared memory, by lane
  unsigned barriers = 0;     // and as many counting barriers, for which it needs sm_90
  unsigned cluster = 1;      // more than one: needs sm_90
  bool cooperative = false;  // or whole clusters, one after another

  bool needs_sm_90() const { return barriers || cluster > 1; }
  dev::Grid grid() const {
    return {blocks, 32, row_bytes * size_t(32) + (barriers + 1) / 2 * 16, cluster, cooperative};
  }
};

template <unsigned kCluster>
constexpr Probe read_peers_of(const char* name) {
  return {name, read_peers<kCluster>, {}, {}, 2 * kCluster, 4, 0, kCluster};
}
template <unsigned kCluster>
constexpr Probe write_peers_of(const char* name) {
  return {name, write_peers<kCluster>, {}, {}, 2 * kCluster, 32, 0, kCluster};
}
template <unsigned kCluster>
constexpr Probe send_to_peers_of(const char* name) {
  return {name,         send_to_peers<kCluster>,      {}, {},
          2 * kCluster, 2 * 16 * kMessages<kCluster>, 2,  kCluster};
}

inline const Probe kProbes[] = {
    {"clocks", clocks},
    {"collectives", collectives},
    {"narrow", narrow, Inputs::floats},
    {"moved", moved},
    {"unknown", unknown},
    {"to_tf32", to_tf32, Inputs::floats, Answer::same_but_nan},
    {"exp2", exp2, Inputs::floats, Answer::near},
    {"reciprocal", reciprocal, Inputs::floats, Answer::near},
    {"copy_some", copy_some, {}, {}, 2, 16},
    {"copy_groups", copy_groups, {}, {}, 2, 3 * 16},
    {"copy_ahead", copy_ahead, {}, {}, 2, 2 * 16},
    {"store_words", store_words},
    {"load_2_matrices", load_2_matrices, {}, {}, 1, 16},
    {"load_4_matrices", load_4_matrices, {}, {}, 1, 16},
    {"multiply_bf16", multiply_bf16, Inputs::bf16, Answer::products},
    {"multiply_f16", multiply_f16, Inputs::f16, Answer::products},
    {"multiply_tf32", multiply_tf32, Inputs::tf32, Answer::products},
    {"take_turns", take_turns, {}, {}, 2, 0, 0, 1, true},
    {"add_from_all", add_from_all, {}, {}, 4, 0, 0, 1, true},
    {"publish", publish, {}, {}, 2, 0, 0, 1, true},
    {"ask_ahead", ask_ahead, {}, {}, 2, 16, 0, 1, true},
    {"publish_pairs", publish_pairs, {}, {}, 2, 0, 0, 1, true},
    {"ask_for_pairs", ask_for_pairs, {}, {}, 2, 16, 0, 1, true},
    {"give_up", give_up, {}, {}, 2, 0, 0, 1, true},
    {"count_arrivals", count_arrivals, {}, {}, 1, 0, 1},
    read_peers_of<2>("read_peers_2"),
    read_peers_of<4>("read_peers_4"),
    read_peers_of<8>("read_peers_8"),
    read_peers_of<16>("read_peers_16"),
    write_peers_of<2>("write_peers_2"),
    write_peers_of<4>("write_peers_4"),
    write_peers_of<8>("write_peers_8"),
    write_peers_of<16>("write_peers_16"),
    {"count_bytes", count_bytes, {}, {}, 4, 16, 1, 2},
    send_to_peers_of<2>("send_to_peers_2"),
    send_to_peers_of<4>("send_to_peers_4"),
    send_to_peers_of<8>("send_to_peers_8"),
    send_to_peers_of<16>("send_to_peers_16"),
};

}  // namespace lf::probes
