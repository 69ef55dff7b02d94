// How a block holds a constant matrix for the products of a scan: sizes and index maps alone, so
// that tests walk all of them without a GPU (tests/csrc/plan_check.cpp).
//
// The matrix has some tiles of 16 rows for each warp, mostly 4, and every time step multiplies it
// by a few columns that lie in shared memory as rows of factors. It is cut into fragments of 4
// words a thread: tile t, slice s, 32 bytes of every row. The first fragments of a tile are held in
// registers, the rest kept in shared memory. In cuda.grid what does not fit there is streamed: it
// comes out of L2 for every product.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "common/macros.h"
#include "common/types.h"

namespace lf::cuda {

// tf32x3: three products in TF32 that make up one in float32 (product.cuh).
enum class Product { bf16, f16, tf32, ieee, tf32x3 };
enum class Pass { forward, backward };

// float32: how a family multiplies what may not be rounded to TF32, ieee or tf32x3.
constexpr Product product_of(DType dtype, bool tf32, Product float32) {
  return dtype == DType::bf16  ? Product::bf16
         : dtype == DType::f16 ? Product::f16
         : tf32                ? Product::tf32
                               : float32;
}

constexpr int kTiles = 4, kTileRows = 16, kFragmentBytes = 32;

// 227 KiB: a block's limit on sm_90 and sm_100. Others have less (dev.cuh).
constexpr size_t kMostShared = 227 << 10;

// Bytes of a factor.
constexpr LF_FN int factor_size(Product product) {
  return product == Product::bf16 || product == Product::f16 ? 2 : 4;
}

// Columns that a block multiplies at once: the 8 of mma.sync. In IEEE float32 a column costs its
// flops, 0.29 us at H = 128, so blocks take half and there are twice as many.
constexpr int columns_of(Product product) { return product == Product::ieee ? 4 : 8; }

// Where a word of a lane's fragment stands: its row in the tile and the first of its factors there.
// For mma.sync the table of the PTX ISA (9.7.14.5); without it a lane has 16 neighbouring bytes of
// one row, row lane / 4 at even slices, and the next 8 at odd ones.
struct Place {
  int row, factor;
};
constexpr LF_FN Place place(Product product, int lane, int slice, int word) {
  const int group = lane / 4, in_group = lane % 4;
  if (product == Product::ieee)
    return {group + slice % 2 * 8, slice / 2 * 16 + in_group * 4 + word};
  const int byte = slice * kFragmentBytes + in_group * 4 + word / 2 * 16;
  return {group + word % 2 * 8, byte / factor_size(product)};
}

// Fragments of a tile, for rows of kWidth factors.
constexpr int slices_of(Product product, int width) {
  return width * factor_size(product) / kFragmentBytes;
}

// Bytes of those that registers do not hold.
constexpr size_t rest_bytes(int slices, int held, int threads, int tiles = kTiles) {
  return size_t(slices - held) * tiles * threads * 16;
}

// From one row of factors in shared memory to the next. Eight rows that are read at once, 16 bytes
// each, then fall into different banks: 16 is 4 words, and a row without it is whole 32 words.
constexpr int pitch(Product product, int factors) { return factors * factor_size(product) + 16; }

}  // namespace lf::cuda
