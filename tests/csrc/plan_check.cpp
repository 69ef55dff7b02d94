// The plans and index maps of cuda.block, over all hidden sizes and GPUs:   plan_check
#include <cstdio>
#include <set>
#include <utility>

#define LF_ISA oracle
#include "cuda/lstm_fused/block_plan.h"

using namespace lf::cuda;

namespace {

constexpr Product kProducts[] = {Product::bf16, Product::f16, Product::tf32, Product::ieee};
constexpr const char* kNames[] = {"bf16", "f16", "tf32", "ieee"};

int wrong = 0;

void check(bool right, const char* what, Product product, int64_t number) {
  if (right) return;
  std::printf("%s: %s, %lld\n", what, kNames[int(product)], static_cast<long long>(number));
  ++wrong;
}

// Shared memory that a block may have, by the CUDA programming guide: sm_80, sm_86, sm_90.
constexpr size_t kShared[] = {163 << 10, 99 << 10, 227 << 10};
// The largest H there, of each product; of sm_90 why_not (block.cu) and the README speak.
constexpr int kLimits[][4] = {{128, 128, 96, 96}, {128, 128, 96, 96}, {192, 192, 128, 128}};

void check_buckets() {
  for (const Product product : kProducts)
    for (int gpu = 0; gpu < 3; ++gpu) {
      const int limit = kLimits[gpu][int(product)];
      int before = 0;
      for (int H = 1; H <= 300; ++H) {
        const int place = bucket_of(product, H, kShared[gpu]);
        check((place >= 0) == (H <= limit), "a hidden size has no bucket, or should not", product,
              H);
        if (place < 0) continue;
        const Bucket& bucket = kBuckets[place];
        check(bucket.H >= H && place >= before && (place == 0 || kBuckets[place - 1].H < H),
              "not the smallest bucket", product, H);
        before = place;
      }
    }
}

// The four words of all lanes and slices are the tile, each factor once.
void check_fragments(Product product, int slices) {
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
void check_banks(Product product, int pitch) {
  std::set<int> banks;
  for (int row = 0; row < 8; ++row)
    for (int word = 0; word < 4; ++word) banks.insert((row * pitch / 4 + word) % 32);
  check(banks.size() == 32 && pitch % 16 == 0, "bank conflicts", product, pitch);
}

void check_plans() {
  for (const Product product : kProducts)
    for (const Bucket& bucket : kBuckets) {
      if (!is_compiled(product, bucket)) continue;
      check(bucket.H % 32 == 0, "a warp reads the fragments of two slices at once", product,
            bucket.H);
      for (const Pass pass : {Pass::forward, Pass::backward}) {
        const BlockPlan plan = block_plan(product, pass, bucket);
        check(plan.threads <= 1024 && plan.threads / 32 * kTileRows == bucket.H, "threads", product,
              bucket.H);
        check(plan.held >= 1 && plan.held <= plan.slices, "held", product, bucket.H);
        check(plan.held * kTiles * 4 < 255, "held in registers", product, bucket.H);
        check(plan.shared <= kMostShared && plan.shared % 16 == 0, "shared", product, bucket.H);
        check_banks(product, plan.pitch);
        check_fragments(product, plan.slices);
      }
    }
}

}  // namespace

int main() {
  check_buckets();
  check_plans();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
