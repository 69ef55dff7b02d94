// A kernel of one warp for each wrapper of ptx.cuh: words in, words out. Both sides, a GPU and the
// SIMT machine, run them on the same words; probes_check.cpp holds the machine's answers beside the
// definition of each operation.
#pragma once

#include "cuda/lstm_fused/ptx.cuh"

namespace lf::probes {

// Where a probe's words lie; every lane has kWords of each.
struct Words {
  static constexpr int kWords = 8;
  const uint32_t* in;  // [blocks, 32, kWords]
  uint32_t* out;       // [blocks, 32, kWords]

  __device__ __forceinline__ int first() const {
    return int(blockIdx.x * 32 + threadIdx.x) * kWords;
  }
  __device__ __forceinline__ const uint32_t* input() const { return in + first(); }
  __device__ __forceinline__ uint32_t* output() const { return out + first(); }
};

// In: a in 4 words, b in 2. Out: a b in 4 floats.
template <class Run>
__device__ __forceinline__ void multiply(const Words& words, Run run) {
  const uint32_t* const in = words.input();
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  float d[4] = {};
  run(d, a, b);
  for (int k = 0; k < 4; ++k) reinterpret_cast<float*>(words.output())[k] = d[k];
}
__global__ void multiply_bf16(Words words) {
  multiply(words, [](auto& d, auto& a, auto& b) { ptx::multiply_bf16(d, a, b); });
}
__global__ void multiply_f16(Words words) {
  multiply(words, [](auto& d, auto& a, auto& b) { ptx::multiply_f16(d, a, b); });
}
__global__ void multiply_tf32(Words words) {
  multiply(words, [](auto& d, auto& a, auto& b) { ptx::multiply_tf32(d, a, b); });
}
__global__ void to_tf32(Words words) {
  for (int k = 0; k < Words::kWords; ++k)
    words.output()[k] = ptx::to_tf32(reinterpret_cast<const float*>(words.input())[k]);
}

// In and out: all words, the halves exchanged.
__global__ void store_words(Words words) {
  const uint32_t* const in = words.input();
  const uint32_t low[4] = {in[0], in[1], in[2], in[3]}, high[4] = {in[4], in[5], in[6], in[7]};
  ptx::store_words(words.output(), high);
  ptx::store_words(words.output() + 4, low);
}

// In: rows of 16 bytes to shared memory by cp.async, the last of 8 valid bytes; out: four matrices
// of them, in the order in which the lanes name the rows: lane l row 5 l + 3.
template <int kMatrices>
__device__ __forceinline__ void load_matrix(const Words& words) {
  ptx::Shared shared;
  uint32_t* const rows = shared.take<uint32_t>(32 * 4);
  const int lane = int(threadIdx.x);
  ptx::copy_async(rows + 4 * lane, words.input(), lane == 31 ? 8 : 16);
  ptx::commit_copies();
  ptx::wait_copies<0>();
  __syncwarp();
  uint32_t r[kMatrices];
  ptx::load_matrix(r, rows + (5 * lane + 3) % 32 * 4);
  for (int k = 0; k < kMatrices; ++k) words.output()[k] = r[k];
}
__global__ void load_2_matrices(Words words) { load_matrix<2>(words); }
__global__ void load_4_matrices(Words words) { load_matrix<4>(words); }

// Block 0 hands its words to block 1 by a flag, the last word of the output of block 0.
// Cooperative.
__global__ void hand_over(Words words) {
  unsigned* const flag = words.out + 32 * Words::kWords - 1;
  if (blockIdx.x == 0) {
    for (int k = 0; k < 4; ++k) words.output()[k] = words.input()[k];
    __syncwarp();
    if (threadIdx.x == 0) ptx::add_release(flag, 1);
  } else {
    if (threadIdx.x == 0)
      while (ptx::load_acquire(flag) == 0) {
      }
    __syncwarp();
    for (int k = 0; k < 4; ++k)
      words.output()[k] = words.out[(31 - threadIdx.x) * Words::kWords + k];
  }
}

// Every block of a cluster of 4 reads what its right neighbour wrote into its own shared memory.
__global__ void read_peer(Words words) {
  ptx::Shared shared;
  uint32_t* const mine = shared.take<uint32_t>(32);
  const unsigned rank = ptx::cluster_rank();
  mine[threadIdx.x] = words.input()[0];
  ptx::cluster_sync();
  words.output()[0] = ptx::of_peer(mine, (rank + 1) % 4)[31 - threadIdx.x];
  words.output()[1] = rank;
  ptx::cluster_sync();
}

// Every block of a cluster of 4 sends its words to its right neighbour, two phases of them.
__global__ void send_to_peer(Words words) {
  ptx::Shared shared;
  auto* const box = shared.take<uint32_t>(2 * 32 * 4);
  auto* const full = shared.take<uint64_t>(2);
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) {
      ptx::init_barrier(full + k, 1);
      ptx::arrive_expecting(full + k, 32 * 16);
    }
  ptx::cluster_sync();
  for (int k = 0; k < 2; ++k) {
    const uint32_t* const in = words.input() + 4 * k;
    const uint32_t value[4] = {in[0], in[1], in[2], in[3]};
    ptx::store_async(box + (k * 32 + threadIdx.x) * 4, (ptx::cluster_rank() + 1) % 4, value,
                     full + k);
  }
  for (int k = 0; k < 2; ++k) {
    while (!ptx::phase_ended(full + k, 0)) {
    }
    for (int word = 0; word < 4; ++word)
      words.output()[4 * k + word] = box[(k * 32 + 31 - threadIdx.x) * 4 + word];
  }
  ptx::cluster_sync();
}

}  // namespace lf::probes
