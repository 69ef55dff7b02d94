// A variant beside a naive oracle in double, on random layers, without torch: so that it runs under
// sanitizers, under an emulator, and in the SIMT machine.
//
// The criterion, for every tensor: error <= tolerance eps(T) max(1, largest |reference|). The
// oracle gets the very numbers that the kernel gets, so all that separates them is the kernel's
// rounding: sums of some hundred terms of size 1, carried through a few steps. The tolerance of 64
// for float and double is what the one rule (tests/close.py) grants float64, where torch is no
// yardstick either; this is not about accuracy, which that rule judges, but about numbers in the
// wrong place, and these are off by 1e4 eps. In 16 bits and TF32 it is 2, four times what is seen.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "contract/variant.h"
#include "guarded.h"
#include "scan_oracle.h"

namespace lf::check {

using namespace oracle;

template <class T, class W>
std::string describe(const Problem& p, int number) {
  std::string text = "problem " + std::to_string(number) + " " + Storage<T>::kName;
  if (Storage<T>::kDType != Storage<W>::kDType) text += std::string(" by ") + Storage<W>::kName;
  const struct {
    const char* name;
    int64_t value;
  } sizes[] = {{"T", p.d.T}, {"B", p.d.B}, {"N", p.d.N}, {"I", p.I},
               {"H", p.d.H}, {"P", p.d.P}, {"D", p.d.D}, {"threads", p.threads}};
  for (const auto& size : sizes) text += std::string(" ") + size.name + std::to_string(size.value);
  const struct {
    const char* name;
    bool present;
  } parts[] = {{" ragged", p.lengths.back() < p.d.T},
               {" projection", !p.w_hr[0].empty()},
               {" b_ih", !p.b_ih[0].empty()},
               {" b_hh", !p.b_hh[0].empty()},
               {" h0", !p.h0.empty()},
               {" c0", !p.c0.empty()},
               {" dy", !p.dy.empty()},
               {" dh_n", !p.dh_n.empty()},
               {" dc_n", !p.dc_n.empty()},
               {" dh0", p.want_dh0},
               {" dx", p.want_dx},
               {" dw_ih", p.want_dw_ih},
               {" dw_hh", p.want_dw_hh},
               {" db", p.want_db},
               {" dw_hr", p.want_dw_hr}};
  for (const auto& part : parts)
    if (part.present) text += part.name;
  return text;
}

// W: what weights are given in and gates are kept in.
template <class T, class W>
struct Check {
  using State = typename Storage<T>::State;

  const Variant& variant;
  const Context& outside;  // what the variant needs from there
  const Problem& p;
  std::string problem;
  double worst = 0;  // in eps

  template <class U = T>
  void compare(const char* run, const char* name, const Values& got, const Values& want) {
    double scale = 1;
    for (double value : want) scale = std::max(scale, std::fabs(value));
    for (size_t k = 0; k < got.size(); ++k) {
      const double in_eps = std::fabs(got[k] - want[k]) / scale / Storage<U>::kEps;
      if (!(in_eps <= Storage<U>::kTolerance)) {
        std::printf("%s: %s, %s[%zu] is %.9g, should be %.9g: %.3g eps\n", problem.c_str(), run,
                    name, k, got[k], want[k], in_eps);
        std::exit(1);
      }
      worst = std::max(worst, in_eps);
    }
  }
  template <class U>
  void compare(const char* run, const char* name, const Guarded<U>& got, const Values& want) {
    compare(run, name, values(got), want);
  }

  // Gates as they are kept for backward, unfolded.
  static Values activations(Values gates, int64_t H) {
    if (sizeof(W) == 2) change_sigmoids(gates, H, unfolded);
    return gates;
  }

  // A state is carried in State, also where tensors have 16 bits: rounded to T at every step it is
  // hardly further off after some ten steps, but far after a thousand.
  void check_wide(const char* name, const Values& got) {
    if (sizeof(T) > 2) return;
    int some = 0, wide = 0;
    for (const double value : got)
      if (value != 0) ++some, wide += rounded<T>(value) != value;
    if (some < 8 || wide) return;
    std::printf("%s: %s has no more digits than the storage type\n", problem.c_str(), name);
    std::exit(1);
  }

