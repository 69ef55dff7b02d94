// cpu.avx512bf16: as cpu.avx512, for tensors of bfloat16, whose products the CPU takes in pairs:
// twice the operations of float32. The order of this file is law: standard headers before the
// target pragma, ours after it.
#include "contract/variant.h"
#include "cpu/team.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define LF_ISA avx512bf16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include "cpu/avx512.inl.h"

namespace lf::LF_ISA {

struct Bf16 {
  uint16_t bits;

  static __m512 load(const Bf16* p, int n) {
    const __m512i low = LF_EXTEND(_mm256_maskz_loadu_epi16(Masked<float>::mask(n), p));
    return __m512(_mm512_maskz_slli_epi32(0xffff, low, 16));
  }
  static void store(Bf16* p, __m512 v, int n) {
    _mm256_mask_storeu_epi16(p, Masked<float>::mask(n), __m256i(_mm512_cvtneps_pbh(v)));
  }
  static __m512i load_pairs(const Bf16* p, int n) {
    return _mm512_maskz_loadu_epi16(n == 32 ? ~0u : (1u << n) - 1, p);
  }
  template <class IntVector>
  static __m512 dot(__m512 sum, IntVector a, IntVector b) {
    return _mm512_dpbf16_ps(sum, __m512bh(a), __m512bh(b));
  }
};

}  // namespace lf::LF_ISA

#define LF_BFLOAT16 Bf16
#include "cpu/scan.inl.h"
#pragma GCC pop_options

namespace lf {

static const char* why_not_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512bf16")
             ? nullptr
             : "this CPU has no AVX-512 with BF16";
}

const Variant cpu_avx512bf16{
    .name = "cpu.avx512bf16",
    .device = Device::cpu,
    .whole_forward = true,
    .whole_backward = true,
    .why_not_here = why_not_here,
    .why_not = avx512bf16::why_not,
    .forward_workspace = avx512bf16::forward_workspace,
    .backward_workspace = avx512bf16::backward_workspace,
    .forward = avx512bf16::forward,
    .backward = avx512bf16::backward,
};

}  // namespace lf

#else

namespace lf {

static const char* why_not_here() { return "this CPU is not an x86-64"; }

const Variant cpu_avx512bf16{
    .name = "cpu.avx512bf16",
    .device = Device::cpu,
    .why_not_here = why_not_here,
};

}  // namespace lf

#endif
