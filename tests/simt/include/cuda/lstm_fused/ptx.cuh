// The twin of csrc/cuda/lstm_fused/ptx.cuh for the SIMT machine: the same functions, by what the
// PTX ISA says they do.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "builtins.h"
#include "sanitize.h"

namespace lf::ptx {

using simt::Where;

class Shared {
 public:
  template <class T>
  T* take(int n, Where where = Where::current()) {
    return static_cast<T*>(simt::carve(used_, sizeof(T) * n, where));
  }

 private:
  size_t used_ = 0;
};

template <class T>
T* moved(T* from, int rows, int bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(from) + uint64_t(int64_t(rows) * bytes));
}

inline uint32_t unknown(uint32_t x) { return x; }

inline void check_aligned(const void* p, size_t to, const char* what, Where where) {
  if (reinterpret_cast<uintptr_t>(p) % to)
    simt::fail(std::string(what) + ": an address is not a multiple of " + std::to_string(to),
               where);
}

inline void store_words(void* to, const uint32_t (&value)[4], Where where = Where::current()) {
  check_aligned(to, 16, "st.v4", where);
  std::memcpy(to, value, sizeof value);
}

// ---- cp.async ----------------------------------------------------------------------------------

inline void copy_async(void* to, const void* from, int valid = 16, Where where = Where::current()) {
  check_aligned(to, 16, "cp.async", where);
  check_aligned(from, 16, "cp.async", where);
  if (valid < 0 || valid > 16) simt::fail("cp.async: 0 to 16 bytes may be valid", where);
  simt::copy_later(to, from, unsigned(valid), 16);
}
inline void commit_copies() { simt::close_copies(); }
template <int kLeft>
void wait_copies() {
  simt::finish_copies(kLeft);
}

// ---- matrices of a warp ------------------------------------------------------------------------

struct Row {
  uint32_t words[4];
};

// Lanes past the 8 kMatrices first ones give addresses that nobody reads.
template <int kMatrices>
void load_matrix(uint32_t (&r)[kMatrices], const void* row, Where where = Where::current()) {
  const unsigned lane = simt::lane();
  Row mine{};
  if (lane < 8 * kMatrices) {
    check_aligned(row, 16, "ldmatrix", where);
    mine = *static_cast<const Row*>(row);
  }
  const simt::Slot* const all = simt::exchange(~0u, simt::slot_of(mine), false, "ldmatrix", where);
  const simt::Quiet quiet;
  for (unsigned k = 0; k < kMatrices; ++k)
    r[k] = simt::of_lane<Row>(all, 8 * k + lane / 4).words[lane % 4];
}

SIMT_UNSANITIZED inline float bf16_of(uint32_t word, unsigned element) {
  const uint32_t bits = word >> 16 * element << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
SIMT_UNSANITIZED inline float f16_of(uint32_t word, unsigned element) {
  return __half2float(__half(__half_raw{uint16_t(word >> 16 * element)}));
}
SIMT_UNSANITIZED inline float tf32_of(uint32_t word, unsigned) {
  word &= ~0x1fffu;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// What a lane has of the factors, as floats.
struct Operands {
  float a[8], b[4];
};

// The sum as a poor tensor core has it: terms are exact, each is cut off where the largest one has
// its 24th bit, and the sum behind its own 24th. GPUs have one to three bits more.
template <int kTerms>
SIMT_UNSANITIZED float cut_sum(const double (&terms)[kTerms]) {
  double largest = 0, plain = 0;
  for (const double x : terms) largest = std::fmax(largest, std::fabs(x)), plain += x;
  if (largest == 0 || !std::isfinite(plain)) return float(plain);
  const double bit = std::ldexp(1, std::ilogb(largest) - 23);
  int64_t sum = 0;
  for (const double x : terms) sum += int64_t(x / bit);
  int64_t own_bit = 1;
  while (std::abs(sum) >= own_bit << 24) own_bit *= 2;
  return float(double(sum / own_bit * own_bit) * bit);
}

// d += a b, with value(register, element) giving an element of a register as a float and kPer
// elements to a register.
template <int kPer, float (*value)(uint32_t, unsigned)>
SIMT_UNSANITIZED void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                               const char* kind, Where where) {
  Operands mine;
  for (unsigned k = 0; k < 4 * kPer; ++k) mine.a[k] = value(a[k / kPer], k % kPer);
  for (unsigned k = 0; k < 2 * kPer; ++k) mine.b[k] = value(b[k / kPer], k % kPer);
  const simt::Slot* const all = simt::exchange(~0u, simt::slot_of(mine), false, kind, where);
  const unsigned lane = simt::lane();
  for (unsigned j = 0; j < 4; ++j) {
    const unsigned row = lane / 4 + j / 2 * 8, column = lane % 4 * 2 + j % 2;
    double terms[8 * kPer + 1] = {d[j]}, *term = terms;
    for (unsigned half = 0; half < 2; ++half)  // of the columns of a: a register's
      for (unsigned among = 0; among < 4; ++among) {
        const float* const of_a = simt::of_lane<Operands>(all, row % 8 * 4 + among).a;
        const float* const of_b = simt::of_lane<Operands>(all, column * 4 + among).b;
        for (unsigned k = 0; k < kPer; ++k)
          *++term = double(of_a[(row / 8 + half * 2) * kPer + k]) * of_b[half * kPer + k];
      }
    d[j] = cut_sum(terms);
  }
}

inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          Where where = Where::current()) {
  multiply<2, bf16_of>(d, a, b, "mma bf16", where);
}
inline void multiply_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         Where where = Where::current()) {
  multiply<2, f16_of>(d, a, b, "mma f16", where);
}
inline void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          Where where = Where::current()) {
  const auto is_tf32 = [](uint32_t word) {
    return (word & 0x1fff) == 0 || (word & 0x7fffffff) > 0x7f800000;  // or NaN
  };
  if (!std::ranges::all_of(a, is_tf32) || !std::ranges::all_of(b, is_tf32))
    simt::fail("mma tf32: a factor with more than 11 bits", where);
  multiply<1, tf32_of>(d, a, b, "mma tf32", where);
}
inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return 0x7fffffff;
  const bool finite = (bits & 0x7f800000) != 0x7f800000;
  return (finite ? bits + 0x1000 : bits) & ~0x1fffu;
}

