// Within a block: products of matrices, loads of matrices, barriers, and the cell.
#pragma once

#define LF_ISA cuda
#include "cell/lstm.h"
#include "clocked.cuh"

namespace lf::micro {

struct BlockRounds {
  Clocks* clocks;
  int rounds;
};

struct Bf16 {
  static constexpr int kProducts = 16 * 8 * 16;  // of one instruction
  static constexpr uint32_t kOne = 0x3f803f80;
  static __device__ __forceinline__ void run(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    ptx::multiply_bf16(d, a, b);
  }
};
struct Tf32 {
  static constexpr int kProducts = 16 * 8 * 8;
  static constexpr uint32_t kOne = 0x3f800000;
  static __device__ __forceinline__ void run(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    ptx::multiply_tf32(d, a, b);
  }
};

// kSums sums in turns: a sum waits for its last product, another sum need not.
template <class Type, int kSums>
__global__ void multiply_rate(BlockRounds p) {
  float d[kSums][4];
  for (int s = 0; s < kSums; ++s)
    for (int k = 0; k < 4; ++k) d[s][k] = float(threadIdx.x + s);  // or they would be one sum
  const uint32_t one = Type::kOne + (threadIdx.x << 16 & 0xf0000);
  const uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
  Stopwatch watch;
  __syncthreads();
  watch.start();
#pragma unroll 4
  for (int round = 0; round < p.rounds; ++round)
#pragma unroll
    for (int s = 0; s < kSums; ++s) Type::run(d[s], a, b);
  // The clock must not be read before the last product is there.
  bool finite = true;
  for (int s = 0; s < kSums; ++s)
    for (int k = 0; k < 4; ++k) finite = finite && d[s][k] >= 0;
  use(finite ? 0 : 0x5ca1ab1e, p.clocks);
  __syncthreads();
  watch.stop(p.clocks);
}

// All warps read the same 2 KB, as B operands are.
constexpr int kMatrixBytes = 2048;
__global__ void load_matrix_rate(BlockRounds p) {
  ptx::Shared shared;
  uint32_t* const rows = shared.take<uint32_t>(kMatrixBytes / 4);
  for (unsigned k = threadIdx.x; k < kMatrixBytes / 4; k += blockDim.x) rows[k] = k;
  uint32_t result = 0;
  Stopwatch watch;
  __syncthreads();
  watch.start();
  for (int round = 0; round < p.rounds; ++round) {
    __syncwarp();  // or ptxas takes what it loaded the round before
    uint32_t r[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) ptx::load_matrix(r[k], rows + (k * 32 + int(threadIdx.x % 32)) * 4);
#pragma unroll
    for (int k = 0; k < 4; ++k) result ^= r[k][0] ^ r[k][1] ^ r[k][2] ^ r[k][3];
  }
  use(result, p.clocks);
  __syncthreads();
  watch.stop(p.clocks);
}

__global__ void block_barrier(BlockRounds p) {
  Stopwatch watch;
  __syncthreads();
  watch.start();
  for (int round = 0; round < p.rounds; ++round) __syncthreads();
  watch.stop(p.clocks);
}

// The end of a time step: kCells cells of a thread, whose pre-activations follow from the last h.
template <int kCells>
__global__ void cell_latency(BlockRounds p) {
  float c[kCells], h[kCells];
  for (int k = 0; k < kCells; ++k) c[k] = 0, h[k] = float(threadIdx.x) * 1e-3f;
  Stopwatch watch;
  __syncthreads();
  watch.start();
  for (int round = 0; round < p.rounds; ++round)
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      const float x = h[k];
      float gate[4] = {x + 0.5f, 2 * x + 1, 1 - x, 0.5f - 2 * x}, unused[4];
      cuda::LstmCell::forward(gate, c[k], h[k], unused);
    }
  float sum = 0;
  for (int k = 0; k < kCells; ++k) sum += h[k];
  use(sum > 1e3f ? 0x5ca1ab1e : 0, p.clocks);
  __syncthreads();
  watch.stop(p.clocks);
}

}  // namespace lf::micro
