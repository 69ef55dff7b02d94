// What the SIMT machine must notice, a kernel each:   machine_check CASE [SEED]
//
// Prints "ok" where the kernel ran, and the machine's words where it did not; test_machine.py knows
// which it should be.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/lstm_fused/ptx.cuh"
#include "machine.h"

namespace {

using namespace lf;

unsigned flag;  // global memory of the kernels, zero at the start
float data[64];

// ---- one block

void sum_of_neighbours() {
  ptx::Shared shared;
  float* const at = shared.take<float>(64);
  at[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  data[threadIdx.x] = at[threadIdx.x] + at[(threadIdx.x + 1) % 64];
}
void no_barrier() {
  ptx::Shared shared;
  float* const at = shared.take<float>(64);
  at[threadIdx.x] = float(threadIdx.x);
  data[threadIdx.x] = at[threadIdx.x] + at[(threadIdx.x + 1) % 64];
}
void barrier_of_a_warp() {
  ptx::Shared shared;
  float* const at = shared.take<float>(64);
  at[threadIdx.x] = float(threadIdx.x);
  __syncwarp();
  data[threadIdx.x] = at[threadIdx.x] + at[(threadIdx.x + 1) % 64];
}
void divergent_barrier() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
void barrier_of_some() {
  if (threadIdx.x < 63) __syncthreads();
}
void shuffle_of_some() {
  if (threadIdx.x % 32 < 31) data[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}
void shuffle_from_outside() {
  if (threadIdx.x % 32 < 16) data[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 20);
}
void collectives() {
  const unsigned lane = threadIdx.x % 32;
  const bool right = __shfl_sync(~0u, lane, 5) == 5 &&
                     __shfl_xor_sync(~0u, lane, 3) == (lane ^ 3) &&
                     __shfl_down_sync(~0u, lane, 4) == (lane < 28 ? lane + 4 : lane) &&
                     __shfl_xor_sync(~0u, lane, 1, 8) == (lane ^ 1) &&
                     __ballot_sync(~0u, lane % 3 == 0) == 0x49249249u;
  data[threadIdx.x] = right;
}
void too_much_shared() {
  ptx::Shared shared;
  shared.take<float>(64);
  shared.take<float>(1);
}
void past_an_array() {
  ptx::Shared shared;
  float* const first = shared.take<float>(32);
  shared.take<float>(32);
  if (threadIdx.x == 0) first[32] = 1;
}
void reads_unwritten() {
  ptx::Shared shared;
  data[threadIdx.x] = shared.take<float>(64)[threadIdx.x];
}

// ---- copies

template <bool kWait, bool kBarrier>
void copies() {
  ptx::Shared shared;
  float* const at = shared.take<float>(64);
  alignas(16) static const float from[64] = {3, 3, 3, 3};
  if (threadIdx.x < 16) ptx::copy_async(at + 4 * threadIdx.x, from + 4 * threadIdx.x);
  ptx::commit_copies();
  if (kWait) ptx::wait_copies<0>();
  if (kBarrier) __syncthreads();
  data[threadIdx.x] = at[63 - threadIdx.x];
  if (!kWait) __syncthreads();
}
void misaligned_copy() {
  ptx::Shared shared;
  float* const at = shared.take<float>(64);
  ptx::copy_async(at + 1, data);
}
void misaligned_matrix() {
  ptx::Shared shared;
  uint32_t r[2];
  ptx::load_matrix(r, shared.take<float>(64) + 1);
}

// ---- several blocks

void waits_for_another_block() {
  if (threadIdx.x == 0) {
    ptx::add_release(&flag, 1);
    while (ptx::load_acquire(&flag) < gridDim.x) {
    }
  }
  __syncthreads();
}
template <bool kRelease>
void hands_over() {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    data[0] = 7;
    if (kRelease)
      ptx::add_release(&flag, 1);
    else
      __atomic_fetch_add(&flag, 1, __ATOMIC_RELAXED);
  } else {
    while (ptx::load_acquire(&flag) == 0) {
    }
    data[1] = data[0];
  }
}
alignas(16) uint32_t published[5];
// kAll: looks at every word that it uses. kAhead: has asked for them before there is one.
template <bool kAll, bool kAhead>
void publishes() {
  ptx::Shared shared;
  uint32_t* const came = shared.take<uint32_t>(4);
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    while (kAhead && !ptx::poll_word(published + 4)) {
    }
    for (uint32_t k = 0; k < 4; ++k) ptx::publish_word(published + k, k + 1);
  } else {
    uint32_t seen[4] = {};
    const auto complete = [&] { return seen[3] && (!kAll || (seen[0] && seen[1] && seen[2])); };
    if (kAhead) {
      ptx::poll_async(came, published);
      ptx::commit_copies();
      ptx::publish_word(published + 4, 1);
      while (!ptx::poll_word(published + 3)) {
      }
      ptx::wait_copies<0>();
      std::memcpy(seen, came, sizeof seen);
    }
    while (!complete()) ptx::poll_words(seen, published);
    data[5] = float(seen[0] + seen[1] + seen[2] + seen[3]);
  }
}
void publishes_a_flag() {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    data[0] = 7;
    ptx::publish_word(published, 1);
  } else {
    uint32_t seen[4];
    do ptx::poll_words(seen, published);
    while (!seen[0]);
    data[1] = data[0];
  }
}
void never_comes() {
  while (ptx::load_acquire(&flag) == 0) {
  }
}

// ---- clusters

