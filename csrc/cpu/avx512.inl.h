// What AVX-512 brings to Vec<T> (simd.inl.h). Included once per ISA that has it, behind the target
// pragma.
#pragma once

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

#define LF_VECTOR_BYTES 64
#define LF_VECTOR_REGISTERS 32
#define LF_MASKED Masked
#define LF_MAX max_of
// GCC 12 extends in halves, which made a step of bfloat16 half as long again.
#define LF_EXTEND(x) _mm512_maskz_cvtepu16_epi32(0xffff, __m256i(x))
#define LF_HALF(x) _mm512_maskz_cvtph_ps(0xffff, __m256i(x))
#define LF_TO_HALF(x) \
  _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define LF_CUT(x) _mm512_maskz_cvtepi32_epi16(0xffff, __m512i(x))
// Off by 2^-14 at most, by 2^-28 after Newton's step.
#define LF_INVERSE(x) _mm512_maskz_rcp14_ps(0xffff, x)
