// cpu.avx512: 16 floats a vector, 32 registers. The order of this file is law: standard headers
// before the target pragma, so that no code shared with other files is compiled for AVX-512; ours
// after it.
#include "contract/variant.h"
#include "cpu/team.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define LF_ISA avx512
#define LF_VECTOR_BYTES 64
#define LF_VECTOR_REGISTERS 32
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma")

namespace lf::LF_ISA {

// The zero-masked forms: GCC 12 warns of an uninitialized variable inside the plain ones.
static inline __m512 max_of(__m512 a, __m512 b) { return _mm512_maskz_max_ps(0xffff, a, b); }
static inline __m512d max_of(__m512d a, __m512d b) { return _mm512_maskz_max_pd(0xff, a, b); }

template <class T>
struct Masked;
template <>
struct Masked<float> {
  static __mmask16 mask(int n) { return __mmask16((1u << n) - 1); }
  static __m512 load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static void store(float* p, __m512 v, int n) { _mm512_mask_storeu_ps(p, mask(n), v); }
};
template <>
struct Masked<double> {
  static __mmask8 mask(int n) { return __mmask8((1u << n) - 1); }
  static __m512d load(const double* p, int n) { return _mm512_maskz_loadu_pd(mask(n), p); }
  static void store(double* p, __m512d v, int n) { _mm512_mask_storeu_pd(p, mask(n), v); }
};

}  // namespace lf::LF_ISA

#define LF_MASKED Masked
#define LF_MAX max_of
// Off by 2^-14 at most, by 2^-28 after Newton's step.
#define LF_INVERSE(x) _mm512_maskz_rcp14_ps(0xffff, x)
#include "cpu/scan.inl.h"
#pragma GCC pop_options

namespace lf {

static const char* why_not_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl")
             ? nullptr
             : "this CPU has no AVX-512 (F, DQ and VL)";
}

const Variant cpu_avx512{"cpu.avx512",
                         Device::cpu,
                         true,
                         why_not_here,
                         avx512::why_not,
                         avx512::forward_workspace,
                         avx512::backward_workspace,
                         avx512::forward,
                         avx512::backward};

}  // namespace lf

#else

namespace lf {

static const char* why_not_here() { return "this CPU is not an x86-64"; }

const Variant cpu_avx512{"cpu.avx512", Device::cpu, true,    why_not_here, nullptr,
                         nullptr,      nullptr,     nullptr, nullptr};

}  // namespace lf

#endif
