#include "ops/kept.h"

#include "cpu/team.h"

#define LF_ISA ops
#include "cell/list.h"

namespace lf::ops {
namespace {

// [rows, kGates, H]
struct Gates {
  float* first;
  int64_t rows, H;
};

template <class CellType, float (*kChange)(float)>
void change_sigmoids(const void* gates_, int member, int members) {
  const Gates& gates = *static_cast<const Gates*>(gates_);
  const int64_t end = gates.rows * (member + 1) / members;
  for (int64_t row = gates.rows * member / members; row < end; ++row)
    for (int g = 0; g < CellType::kGates; ++g) {
      float* const gate = gates.first + (row * CellType::kGates + g) * gates.H;
      for (int64_t unit = 0; CellType::is_sigmoid(g) && unit < gates.H; ++unit)
        gate[unit] = kChange(gate[unit]);
    }
}

// In place. 1e5 numbers take about as long as waking a team.
template <float (*kChange)(float)>
void change(const Layer& layer, const Tensor& gates) {
  // No rows where no backward is wanted.
  const Gates all{static_cast<float*>(data(gates)), gates.size(0) * gates.size(1), gates.size(3)};
  const int threads = gates.numel() < 100000 ? 1 : int(torch::stable::get_num_threads());
  switch (layer.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    return run_team(threads, change_sigmoids<CellType, kChange>, &all);
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

}  // namespace

Tensor keep_gates(const Layer& layer, const Tensor& gates) {
  if (layer.storage == layer.dtype) return gates;
  change<fold>(layer, gates);
  return prepare(gates, layer.storage);
}

Tensor kept_gates(const Layer& layer, const Tensor& kept) {
  if (layer.storage == layer.dtype) return kept;
  const Tensor gates = prepare(kept, layer.dtype);
  change<unfold>(layer, gates);
  return gates;
}

}  // namespace lf::ops
