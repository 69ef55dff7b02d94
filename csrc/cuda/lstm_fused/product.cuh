// The product of a time step: a constant matrix, spread over a block's threads as product_plan.h
// says, times a few columns that lie in shared memory.
//
// mma.sync in 16 bits and TF32, with the matrix as its first factor, so that the few columns are
// its narrow side. In IEEE float32 fused multiply-adds: a lane sums over its quarter of a row, and
// the four lanes of a quad exchange their sums.
//
// Or float32 by three products in TF32, after Ootomo and Yokota, "Recovering single precision
// accuracy from Tensor Cores" (2022). A factor is its first 11 bits and a low part, the next 11; of
// the product of two all is added up but low times low, 2^-23 of it on average. Tensor cores cut
// sums off where float32 rounds them, and that adds up: over the 128 terms of a warp, where they
// have one sign, to four times what the one rule allows (tests/close.py). So they add up the terms
// of a slice, and plain additions the slices. Products with a low part, 2^-11 of the others, have
// sums of their own, where it does not matter.
//
// First parts are cut, not rounded, so that none becomes infinite. Of an infinite factor the low
// part is NaN, and so are sums of low parts; but the other sum is then infinite or NaN as in
// float32, and counts alone, but for a NaN of h0 with nothing in its first 11 bits, which counts as
// infinite. Factors below 2^-115 lose of their low part what is below 2^-136.
//
// Bound, forward with H = 128 and 8 columns: 4 H H 8 multiply-adds, 0.24 us at the 1270 a clock
// that mma.sync is said to reach in bf16. Each warp reads all columns, 2 KB, 16 bytes a lane. Three
// products in TF32 take six times as long, where the scheduler keeps up: for two slices of a tile
// it gives out 6 mma.sync, of 6.4 clocks each, 16 instructions that split fragments and 8
// additions, and 16 that split columns, for every tile or once for four.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/lstm_fused/product_plan.h"
#include "cuda/lstm_fused/ptx.cuh"

namespace lf::cuda {

// Storage: the elements of tensors. Factor: what is multiplied, as it lies in shared memory.
template <Product>
struct Kind;
template <>
struct Kind<Product::bf16> {
  using Storage = __nv_bfloat16;
  using Factor = __nv_bfloat16;
  static __device__ __forceinline__ Factor factor(Storage x) { return x; }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_bf16(d, a, b);
  }
};
template <>
struct Kind<Product::f16> {
  using Storage = __half;
  using Factor = __half;
  static __device__ __forceinline__ Factor factor(Storage x) { return x; }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_f16(d, a, b);
  }
};
template <>
struct Kind<Product::tf32> {
  using Storage = float;
  using Factor = uint32_t;
  static __device__ __forceinline__ Factor factor(Storage x) { return ptx::to_tf32(x); }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_tf32(d, a, b);
  }
};
template <>
struct Kind<Product::ieee> {
  using Storage = float;
  using Factor = float;
  static __device__ __forceinline__ Factor factor(Storage x) { return x; }
};
template <>
struct Kind<Product::tf32x3> {
  using Storage = float;
  using Factor = uint32_t;
  static __device__ __forceinline__ Factor factor(Storage x) {
    Factor bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  // Of the matrix, once: the nearest of 22 bits, but where that would be infinite.
  static __device__ __forceinline__ Factor constant(Storage x) {
    const Factor bits = factor(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fffe000;
    return ((bits & 0x7fffffff) < 0x7f7ffffe ? bits + 2 : bits) & ~3u;
  }
  // Keeps the bits of the mask, and returns what is left: of a constant a number of TF32.
  static __device__ __forceinline__ float split(Factor& bits, uint32_t mask) {
    float whole, high;
    std::memcpy(&whole, &bits, sizeof whole);
    bits &= mask;
    std::memcpy(&high, &bits, sizeof high);
    return whole - high;
  }
};

// Sums of a thread: of the rows lane / 4 and lane / 4 + 8 of each tile, the columns
// lane % 4 * kOwn + [0, kOwn).
template <Product kProduct>
constexpr int kOwn = columns_of(kProduct) / 4;
template <Product kProduct, int kWarpTiles = kTiles>
using Sums = float[kWarpTiles][2][kOwn<kProduct>];

// Where a block streams from, and how many slices of a tile its shared memory keeps of those that
// registers do not hold.
struct Streamed {
  uint4* from;  // the block's own: it fills it, and each thread reads what it has written
  int kept;
};

// One thread's part of the matrix, of which a warp has kWarpTiles. kAtOnce: 0, or of those slices
// that neither registers nor shared memory hold so many come in at once.
template <Product kProduct, int kThreads, int kSlices, int kHeld, int kWarpTiles = kTiles,
          int kAtOnce = 0>
class Fragments {
  using Factor = typename Kind<kProduct>::Factor;
  using Whole = Kind<Product::tf32x3>;
  using Sums = cuda::Sums<kProduct, kWarpTiles>;
  static constexpr int kColumns = columns_of(kProduct);

 public:
  // element(tile, row, factor) is an element of this warp's tiles.
  template <class Element>
  __device__ __forceinline__ void load(ptx::Shared& shared, Element element,
                                       const Streamed& streamed = {nullptr, kRest}) {
    if constexpr (kRest > 0) rest_ = shared.take<uint4>(kWarpTiles * streamed.kept * kThreads);
    streamed_ = streamed;

    // Registers have no index at run time: each round shifts them. Unrolled, ptxas puts off the
    // packing of 16-bit factors, and spills.
#pragma unroll 1
    for (int slice = 0; slice < kHeld; ++slice)
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
#pragma unroll
        for (int k = 0; k < kHeld - 1; ++k)
#pragma unroll
          for (int word = 0; word < 4; ++word) held_[tile][k][word] = held_[tile][k + 1][word];
        load_fragment(held_[tile][kHeld - 1], tile, slice, element);
      }
#pragma unroll 1
    for (int slice = kHeld; slice < kSlices; ++slice)
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
        uint32_t words[4];
        load_fragment(words, tile, slice, element);
        const bool kept = !kAtOnce || slice - kHeld < streamed_.kept;
        *(kept ? rest(tile, slice) : in_l2(tile, slice)) = {words[0], words[1], words[2], words[3]};
      }
  }

