// A kernel of one warp a block for each wrapper of ptx.cuh that concerns one block: words in, words
// out. Both sides, a GPU and the SIMT machine, run them on the same words (probes_dump.cu), and
// probes_check.cpp holds the machine's answers beside the definition of each operation.
//
// probes_between.cuh has those that concern several blocks, probes_table.cuh lists them all.
#pragma once

#include <cstring>

#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/ptx.cuh"

namespace lf::probes {

// Where a probe's words lie; every lane has kWords of each.
struct Words {
  static constexpr int kWords = 8;
  const uint32_t* in;  // [blocks, 32, kWords]
  uint32_t* out;       // [blocks, 32, kWords]      zeros at the start
  uint32_t* scratch;   // [blocks + 1, 32, kWords]  zeros at the start

  __device__ __forceinline__ int at(unsigned block, unsigned lane) const {
    return int(block * 32 + lane) * kWords;
  }
  __device__ __forceinline__ const uint32_t* input() const {
    return in + at(blockIdx.x, threadIdx.x);
  }
  __device__ __forceinline__ uint32_t* output() const { return out + at(blockIdx.x, threadIdx.x); }
};

__device__ __forceinline__ float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
__device__ __forceinline__ uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// In: a in 4 words, b in 2, c in 2. Out: a b + c in 4 floats, and then the same of their absolute
// values, which the error of the first is measured by.
template <class Run>
__device__ __forceinline__ void multiply(const Words& words, uint32_t without_sign, Run run) {
  const uint32_t* const in = words.input();
  for (int k = 0; k < 8; k += 4) {
    const uint32_t mask = k ? without_sign : ~0u;
    const uint32_t a[4] = {in[0] & mask, in[1] & mask, in[2] & mask, in[3] & mask};
    const uint32_t b[2] = {in[4] & mask, in[5] & mask};
    const uint32_t keep = k ? 0x7fffffff : ~0u;
    const float c[2] = {float_of(in[6] & keep), float_of(in[7] & keep)};
    float d[4] = {c[0], c[1], c[1], c[0]};
    run(d, a, b);
    for (int j = 0; j < 4; ++j) words.output()[k + j] = bits_of(d[j]);
  }
}
__global__ void multiply_bf16(Words words) {
  multiply(words, 0x7fff7fff, [](auto& d, auto& a, auto& b) { ptx::multiply_bf16(d, a, b); });
}
__global__ void multiply_f16(Words words) {
  multiply(words, 0x7fff7fff, [](auto& d, auto& a, auto& b) { ptx::multiply_f16(d, a, b); });
}
__global__ void multiply_tf32(Words words) {
  multiply(words, 0x7fffffff, [](auto& d, auto& a, auto& b) { ptx::multiply_tf32(d, a, b); });
}

// In, twice: an address in 2 words, rows, bytes of a row. Out: the address there in 2 words.
__global__ void moved(Words words) {
  for (int k = 0; k < 2; ++k) {
    const uint32_t* const in = words.input() + 4 * k;
    const char* from;
    memcpy(&from, in, sizeof from);
    const char* const to = ptx::moved(from, int(in[2]), int(in[3]));
    memcpy(words.output() + 2 * k, &to, sizeof to);
  }
}

__global__ void unknown(Words words) {
  for (int k = 0; k < Words::kWords; ++k) words.output()[k] = ptx::unknown(words.input()[k]);
}

__global__ void to_tf32(Words words) {
  for (int k = 0; k < Words::kWords; ++k)
    words.output()[k] = ptx::to_tf32(float_of(words.input()[k]));
}

__global__ void exp2(Words words) {
  for (int k = 0; k < Words::kWords; ++k)
    words.output()[k] = bits_of(ptx::exp2(float_of(words.input()[k])));
}
__global__ void reciprocal(Words words) {
  for (int k = 0; k < Words::kWords; ++k)
    words.output()[k] = bits_of(ptx::reciprocal(float_of(words.input()[k])));
}

// No wrapper, but of two texts as well: the conversions of CUDA's headers. Out: bfloat16 in the
// lower half, float16 in the upper one.
__global__ void narrow(Words words) {
  for (int k = 0; k < Words::kWords; ++k) {
    const float x = float_of(words.input()[k]);
    __nv_bfloat16 low;
    __half high;
    cuda::narrow(x, low);
    cuda::narrow(x, high);
    uint16_t bits[2];
    memcpy(bits, &low, 2);
    memcpy(bits + 1, &high, 2);
    words.output()[k] = bits[0] | uint32_t(bits[1]) << 16;
  }
}

// In: 4 words, and one that says how many of their bytes, 0 to 16, are valid. Out: these bytes, and
// zeros behind them.
__global__ void copy_some(Words words) {
  ptx::Shared shared;
  uint32_t* const row = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  const uint32_t* const in = words.input();
  for (int k = 0; k < 4; ++k) row[k] = ~in[k];
  __syncwarp();
  ptx::copy_async(row, in, int(in[7] % 17));
  ptx::commit_copies();
  ptx::wait_copies<0>();
  for (int k = 0; k < 4; ++k) words.output()[k] = row[k];
}

// Four groups, the third one empty. Out: 2 words of the first, 2 of the second, and 4 of the last,
// that is of the neighbour's input, each as soon as it must be there.
__global__ void copy_groups(Words words) {
  ptx::Shared shared;
  uint32_t* const first = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  uint32_t* const second = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  uint32_t* const last = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  uint32_t* const out = words.output();
  ptx::copy_async(first, words.input());
  ptx::commit_copies();
  ptx::copy_async(second, words.input() + 4);
  ptx::commit_copies();
  ptx::commit_copies();
  ptx::copy_async(last, words.in + words.at(blockIdx.x, threadIdx.x ^ 1));
  ptx::commit_copies();
  ptx::wait_copies<3>();
  for (int k = 0; k < 2; ++k) out[k] = first[k];
  ptx::wait_copies<2>();
  for (int k = 0; k < 2; ++k) out[2 + k] = second[k];
  ptx::wait_copies<0>();
  for (int k = 0; k < 4; ++k) out[4 + k] = last[k];
}
// The same with the wait that a double buffer has: the group of the next turn stays under way.
__global__ void copy_ahead(Words words) {
  ptx::Shared shared;
  uint32_t* const rows = shared.take<uint32_t>(2 * 32 * 4) + 4 * threadIdx.x;
  uint32_t* const out = words.output();
  ptx::copy_async(rows, words.input());
  ptx::commit_copies();
  for (int turn = 0; turn < 8; ++turn) {
    const unsigned lane = (threadIdx.x + turn + 1) % 32;
    ptx::copy_async(rows + (turn + 1) % 2 * 128, words.in + words.at(blockIdx.x, lane));
    ptx::commit_copies();
    ptx::wait_copies<1>();
    out[turn] = rows[turn % 2 * 128 + turn % 4];
  }
  ptx::wait_copies<0>();
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

// No wrappers, but the machine has them of its own: what CUDA builds in for the lanes of a warp.
__global__ void collectives(Words words) {
  const uint32_t x = words.input()[0];
  const unsigned lane = threadIdx.x, half = lane < 16 ? 0xffffu : 0xffff0000u;
  uint32_t* const out = words.output();
  out[0] = __shfl_sync(~0u, x, int(lane * 7));
  out[1] = __shfl_sync(~0u, x, int(lane * 3), 8);
  out[2] = __shfl_xor_sync(~0u, x, 13);
  out[3] = __shfl_xor_sync(~0u, x, 9, 8);
  out[4] = __shfl_down_sync(~0u, x, 3);
  out[5] = __shfl_down_sync(~0u, x, 5, 16);
  out[6] = __ballot_sync(~0u, int(x & 1));
  out[7] = __ballot_sync(half, int(x & 2));
}

// Out: whether the clocks never went back, and whether that of the SM went on.
__global__ void clocks(Words words) {
  const uint64_t start = ptx::cycles();
  uint64_t cycles = start, nanoseconds = ptx::nanoseconds();
  bool forward = true;
  for (int k = 0; k < 100; ++k) {
    const uint64_t later = ptx::cycles(), later_too = ptx::nanoseconds();
    forward = forward && later >= cycles && later_too >= nanoseconds;
    cycles = later, nanoseconds = later_too;
  }
  words.output()[0] = forward;
  words.output()[1] = cycles > start;
}

}  // namespace lf::probes