template <bool kFirst, bool kLast>
void ring() {
  ptx::Shared shared;
  float* const mine = shared.take<float>(64);
  mine[threadIdx.x] = 10.f * ptx::cluster_rank();
  if (kFirst) ptx::cluster_sync();
  const float* const next = ptx::of_peer(mine, (ptx::cluster_rank() + 1) % gridDim.x);
  const float there = next[threadIdx.x ^ 1];
  if (kLast) ptx::cluster_sync();
  if (blockIdx.x == 0) data[threadIdx.x] = there;
}

// Every block sends its rank to the other one, twice.
template <unsigned kBytes, bool kWait>
void sends() {
  ptx::Shared shared;
  auto* const box = shared.take<uint32_t>(2 * 64 * 4);
  auto* const full = shared.take<uint64_t>(2);
  const unsigned rank = ptx::cluster_rank();
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) ptx::init_barrier(full + k, 1);
  ptx::cluster_sync();
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) ptx::arrive_expecting(full + k, kBytes);
  for (unsigned k = 0; k < 2; ++k) {
    const uint32_t value[4] = {rank, k, threadIdx.x, 5};
    ptx::store_async(box + (k * 64 + threadIdx.x) * 4, 1 - rank, value, full + k);
  }
  float sum = 0;
  for (unsigned k = 0; k < 2; ++k) {
    while (kWait && !ptx::phase_ended(full + k, 0)) {
    }
    const uint32_t* const got = box + (k * 64 + 63 - threadIdx.x) * 4;
    sum += float(got[0] == 1 - rank && got[1] == k && got[2] == 63 - threadIdx.x && got[3] == 5);
  }
  ptx::cluster_sync();
  if (rank == 0) data[threadIdx.x] = sum;
}
void barrier_not_made() {
  ptx::Shared shared;
  ptx::phase_ended(shared.take<uint64_t>(1), 0);
}
void arrives_twice() {
  ptx::Shared shared;
  auto* const barrier = shared.take<uint64_t>(1);
  if (threadIdx.x) return;
  ptx::init_barrier(barrier, 1);
  ptx::arrive_expecting(barrier, 16);
  ptx::arrive_expecting(barrier, 16);
}

struct Case {
  const char* name;
  void (*kernel)();
  simt::Launch launch;
  float wanted;  // data[5] at the end; -1: nothing is checked
};

constexpr size_t kShared = 256;  // 64 floats
const simt::Launch kBlock{.grid = 1, .block = 64, .shared = kShared};
const simt::Launch kBlocks{.grid = 4, .block = 64, .cooperative = true};
const simt::Launch kTwoBlocks{.grid = 2, .block = 64, .shared = kShared, .cooperative = true};
const simt::Launch kApart{.grid = 4, .block = 64};
const simt::Launch kPair{.grid = 2, .block = 64, .shared = 4096, .cluster = 2};

const Case cases[] = {
    {"sum_of_neighbours", sum_of_neighbours, kBlock, 11},
    {"no_barrier", no_barrier, kBlock, 11},
    {"barrier_of_a_warp", barrier_of_a_warp, kBlock, -1},
    {"divergent_barrier", divergent_barrier, kBlock, -1},
    {"barrier_of_some", barrier_of_some, kBlock, -1},
    {"shuffle_of_some", shuffle_of_some, kBlock, -1},
    {"shuffle_from_outside", shuffle_from_outside, kBlock, -1},
    {"collectives", collectives, kBlock, 1},
    {"too_much_shared", too_much_shared, kBlock, -1},
    {"past_an_array", past_an_array, kBlock, -1},
    {"reads_unwritten", reads_unwritten, kBlock, 0},
    {"copies", copies<true, true>, kBlock, 0},
    {"copies_without_wait", copies<false, true>, kBlock, -1},
    {"copies_without_barrier", copies<true, false>, kBlock, -1},
    {"misaligned_copy", misaligned_copy, kBlock, -1},
    {"misaligned_matrix", misaligned_matrix, kBlock, -1},
    {"waits_for_another_block", waits_for_another_block, kBlocks, -1},
    {"waits_without_cooperation", waits_for_another_block, kApart, -1},
    {"hands_over", hands_over<true>, kTwoBlocks, -1},
    {"hands_over_relaxed", hands_over<false>, kTwoBlocks, -1},
    {"publishes", publishes<true, false>, kTwoBlocks, 10},
    {"publishes_believing_one", publishes<false, false>, kTwoBlocks, 10},
    {"asks_ahead", publishes<true, true>, kTwoBlocks, 10},
    {"asks_ahead_believing_one", publishes<false, true>, kTwoBlocks, 10},
    {"publishes_a_flag", publishes_a_flag, kTwoBlocks, -1},
    {"never_comes", never_comes, kBlocks, -1},
    {"ring", ring<true, true>, kPair, 10},
    {"ring_without_first_sync", ring<false, true>, kPair, -1},
    {"ring_without_last_sync", ring<true, false>, kPair, 10},
    {"sends", sends<64 * 16, true>, kPair, 2},
    {"sends_without_wait", sends<64 * 16, false>, kPair, -1},
    {"sends_expecting_less", sends<32 * 16, true>, kPair, -1},
    {"sends_expecting_more", sends<65 * 16, true>, kPair, -1},
    {"barrier_not_made", barrier_not_made, kBlock, -1},
    {"arrives_twice", arrives_twice, kBlock, -1},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Case& test : cases) {
    if (argc < 2 || std::strcmp(test.name, argv[1])) continue;
    simt::seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    try {
      simt::run(test.launch, test.kernel);
    } catch (const simt::Error& error) {
      std::printf("%s\n", error.what());
      return 1;
    }
    if (test.wanted >= 0 && data[5] != test.wanted) {
      std::printf("data[5] is %g, should be %g\n", double(data[5]), double(test.wanted));
      return 1;
    }
    std::puts("ok");
    return 0;
  }
  std::puts("usage: machine_check <case> [seed]");
  return 2;
}