  // Adds the products to the sums. The columns of tile t are rows of factors, kPitch bytes apart,
  // from columns + t * kSlab on. With mma.sync, more sums are of as many columns more each, and
  // fewer than tiles where tiles are terms of the same ones: tile t adds to sums t % their number.
  template <int kPitch, int kSlab, class FirstSums, class... MoreSums>
  __device__ __forceinline__ void multiply_add(const unsigned char* columns, FirstSums& sums,
                                               MoreSums&... more) const {
    if constexpr (kProduct == Product::ieee)
      multiply_plainly<kPitch, kSlab>(columns, sums, more...);
    else if constexpr (kProduct == Product::tf32x3)
      multiply_in_parts<kPitch, kSlab>(columns, sums, more...);
    else
      multiply_by_mma<kPitch, kSlab, FirstSums, 1 + sizeof...(more)>(columns, {&sums, &more...});
  }

 private:
  static constexpr int kRest = kSlices - kHeld;

  __device__ __forceinline__ uint4* rest(int tile, int slice) const {
    return rest_ + ((slice - kHeld) * kWarpTiles + tile) * kThreads + threadIdx.x;
  }
  __device__ __forceinline__ uint4* in_l2(int tile, int slice) const {
    const int place = (slice - kHeld - streamed_.kept) * kWarpTiles + tile;
    return streamed_.from + place * kThreads + threadIdx.x;
  }