  // Sigmoids above 1/2 are negative in 16 bits: else they would be right, and not exact enough.
  void check_folded(const Values& got, const Values& want) {
    for (size_t k = 0; k < got.size(); ++k) {
      const bool near_half = std::fabs(std::fabs(want[k]) - 0.5) < 4 * Storage<W>::kEps;
      if (near_half || std::signbit(got[k]) == std::signbit(want[k]) || std::fabs(got[k]) < 1e-3)
        continue;
      std::printf("%s: gates[%zu] is kept as %.9g, should be %.9g\n", problem.c_str(), k, got[k],
                  want[k]);
      std::exit(1);
    }
  }

  template <class U>
  static Values values(const Guarded<U>& tensor) {
    Values all(tensor.size());
    for (int64_t k = 0; k < tensor.size(); ++k)
      all[k] = double(static_cast<State>(tensor.data()[k]));
    return all;
  }

  void forward(const Forward& want, bool save) {
    const Dims& d = p.d;
    const Guarded<int64_t> offsets(p.offsets, p.place);
    const Guarded<T> x(p.x, p.place), h0(p.h0, p.place);
    const Guarded<State> c0(p.c0, p.place);
    const Guarded<W> w_ih[2] = {{p.w_ih[0], p.place}, {p.w_ih[1], p.place}};
    const Guarded<W> w_hh[2] = {{p.w_hh[0], p.place}, {p.w_hh[1], p.place}};
    const Guarded<W> w_hr[2] = {{p.w_hr[0], p.place}, {p.w_hr[1], p.place}};
    const Guarded<T> b_ih[2] = {{p.b_ih[0], p.place}, {p.b_ih[1], p.place}};
    const Guarded<T> b_hh[2] = {{p.b_hh[0], p.place}, {p.b_hh[1], p.place}};
    const bool needs_gates = save || !variant.whole_forward;
    const Guarded<W> gates(needs_gates ? d.D * d.N * 4 * d.H : 0, p.place);
    const Guarded<T> y(d.N * d.D * d.P, p.place), h_n(d.D * d.B * d.P, p.place);
    const Guarded<State> c_n(d.D * d.B * d.H, p.place), c(save ? d.D * d.N * d.H : 0, p.place);
    if (!variant.whole_forward)
      std::copy(want.projected.begin(), want.projected.end(), gates.data());
    LayerForward f{};
    f.dtype = Storage<T>::kDType;
    f.storage = Storage<W>::kDType;
    f.d = d;
    f.offsets = offsets.data();
    f.I = p.I;
    f.x = x.data();
    for (int64_t i = 0; i < d.D; ++i) {
      f.w_ih[i] = w_ih[i].data();
      f.b_ih[i] = b_ih[i].data();
      f.b_hh[i] = b_hh[i].data();
      f.w_hh[i] = w_hh[i].data();
      f.w_hr[i] = w_hr[i].data();
    }
    f.h0 = h0.data();
    f.c0 = c0.data();
    f.gates = gates.data();
    f.y = y.data();
    f.h_n = h_n.data();
    f.c_n = c_n.data();
    f.c = c.data();
    run(variant.forward, f, variant.forward_workspace(f));

    const char* const name = save ? "forward" : "forward without backward";
    compare(name, "y", y, want.y);
    compare(name, "h_n", h_n, want.h_n);
    compare(name, "c_n", c_n, want.c_n);
    check_wide("c_n", values(c_n));
    if (!save) return;
    if (sizeof(W) == 2) check_folded(values(gates), want.gates);
    compare<W>(name, "gates", activations(values(gates), d.H), activations(want.gates, d.H));
    compare(name, "c", c, want.c);
  }

  // Where backward may put the gradients of the gates.
  enum class Dgates { apart, over_gates, nowhere };

