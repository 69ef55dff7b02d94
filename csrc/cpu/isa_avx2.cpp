// cpu.avx2: 8 floats a vector, 16 registers. The order of this file is law: standard headers before
// the target pragma, so that no code shared with other files is compiled for AVX2; ours after it.
#include "contract/variant.h"
#include "cpu/team.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define LF_ISA avx2
#define LF_VECTOR_BYTES 32
#define LF_VECTOR_REGISTERS 16
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace lf::LF_ISA {

static inline __m256 max_of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
static inline __m256d max_of(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }

template <class T>
struct Masked;
template <>
struct Masked<float> {
  static __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 load(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store(float* p, __m256 v, int n) { _mm256_maskstore_ps(p, mask(n), v); }
};
template <>
struct Masked<double> {
  static __m256i mask(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static __m256d load(const double* p, int n) { return _mm256_maskload_pd(p, mask(n)); }
  static void store(double* p, __m256d v, int n) { _mm256_maskstore_pd(p, mask(n), v); }
};

}  // namespace lf::LF_ISA

#define LF_MASKED Masked
#define LF_MAX max_of
// GCC 12 extends in halves, which made a step of bfloat16 half as long again.
#define LF_EXTEND(x) _mm256_cvtepu16_epi32(__m128i(x))
#define LF_HALF(x) _mm256_cvtph_ps(__m128i(x))
#define LF_TO_HALF(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#include "cpu/scan.inl.h"
#pragma GCC pop_options

namespace lf {

// GCC 10 cannot ask for F16C; what has AVX2 has it.
static const char* why_not_here() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
             ? nullptr
             : "this CPU has no AVX2 with FMA";
}

const Variant cpu_avx2{
    .name = "cpu.avx2",
    .device = Device::cpu,
    .whole_forward = true,
    .whole_backward = true,
    .why_not_here = why_not_here,
    .why_not = avx2::why_not,
    .forward_workspace = avx2::forward_workspace,
    .backward_workspace = avx2::backward_workspace,
    .forward = avx2::forward,
    .backward = avx2::backward,
};

}  // namespace lf

#else

namespace lf {

static const char* why_not_here() { return "this CPU is not an x86-64"; }

const Variant cpu_avx2{
    .name = "cpu.avx2",
    .device = Device::cpu,
    .why_not_here = why_not_here,
};

}  // namespace lf

#endif