  template <class Element>
  static __device__ __forceinline__ void load_fragment(uint32_t (&words)[4], int tile, int slice,
                                                       Element element) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      constexpr int kPer = 4 / sizeof(Factor);
      const Place at = place(kProduct, int(threadIdx.x % 32), slice, word);
      Factor factors[kPer];
#pragma unroll
      for (int k = 0; k < kPer; ++k) {
        const auto x = element(tile, at.row, at.factor + k);
        if constexpr (kProduct == Product::tf32x3)
          factors[k] = Kind<kProduct>::constant(x);
        else
          factors[k] = Kind<kProduct>::factor(x);
      }
      std::memcpy(&words[word], factors, 4);
    }
  }

  // tile and slice are known to the compiler.
  __device__ __forceinline__ void fragment(uint32_t (&words)[4], int tile, int slice) const {
    if (slice < kHeld)
      held(words, tile, slice < kHeld ? slice : 0);
    else
      not_held(words, tile, slice);
  }
  __device__ __forceinline__ void held(uint32_t (&words)[4], int tile, int slice) const {
#pragma unroll
    for (int word = 0; word < 4; ++word) words[word] = held_[tile][slice][word];
  }
  __device__ __forceinline__ void not_held(uint32_t (&words)[4], int tile, int slice) const {
    unpack(words, *rest(tile, slice));
  }
  static __device__ __forceinline__ void unpack(uint32_t (&words)[4], const uint4& all) {
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
  }

  // add_pair(slice, fragment_of) adds the products of two slices.
  template <class AddPair>
  __device__ __forceinline__ void add_held(AddPair add_pair) const {
#pragma unroll
    for (int slice = 0; slice < kHeld; slice += 2)
      add_pair(slice, [&](uint32_t(&words)[4], int tile, int of) { held(words, tile, of); });
  }
  // Loops at run time: unrolled, loads of fragments that are not held are put before the products
  // of the others, and spill.
  template <class AddPair>
  __device__ __forceinline__ void add_not_held(AddPair add_pair) const {
    const int end = kAtOnce ? kHeld + streamed_.kept : kSlices;
#pragma unroll 1
    for (int slice = kHeld; slice < end; slice += 2)
      add_pair(slice, [&](uint32_t(&words)[4], int tile, int of) { not_held(words, tile, of); });
    if constexpr (kAtOnce > 0) {
#pragma unroll 1
      for (int slice = end; slice < kSlices; slice += kAtOnce) {
        uint4 all[kAtOnce][kWarpTiles];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
          for (int tile = 0; tile < kWarpTiles; ++tile) all[k][tile] = *in_l2(tile, slice + k);
#pragma unroll
        for (int k = 0; k < kAtOnce; k += 2)
          add_pair(slice + k, [&](uint32_t(&words)[4], int tile, int of) {
            unpack(words, all[of - slice][tile]);
          });
      }
    }
  }

  // Lane l names row l % 8, 16-byte piece l / 8: the fragments of two slices.
  template <int kPitch>
  static __device__ __forceinline__ int place_of_lane() {
    return int(threadIdx.x % 8 * kPitch + threadIdx.x % 32 / 8 * 16);
  }

  template <int kPitch, int kSlab, class SomeSums, int kEights>
  __device__ __forceinline__ void multiply_by_mma(const unsigned char* columns,
                                                  SomeSums* const (&sums)[kEights]) const {
    constexpr int kSums = std::extent_v<SomeSums>;
    static_assert(kSlices % 2 == 0 && kWarpTiles % kSums == 0);
    columns += place_of_lane<kPitch>();
    float d[kEights][kSums][4];
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight)
#pragma unroll
      for (int sum = 0; sum < kSums; ++sum)
#pragma unroll
        for (int k = 0; k < 4; ++k) d[eight][sum][k] = (*sums[eight])[sum][k / 2][k % 2];
    const auto add_pair = [&](int slice, auto fragment_of) {
      uint32_t b[kEights][4];
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
        if (tile == 0 || kSlab)
#pragma unroll
          for (int eight = 0; eight < kEights; ++eight)
            ptx::load_matrix(b[eight], columns + eight * kColumns * kPitch + tile * kSlab +
                                           slice * kFragmentBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t a[4];
          fragment_of(a, tile, slice + half);
#pragma unroll
          for (int eight = 0; eight < kEights; ++eight)
            Kind<kProduct>::multiply(d[eight][tile % kSums], a,
                                     {b[eight][2 * half], b[eight][2 * half + 1]});
        }
      }
    };
    if constexpr (kAtOnce > 0) {
      static_assert(kHeld % 2 == 0);
      add_held(add_pair);
      add_not_held(add_pair);
    } else {
#pragma unroll
      for (int slice = 0; slice < kSlices; slice += 2)
        add_pair(slice, [&](uint32_t(&words)[4], int tile, int of) { fragment(words, tile, of); });
    }
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight)
#pragma unroll
      for (int sum = 0; sum < kSums; ++sum)
