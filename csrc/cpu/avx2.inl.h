// What AVX2 with FMA and F16C brings to Vec<T> (simd.inl.h). Included behind the target pragma.
#pragma once

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

#define LF_VECTOR_BYTES 32
#define LF_VECTOR_REGISTERS 16
#define LF_MASKED Masked
#define LF_MAX max_of
// GCC 12 extends in halves, which made a step of bfloat16 half as long again.
#define LF_EXTEND(x) _mm256_cvtepu16_epi32(__m128i(x))
#define LF_HALF(x) _mm256_cvtph_ps(__m128i(x))
#define LF_TO_HALF(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
