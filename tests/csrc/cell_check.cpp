// The LSTM cell on vectors beside the same in double:   cell_check
//
// The vectors are those of the ISA that this is compiled for. Errors are in eps of the exact value,
// or of 1; a NaN must stay one.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

#define LF_ISA checked
#include "cell/lstm.h"
#include "this_isa.h"

using namespace lf::checked;

namespace {

int wrong = 0;

// The largest error of one function.
template <class T>
struct Worst {
  const char* name;
  double limit;  // in eps
  double error = 0, at = 0;

  void see(double x, T got, double want, double size) {
    constexpr double eps = std::numeric_limits<T>::epsilon();
    const bool nan = std::isnan(want) && std::isnan(got);
    const double in_eps = nan ? 0 : std::fabs(double(got) - want) / (eps * size);
    if (in_eps <= error || std::isnan(error)) return;  // NaN stays
    error = in_eps, at = x;
  }
  ~Worst() {
    if (error <= limit) return;
    std::printf("%s<%s> at %.9g is %.3g eps off\n", name, sizeof(T) == 4 ? "float" : "double", at,
                error);
    ++wrong;
  }
};

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Smallest first: what a relative error is taken of.
template <class T>
double size_of(double value) {
  return std::max(std::fabs(value), double(std::numeric_limits<T>::min()));
}

// Every number of a grid of both signs, from below the smallest normal one to where all saturates.
template <class T, class See>
void for_numbers(const See& see) {
  using V = Vec<T>;
  T numbers[V::kWidth];
  int filled = 0;
  const auto add = [&](T x) {
    numbers[filled++] = x;
    if (filled < V::kWidth) return;
    see(numbers);
    filled = 0;
  };
  add(T(0)), add(T(-0.0));
  for (const T sign : {T(1), T(-1)}) {
    for (double x = 1e-12; x < 80; x *= 1.0003) add(sign * T(x));
    for (const T x : {std::numeric_limits<T>::denorm_min(), std::numeric_limits<T>::min(), T(1e4),
                      std::numeric_limits<T>::max(), std::numeric_limits<T>::infinity(),
                      std::numeric_limits<T>::quiet_NaN()})
      add(sign * x);
  }
  while (filled) add(T(1));
}

template <class T>
void check_functions() {
  using V = Vec<T>;
  // Smaller than exp(-80) a sigmoid may be anything below that: 1 - it is 1.
  Worst<T> of_sigmoid{"sigmoid", 3}, of_kept{"kept sigmoid", 3}, of_tanh{"tanh", 4},
      of_rest{"1 - tanh", 1.5};
  for_numbers<T>([&](const T* numbers) {
    V kept;
    const V s = sigmoid(V::load(numbers), kept), t = tanh(V::load(numbers));
    const V back = unfold(kept);
    for (int l = 0; l < V::kWidth; ++l) {
      const double x = numbers[l], want = exact_sigmoid(x), small = exact_sigmoid(-std::fabs(x));
      if (std::isnan(x) || small > 1e-34) {
        of_sigmoid.see(x, s.v[l], want, size_of<T>(want));
        // What is left to 1, where that is the smaller: so the kept form loses nothing there.
        of_kept.see(x, std::isnan(x) ? T(kept.v[l]) : T(std::fabs(kept.v[l])), small,
                    size_of<T>(small));
      }
      of_sigmoid.see(x, back.v[l], want, 1);
      of_tanh.see(x, t.v[l], std::tanh(x), size_of<T>(std::tanh(x)));
      of_rest.see(x, t.v[l], std::tanh(x), 1);
    }
  });
}

// A chain of generator steps is enough to mix signs and sizes of the seven operands.
template <class T>
struct Operands {
  uint64_t state = 1;
  T next(double size) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return T((double(state >> 11) * 0x1p-53 * 2 - 1) * size);
  }
};

template <class T>
void check_cell() {
  using V = Vec<T>;
  constexpr int W = V::kWidth;
  // Errors of what is summed, not of the sum: c may come near 0.
  Worst<T> of_c{"c", 6}, of_h{"h", 8}, of_gates{"dgates", 16}, of_dc{"dc", 12};
  Operands<T> operands;
  for (int round = 0; round < 20000; ++round) {
    T pre[4][W], c_prev[W], dh[W], dc[W];
    const double size = round % 4 == 0 ? 20 : round % 4 == 1 ? 1e-3 : 2;
    for (int l = 0; l < W; ++l) {
      for (auto& of_gate : pre) of_gate[l] = operands.next(size);
      c_prev[l] = operands.next(3), dh[l] = operands.next(1), dc[l] = operands.next(1);
    }
    V gate[4], kept[4], c = V::load(c_prev), h;
    for (int g = 0; g < 4; ++g) gate[g] = V::load(pre[g]);
    LstmCell::forward(gate, c, h, kept);
    V dgate[4] = {gate[0], gate[1], gate[2], gate[3]}, dc_prev = V::load(dc), again;
    LstmCell::backward(dgate, V::load(c_prev), c, V::load(dh), dc_prev, again);
    for (int l = 0; l < W; ++l) {
      const double i = exact_sigmoid(pre[0][l]), f = exact_sigmoid(pre[1][l]);
      const double g = std::tanh(double(pre[2][l])), o = exact_sigmoid(pre[3][l]);
      const double c1 = f * c_prev[l] + i * g, size_c = std::fabs(f * c_prev[l]) + std::fabs(i * g);
      of_c.see(pre[0][l], c.v[l], c1, std::max(size_c, 1e-6));
      of_h.see(pre[3][l], h.v[l], o * std::tanh(c1), 1);
      of_h.see(pre[3][l], again.v[l], o * std::tanh(c1), 1);
      const double t = std::tanh(c1), dc1 = dc[l] + dh[l] * o * (1 - t * t);
      const double want[4] = {dc1 * g * i * (1 - i), dc1 * c_prev[l] * f * (1 - f),
                              dc1 * i * (1 - g * g), dh[l] * t * o * (1 - o)};
      for (int k = 0; k < 4; ++k) of_gates.see(pre[k][l], dgate[k].v[l], want[k], 1);
      of_dc.see(pre[1][l], dc_prev.v[l], dc1 * f, 1);
    }
  }
}

}  // namespace

int main() {
  check_functions<float>();
  check_functions<double>();
  check_cell<float>();
  check_cell<double>();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