  // given: what the kernel saved, from the oracle, each value one of its type.
  void backward(const Backward& want, const Forward& given, Dgates place) {
    const bool over = place == Dgates::over_gates;
    const Dims& d = p.d;
    const bool projection = !p.w_hr[0].empty();
    const Guarded<int64_t> offsets(p.offsets, p.place);
    const Guarded<W> w_hh[2] = {{p.w_hh[0], p.place}, {p.w_hh[1], p.place}};
    const Guarded<W> w_hr[2] = {{p.w_hr[0], p.place}, {p.w_hr[1], p.place}};
    const Guarded<W> w_ih[2] = {{p.w_ih[0], p.place}, {p.w_ih[1], p.place}};
    const Guarded<T> x(p.x, p.place), h0(p.h0, p.place), dy(p.dy, p.place), dh_n(p.dh_n, p.place);
    const Guarded<State> c0(p.c0, p.place), dc_n(p.dc_n, p.place), c(given.c, p.place);
    const Guarded<W> gates(given.gates, p.place);
    const Guarded<T> y(given.y, p.place);
    const Guarded<T> dgates(place == Dgates::nowhere ? 0 : d.D * d.N * 4 * d.H, p.place);
    const Guarded<T> dh0(p.want_dh0 ? d.D * d.B * d.P : 0, p.place);
    const Guarded<State> dc0(d.D * d.B * d.H, p.place);
    const Guarded<T> dh(projection ? d.D * d.N * d.P : 0, p.place);
    const Guarded<T> h_cell(projection ? d.D * d.N * d.H : 0, p.place);
    const auto room = [&](bool wanted, const Values& of) {
      return Guarded<T>(wanted && variant.whole_backward ? int64_t(of.size()) : 0, p.place);
    };
    const Guarded<T> dx = room(p.want_dx, want.dx);
    const Guarded<T> dw_ih[2] = {room(p.want_dw_ih, want.dw_ih[0]),
                                 room(p.want_dw_ih, want.dw_ih[1])};
    const Guarded<T> dw_hh[2] = {room(p.want_dw_hh, want.dw_hh[0]),
                                 room(p.want_dw_hh, want.dw_hh[1])};
    const Guarded<T> db[2] = {room(p.want_db, want.db[0]), room(p.want_db, want.db[1])};
    const Guarded<T> dw_hr[2] = {room(p.want_dw_hr, want.dw_hr[0]),
                                 room(p.want_dw_hr, want.dw_hr[1])};
    if (over) std::copy(given.gates.begin(), given.gates.end(), dgates.data());
    LayerBackward b{};
    b.dtype = Storage<T>::kDType;
    b.storage = Storage<W>::kDType;
    b.d = d;
    b.offsets = offsets.data();
    b.I = p.I;
    b.x = x.data();
    for (int64_t i = 0; i < d.D; ++i) {
      b.w_ih[i] = w_ih[i].data();
      b.w_hh[i] = w_hh[i].data();
      b.w_hr[i] = w_hr[i].data();
      b.dw_ih[i] = dw_ih[i].data();
      b.dw_hh[i] = dw_hh[i].data();
      b.db[i] = db[i].data();
      b.dw_hr[i] = dw_hr[i].data();
    }
    b.h0 = h0.data();
    b.c0 = c0.data();
    b.y = y.data();
    b.gates = over ? static_cast<const void*>(dgates.data()) : gates.data();
    b.c = c.data();
    b.dy = dy.data();
    b.dh_n = dh_n.data();
    b.dc_n = dc_n.data();
    b.dgates = dgates.data();
    b.dh0 = dh0.data();
    b.dc0 = dc0.data();
    b.dh = dh.data();
    b.h_cell = h_cell.data();
    b.dx = dx.data();
    run(variant.backward, b, variant.backward_workspace(b, p.threads));

    const char* const name = over                       ? "backward over the gates"
                             : place == Dgates::nowhere ? "backward, dgates unwanted"
                                                        : "backward";
    compare(name, "dgates", dgates, want.dgates);
    compare(name, "dh0", dh0, want.dh0);
    compare(name, "dc0", dc0, want.dc0);
    check_wide("dc0", values(dc0));
    compare(name, "dh", dh, want.dh);
    compare(name, "h_cell", h_cell, want.h_cell);
    compare(name, "dx", dx, want.dx);
    for (int64_t i = 0; i < d.D; ++i) {
      compare(name, "dw_ih", dw_ih[i], want.dw_ih[i]);
      compare(name, "dw_hh", dw_hh[i], want.dw_hh[i]);
      compare(name, "db", db[i], want.db[i]);
      compare(name, "dw_hr", dw_hr[i], want.dw_hr[i]);
    }
  }

