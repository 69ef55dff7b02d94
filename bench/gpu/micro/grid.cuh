// Between the blocks of a cooperative grid, through L2: barriers, a hop, an exchange.
#pragma once

#include "clocked.cuh"

namespace lf::micro {

constexpr int kFlagPitch = 32;  // words: a flag has 128 bytes to itself

struct GridBarrier {
  Clocks* clocks;
  unsigned* flags;  // [blocks, kFlagPitch] zeros
  int rounds;
};

// The first round is not timed: blocks start at different moments.
template <class Wait>
__device__ __forceinline__ void rounds_of(const GridBarrier& p, Wait wait) {
  Patience patience;
  Stopwatch watch;
  for (unsigned round = 0; round <= unsigned(p.rounds); ++round) {
    if (round == 1) watch.start();
    __syncthreads();
    wait(patience, round);
    __syncthreads();
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
}

// One counter, to which every block adds.
__global__ void counter_barrier(GridBarrier p) {
  rounds_of(p, [&](Patience& patience, unsigned round) {
    if (threadIdx.x) return;
    ptx::add_release(p.flags, 1);
    patience.until([&] { return ptx::load_acquire(p.flags) >= (round + 1) * gridDim.x; });
  });
}

// A flag of each block, and a thread for each flag. At least as many threads as blocks.
__global__ void flag_barrier(GridBarrier p) {
  rounds_of(p, [&](Patience& patience, unsigned round) {
    if (threadIdx.x == 0) ptx::add_release(p.flags + blockIdx.x * kFlagPitch, 1);
    if (threadIdx.x >= gridDim.x) return;
    const unsigned* const flag = p.flags + threadIdx.x * kFlagPitch;
    patience.until([&] { return ptx::load_acquire(flag) > round; });
  });
}

struct Hop {
  Clocks* clocks;
  uint32_t* words;  // [2, rounds + 1, 4] zeros
  int rounds;
  unsigned partner;
};

// A word that is its own flag, from block 0 to its partner and back. Every round has a word of its
// own, as every time step has.
__global__ void hop(Hop p) {
  if (threadIdx.x || (blockIdx.x && blockIdx.x != p.partner)) return;
  Patience patience;
  Stopwatch watch;
  uint32_t* const here = p.words + (blockIdx.x ? (p.rounds + 1) * 4 : 0);
  const uint32_t* const there = p.words + (blockIdx.x ? 0 : (p.rounds + 1) * 4);
  for (int round = 0; round <= p.rounds; ++round) {
    if (round == 1) watch.start();
    if (blockIdx.x == 0) ptx::publish_word(here + 4 * round, 1);
    patience.until([&] {
      uint32_t seen[4];
      ptx::poll_words(seen, there + 4 * round);
      return seen[0] != 0;
    });
    if (blockIdx.x) ptx::publish_word(here + 4 * round, 1);
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
}

// All blocks give their part of a tile to all: h of a time step.
constexpr int kExchangeThreads = 256;
struct Exchange {
  Clocks* clocks;
  uint32_t* words;  // [rounds + 1, words of a tile] zeros
  unsigned* flags;  // [blocks, kFlagPitch] zeros
  int rounds;
};

// The words are their own flags: every thread polls kVectors times 16 bytes, all at once, and then
// again those that were not there.
template <int kVectors>
__global__ void __launch_bounds__(kExchangeThreads) word_exchange(Exchange p) {
  constexpr unsigned kTile = kVectors * kExchangeThreads * 4;
  ptx::Shared shared;
  uint32_t* const tile = shared.take<uint32_t>(kTile);
  const unsigned mine = kTile / gridDim.x;
  Patience patience;
  Stopwatch watch;
  uint32_t value = threadIdx.x;
  for (int round = 0; round <= p.rounds; ++round) {
    if (round == 1) watch.start();
    uint32_t* const words = p.words + size_t(round) * kTile;
    for (unsigned k = threadIdx.x; k < mine; k += kExchangeThreads)
      ptx::publish_word(words + blockIdx.x * mine + k, value | 1);
    uint32_t got[kVectors][4];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      ptx::poll_words(got[v], words + (v * kExchangeThreads + threadIdx.x) * 4);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const unsigned at = (v * kExchangeThreads + threadIdx.x) * 4;
      patience.until([&] {
        if (got[v][0] && got[v][1] && got[v][2] && got[v][3]) return true;
        ptx::poll_words(got[v], words + at);
        return false;
      });
      for (int k = 0; k < 4; ++k) tile[at + k] = got[v][k];
    }
    __syncthreads();
    value += tile[(threadIdx.x * 4 + round) % kTile];
    __syncthreads();
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
  use(value, p.clocks);
}

// The same by a flag of each block: stores, a flag, a look at all flags, loads.
template <int kVectors>
__global__ void __launch_bounds__(kExchangeThreads) flag_exchange(Exchange p) {
  constexpr unsigned kTile = kVectors * kExchangeThreads * 4;
  ptx::Shared shared;
  uint32_t* const tile = shared.take<uint32_t>(kTile);
  const unsigned mine = kTile / gridDim.x;
  Patience patience;
  Stopwatch watch;
  uint32_t value = threadIdx.x;
  for (int round = 0; round <= p.rounds; ++round) {
    if (round == 1) watch.start();
    uint32_t* const words = p.words + size_t(round) * kTile;
    for (unsigned k = threadIdx.x; k < mine; k += kExchangeThreads)
      words[blockIdx.x * mine + k] = value | 1;
    __syncthreads();
    if (threadIdx.x == 0) ptx::add_release(p.flags + blockIdx.x * kFlagPitch, 1);
    if (threadIdx.x < gridDim.x)
      patience.until(
          [&] { return ptx::load_acquire(p.flags + threadIdx.x * kFlagPitch) > unsigned(round); });
    __syncthreads();
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const unsigned at = (v * kExchangeThreads + threadIdx.x) * 4;
      ptx::copy_async(tile + at, words + at);
    }
    ptx::commit_copies();
    ptx::wait_copies<0>();
    __syncthreads();
    value += tile[(threadIdx.x * 4 + round) % kTile];
    __syncthreads();
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
  use(value, p.clocks);
}

}  // namespace lf::micro