// ---- the special function unit -----------------------------------------------------------------

inline float without_subnormals(float x) {
  return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x;
}
inline float exp2(float x) { return without_subnormals(std::exp2(without_subnormals(x))); }
inline float reciprocal(float x) { return without_subnormals(1 / without_subnormals(x)); }

// ---- flags between blocks ----------------------------------------------------------------------

inline unsigned load_acquire(const unsigned* p, Where where = Where::current()) {
  simt::spin(where);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
inline void add_release(unsigned* p, unsigned value, Where where = Where::current()) {
  simt::yield(where);
  __atomic_fetch_add(p, value, __ATOMIC_RELEASE);
}

// ---- words that are their own flags ------------------------------------------------------------

inline void publish_word(uint32_t* to, uint32_t word, Where where = Where::current()) {
  simt::yield(where);
  __atomic_store_n(to, word, __ATOMIC_RELAXED);
}
inline void poll_words(uint32_t (&words)[4], const uint32_t* from, Where where = Where::current()) {
  check_aligned(from, 16, "ld.relaxed.v4", where);
  unsigned seen = 0;  // words of an earlier moment than the others
  for (int k = 0; k < 4; ++k)
    if (simt::coin()) words[k] = __atomic_load_n(from + k, __ATOMIC_RELAXED), seen |= 1u << k;
  simt::spin(where);
  for (int k = 0; k < 4; ++k)
    if (!(seen >> k & 1)) words[k] = __atomic_load_n(from + k, __ATOMIC_RELAXED);
}

template <class Word>
void poll_later(void* to, const uint32_t* from, Where where) {
  check_aligned(to, 16, "cp.async", where);
  check_aligned(from, 16, "cp.async", where);
  const Word* const words = reinterpret_cast<const Word*>(from);
  for (size_t k = 0; k < 16 / sizeof(Word); ++k)
    __atomic_load_n(words + k, __ATOMIC_RELAXED);  // may it be read?
  simt::copy_later(to, from, 16, sizeof(Word));
}
inline void poll_async(void* to, const uint32_t* from, Where where = Where::current()) {
  poll_later<uint32_t>(to, from, where);
}
inline void poll_tagged_async(void* to, const uint32_t* from, Where where = Where::current()) {
  poll_later<uint64_t>(to, from, where);
}

inline uint32_t poll_word(const uint32_t* from, Where where = Where::current()) {
  simt::spin(where);
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
inline uint32_t exchange_word(uint32_t* at, uint32_t word, Where where = Where::current()) {
  simt::yield(where);
  return __atomic_exchange_n(at, word, __ATOMIC_RELAXED);
}
inline int told_host = 0;  // how often, so far
inline void tell_host(uint32_t* to, uint32_t word, Where where = Where::current()) {
  __atomic_fetch_add(&told_host, 1, __ATOMIC_RELAXED);
  simt::yield(where);
  __atomic_store_n(to, word, __ATOMIC_RELAXED);
}

inline void publish_tagged(uint32_t* to, uint32_t word, uint32_t tag,
                           Where where = Where::current()) {
  check_aligned(to, 8, "st.relaxed.u64", where);
  simt::yield(where);
  __atomic_store_n(reinterpret_cast<uint64_t*>(to), uint64_t(tag) << 32 | word, __ATOMIC_RELAXED);
}
inline void poll_tagged(uint32_t (&words)[2], uint32_t (&tags)[2], const uint32_t* from,
                        Where where = Where::current()) {
  check_aligned(from, 16, "ld.relaxed.v2.u64", where);
  const uint64_t* const pairs = reinterpret_cast<const uint64_t*>(from);
  const int first = simt::coin();  // is of an earlier moment than the other
  uint64_t both[2];
  both[first] = __atomic_load_n(pairs + first, __ATOMIC_RELAXED);
  simt::spin(where);
  both[1 - first] = __atomic_load_n(pairs + 1 - first, __ATOMIC_RELAXED);
  for (int k = 0; k < 2; ++k) words[k] = uint32_t(both[k]), tags[k] = uint32_t(both[k] >> 32);
}

// ---- clocks ------------------------------------------------------------------------------------

// Time here is how often somebody asked for it.
inline uint64_t tick() {
  static uint64_t ticks = 0;
  return __atomic_add_fetch(&ticks, 1, __ATOMIC_RELAXED);
}
inline uint64_t cycles() { return tick(); }
inline uint64_t nanoseconds() { return tick(); }

// ---- clusters ----------------------------------------------------------------------------------

inline unsigned cluster_rank() { return simt::cluster_rank(); }
inline void cluster_sync(Where where = Where::current()) { simt::cluster_barrier(where); }
template <class T>
T* of_peer(T* shared, unsigned rank, Where where = Where::current()) {
  return static_cast<T*>(simt::peer(shared, rank, where));
}

// ---- barriers that count arrivals and bytes ----------------------------------------------------

// What the 64 bits hold here. Bytes may be counted before they are expected.
struct CountingBarrier {
  uint64_t made : 2 = 2;  // memory that nobody wrote holds 3
  uint64_t parity : 1 = 0;
  uint64_t arrivals : 20;
  uint64_t pending : 20;
  int64_t bytes : 21 = 0;

  void end_phase_if_complete() {
    if (pending || bytes) return;
    parity ^= 1;
    pending = arrivals;
  }
};
static_assert(sizeof(CountingBarrier) == 8);

inline CountingBarrier& counting(const uint64_t* barrier, Where where) {
  check_aligned(barrier, 8, "mbarrier", where);
  CountingBarrier& state = *reinterpret_cast<CountingBarrier*>(const_cast<uint64_t*>(barrier));
  // Not quiet: who uses a barrier must know that it was made.
  if (state.made != 2) simt::fail("an mbarrier that was not initialised", where);
  return state;
}

inline void init_barrier(uint64_t* barrier, unsigned arrivals, Where where = Where::current()) {
  check_aligned(barrier, 8, "mbarrier", where);
  CountingBarrier state{.arrivals = arrivals, .pending = arrivals};
  std::memcpy(barrier, &state, sizeof state);
}
inline void arrive_expecting(uint64_t* barrier, unsigned bytes, Where where = Where::current()) {
  simt::yield(where);
  CountingBarrier& state = counting(barrier, where);
  simt::release(barrier);
  const simt::Quiet quiet;
  if (state.pending == 0) simt::fail("more arrivals at an mbarrier than it counts", where);
  state.bytes += int(bytes);
  state.pending -= 1;
  state.end_phase_if_complete();
}
inline bool phase_ended(const uint64_t* barrier, unsigned parity, Where where = Where::current()) {
  simt::spin(where);
  CountingBarrier& state = counting(barrier, where);
  {
    const simt::Quiet quiet;
    if (state.parity == parity) return false;
  }
  simt::acquire(barrier);
  return true;
}
inline void store_async(void* to, unsigned rank, const uint32_t (&value)[4], uint64_t* barrier,
                        Where where = Where::current()) {
  check_aligned(to, 16, "st.async", where);
  void* const there = simt::peer(to, rank, where);
  uint64_t* const counter = static_cast<uint64_t*>(simt::peer(barrier, rank, where));
  Row row;
  std::memcpy(row.words, value, sizeof row.words);
  simt::post([=] {
    std::memcpy(there, &row, sizeof row);
    CountingBarrier& state = counting(counter, where);
    simt::release(counter);
    const simt::Quiet quiet;
    state.bytes -= 16;
    state.end_phase_if_complete();
  });
}

}  // namespace lf::ptx