#pragma unroll
        for (int k = 0; k < 4; ++k) (*sums[eight])[sum][k / 2][k % 2] = d[eight][sum][k];
  }

  template <int kPitch, int kSlab>
  __device__ __forceinline__ void multiply_in_parts(const unsigned char* columns,
                                                    Sums& sums) const {
    static_assert(kSlices % 2 == 0 && kHeld % 2 == 0);
    columns += place_of_lane<kPitch>();
    // The compiler knows that held fragments are the same in every step, and would split them
    // before the first one: with this mask it cannot.
    const uint32_t mask = ptx::unknown(~0x1fffu);
    float high[kWarpTiles][4], low[kWarpTiles][4] = {};
#pragma unroll
    for (int tile = 0; tile < kWarpTiles; ++tile)
#pragma unroll
      for (int k = 0; k < 4; ++k) high[tile][k] = sums[tile][k / 2][k % 2];
    const auto add_pair = [&](int slice, auto fragment_of) {
      uint32_t b[4], b_low[4];
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
        if (tile == 0 || kSlab) {
          ptx::load_matrix(b, columns + tile * kSlab + slice * kFragmentBytes);
#pragma unroll
          for (int k = 0; k < 4; ++k) b_low[k] = ptx::to_tf32(Whole::split(b[k], mask));
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float d[4] = {};
          uint32_t a[4], a_low[4];
          fragment_of(a, tile, slice + half);
#pragma unroll
          for (int k = 0; k < 4; ++k) a_low[k] = Whole::factor(Whole::split(a[k], mask));
          const uint32_t b_of_half[2] = {b[2 * half], b[2 * half + 1]};
          ptx::multiply_tf32(low[tile], a_low, b_of_half);
          ptx::multiply_tf32(low[tile], a, {b_low[2 * half], b_low[2 * half + 1]});
          ptx::multiply_tf32(d, a, b_of_half);
#pragma unroll
          for (int k = 0; k < 4; ++k) high[tile][k] += d[k];
        }
      }
    };
    add_held(add_pair);
    add_not_held(add_pair);
#pragma unroll
    for (int tile = 0; tile < kWarpTiles; ++tile)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool finite = ::fabsf(high[tile][k]) < INFINITY;
        sums[tile][k / 2][k % 2] = finite ? high[tile][k] + low[tile][k] : high[tile][k];
      }
  }

  template <int kPitch, int kSlab>
  __device__ __forceinline__ void multiply_plainly(const unsigned char* columns, Sums& sums) const {
    static_assert(kSlices % 2 == 0);
    columns += threadIdx.x % 4 * 16;
    float d[kWarpTiles][2][kColumns] = {};
#pragma unroll
    for (int slice = 0; slice < kSlices; slice += 2) {
      float4 b[kColumns];
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
        if (tile == 0 || kSlab) {
#pragma unroll
          for (int n = 0; n < kColumns; ++n)
            b[n] = *reinterpret_cast<const float4*>(columns + tile * kSlab + n * kPitch +
                                                    slice * kFragmentBytes);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t words[4];
          fragment(words, tile, slice + half);
          float a[4];
          std::memcpy(a, words, sizeof a);
#pragma unroll
          for (int n = 0; n < kColumns; ++n) {
            float& sum = d[tile][half][n];
            sum += a[0] * b[n].x;
            sum += a[1] * b[n].y;
            sum += a[2] * b[n].z;
            sum += a[3] * b[n].w;
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kWarpTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) sums[tile][half][0] += sum_of_quad(d[tile][half]);
  }

  // Lane q of a quad gets the sum of everybody's d[q].
  static __device__ __forceinline__ float sum_of_quad(const float (&d)[4]) {
    const bool high = threadIdx.x & 2, odd = threadIdx.x & 1;
    const float even = (high ? d[2] : d[0]) + __shfl_xor_sync(~0u, high ? d[0] : d[2], 2);
    const float other = (high ? d[3] : d[1]) + __shfl_xor_sync(~0u, high ? d[1] : d[3], 2);
    return (odd ? other : even) + __shfl_xor_sync(~0u, odd ? even : other, 1);
  }

  uint32_t held_[kWarpTiles][kHeld][4] = {};
  uint4* rest_ = nullptr;
  Streamed streamed_ = {};
};

}  // namespace lf::cuda
