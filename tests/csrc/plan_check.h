// What the checks of the plans share: the order of factors and the banks of shared memory.
#pragma once

#include <cstdint>
#include <cstdio>
#include <set>
#include <utility>

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

constexpr Product kProducts[] = {Product::bf16, Product::f16, Product::tf32, Product::ieee,
                                 Product::tf32x3};
constexpr const char* kNames[] = {"bf16", "f16", "tf32", "ieee", "tf32x3"};

// Shared memory that a block may have, by the CUDA programming guide: sm_80, sm_86, sm_90.
constexpr size_t kShared[] = {163 << 10, 99 << 10, 227 << 10};

inline int wrong = 0;

inline void check(bool right, const char* what, Product product, int64_t number) {
  if (right) return;
  std::printf("%s: %s, %lld\n", what, kNames[int(product)], static_cast<long long>(number));
  ++wrong;
}

// The four words of all lanes and slices are the tile, each factor once.
inline void check_fragments(Product product, int slices) {
  const int per_word = 4 / factor_size(product);
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < 32; ++lane)
    for (int slice = 0; slice < slices; ++slice)
      for (int word = 0; word < 4; ++word) {
        const Place at = place(product, lane, slice, word);
        for (int k = 0; k < per_word; ++k) seen.insert({at.row, at.factor + k});
      }
  const int width = slices * kFragmentBytes / factor_size(product);
  check(int(seen.size()) == kTileRows * width && seen.begin()->first == 0 &&
            seen.rbegin()->first == kTileRows - 1 && seen.rbegin()->second == width - 1,
        "fragments do not make up the tile", product, slices);
}

// Eight rows of 16 bytes, as ldmatrix reads them, meet every bank once.
inline void check_banks(Product product, int pitch) {
  std::set<int> banks;
  for (int row = 0; row < 8; ++row)
    for (int word = 0; word < 4; ++word) banks.insert((row * pitch / 4 + word) % 32);
  check(banks.size() == 32 && pitch % 16 == 0, "bank conflicts", product, pitch);
}

}  // namespace lf::cuda