  template <class Layer>
  void run(void (*scan)(const Layer&, const Context&), const Layer& layer, size_t bytes) {
    const Guarded<unsigned char> workspace(int64_t(bytes), p.place, 64);
    Context context = outside;
    context.threads = p.threads;
    context.workspace = workspace.data();
    scan(layer, context);
  }
};

// Whether a refusal speaks of the problem.
inline bool is_true(const char* reason, const Problem& p, DType dtype) {
  const auto says = [&](const char* words) { return std::strstr(reason, words); };
  if (says("no projections")) return p.d.P != p.d.H;
  if (says("one time step")) return p.d.T != 1;
  if (says("at most 16 sequences")) return p.d.B > 16;
  if (says("not in fp64")) return dtype == DType::f64;
  // How many there are the variant's own tests know.
  if (says("for every 8 multiprocessors")) return p.d.H > 128;
  if (says("bfloat16 only")) return dtype != DType::bf16;
  if (says("in float32 and float64")) return dtype == DType::bf16 || dtype == DType::f16;
  const bool of_dtype = says(dtype == DType::f32 ? "in float32" : "in 16 bits");
  const char* const limit = says("H must be at most ");
  return of_dtype && limit && p.d.H > std::atoi(limit + std::strlen("H must be at most "));
}

// W: what weights are given in and gates are kept in. Returns the worst error, in eps; nothing
// where the variant refuses the problem.
template <class T, class W = T>
std::optional<double> check_one(const Variant& variant, const Context& outside, Random& random,
                                int64_t H, Size size, int number) {
  const Problem p = make_problem<T, W>(random, H, size);
  if (const char* const reason =
          variant.why_not(Cell::lstm, Storage<T>::kDType, p.d, outside.tf32)) {
    if (is_true(reason, p, Storage<T>::kDType)) return std::nullopt;
    std::printf("%s is refused: %s\n", describe<T, W>(p, number).c_str(), reason);
    std::exit(1);
  }
  Check<T, W> check{variant, outside, p, describe<T, W>(p, number)};
  std::fprintf(stderr, "%s\n", check.problem.c_str());
  Forward forward = oracle_forward(p, variant.whole_forward ? nullptr : rounded<T>);
  if (sizeof(W) == 2) change_sigmoids(forward.gates, H, folded);
  check.forward(forward, true);
  check.forward(forward, false);
  std::transform(forward.gates.begin(), forward.gates.end(), forward.gates.begin(), rounded<W>);
  std::transform(forward.y.begin(), forward.y.end(), forward.y.begin(), rounded<T>);
  std::transform(forward.c.begin(), forward.c.end(), forward.c.begin(),
                 rounded<typename Storage<T>::State>);
  const Backward backward =
      oracle_backward(p, check.activations(forward.gates, H), forward.c, forward.y);
  using Dgates = Check<T, W>::Dgates;
  check.backward(backward, forward, Dgates::apart);
  if (Storage<T>::kDType == Storage<W>::kDType)
    check.backward(backward, forward, Dgates::over_gates);
  if (variant.whole_backward) check.backward(backward, forward, Dgates::nowhere);
  return check.worst;
}

}  // namespace lf::check
