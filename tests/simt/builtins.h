// CUDA's built-in functions for kernels in the SIMT machine: the compiler includes this file before
// all others (-include).
#pragma once

#include <cstring>
#include <type_traits>

#include "machine.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline

inline void __syncthreads(simt::Where where = simt::Where::current()) {
  simt::block_barrier(0, blockDim.x * blockDim.y * blockDim.z, "__syncthreads", where);
}

inline void __syncwarp(unsigned mask = ~0u, simt::Where where = simt::Where::current()) {
  simt::exchange(mask, {}, true, "__syncwarp", where);
}

namespace simt {
template <class T>
T shuffle(unsigned mask, T value, unsigned from, const char* kind, Where where) {
  static_assert(sizeof(T) <= 8);
  const Slot* const all = exchange(mask, slot_of(value), false, kind, where);
  if (!(mask >> from & 1)) fail(std::string(kind) + " reads a lane outside of its mask", where);
  return of_lane<T>(all, from);
}
}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              simt::Where where = simt::Where::current()) {
  const unsigned first = simt::lane() & ~unsigned(width - 1);
  return simt::shuffle(mask, value, first | (from & (width - 1)), "__shfl_sync", where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  simt::Where where = simt::Where::current()) {
  const unsigned from = simt::lane() ^ bits, last = simt::lane() | unsigned(width - 1);
  return simt::shuffle(mask, value, from > last ? simt::lane() : from, "__shfl_xor_sync", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   simt::Where where = simt::Where::current()) {
  const unsigned from = simt::lane() + by, last = simt::lane() | unsigned(width - 1);
  return simt::shuffle(mask, value, from > last ? simt::lane() : from, "__shfl_down_sync", where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              simt::Where where = simt::Where::current()) {
  const simt::Slot* const all =
      simt::exchange(mask, simt::slot_of(predicate), false, "__ballot_sync", where);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1 && simt::of_lane<int>(all, l)) bits |= 1u << l;
  return bits;
}
