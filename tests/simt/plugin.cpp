// The CUDA variants, in the SIMT machine, for lstm_fused.dispatch.add_kernels.
#include <cstdlib>

#include "cuda/lstm_fused/dev.cuh"
#include "machine.h"
#include "variants.h"

namespace {

const lf::Variant variants[] = {simt::block(), simt::cluster(), simt::decode(), simt::grid(),
                                simt::step()};

// LSTM_FUSED_SIMT_SEED=n: the seed of every launch.
const bool seeded = [] {
  if (const char* const seed = std::getenv("LSTM_FUSED_SIMT_SEED"))
    simt::seed = std::strtoull(seed, nullptr, 10);
  return true;
}();

}  // namespace

extern "C" __attribute__((visibility("default"))) const lf::Variant* lf_variants(int* count) {
  *count = sizeof variants / sizeof variants[0];
  return variants;
}

// From now on so many blocks of a cooperative launch start late, and the others look for them so
// often.
extern "C" __attribute__((visibility("default"))) void simt_hold_back(unsigned blocks,
                                                                      unsigned patience) {
  simt::late_blocks = blocks;
  lf::dev::patience_here = patience;
}
