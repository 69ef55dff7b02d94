#include "dispatch/registry.h"

namespace lf {

namespace {

std::vector<Row>& table() {
  static std::vector<Row> rows{
      {"cuda.decode", Device::cuda, &cuda_decode},
      {"cuda.block", Device::cuda, &cuda_block},
      {"cuda.cluster", Device::cuda, &cuda_cluster},
      {"cuda.grid", Device::cuda, &cuda_grid},
      {"cuda.step", Device::cuda, &cuda_step},
      {"cpu.avx512bf16", Device::cpu, &cpu_avx512bf16},
      {"cpu.avx512", Device::cpu, &cpu_avx512},
      {"cpu.avx2", Device::cpu, &cpu_avx2},
      {"cpu.neon", Device::cpu, &cpu_neon},
      {"cpu.generic", Device::cpu, &cpu_generic},
  };
  return rows;
}

const size_t own_variants = table().size();

}  // namespace

const std::vector<Row>& variant_table() { return table(); }

void add_variant(const Variant& variant) {
  table().push_back({variant.name, variant.device, &variant});
}

const char* why_not_here(const Row& row) {
  if (!row.variant)
    return "not built: this build has no CUDA part (python -m lstm_fused info says why)";
  return row.variant->why_not_here();
}

const char* why_not(const Row& row, Cell cell, DType dtype, const Dims& d, bool tf32) {
  const char* reason = why_not_here(row);
  return reason ? reason : row.variant->why_not(cell, dtype, d, tf32);
}

const Variant* choose(Device device, Cell cell, DType dtype, const Dims& d, bool tf32, int forced,
                      const char** reason) {
  *reason = "there is no such variant";
  for (size_t i = 0; i < (forced < 0 ? own_variants : table().size()); ++i) {
    const Row& row = table()[i];
    if (forced >= 0 && i != size_t(forced)) continue;
    if (row.device != device) {
      if (forced >= 0)
        *reason = device == Device::cpu ? "it runs on CUDA, the input is on the CPU"
                                        : "it runs on the CPU, the input is on CUDA";
      continue;
    }
    *reason = why_not(row, cell, dtype, d, tf32);
    if (!*reason) return row.variant;
  }
  return nullptr;
}

}  // namespace lf
