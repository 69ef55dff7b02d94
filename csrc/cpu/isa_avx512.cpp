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
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma")

#include "cpu/avx512.inl.h"
#include "cpu/scan.inl.h"
#pragma GCC pop_options

namespace lf {

static const char* why_not_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl")
             ? nullptr
             : "this CPU has no AVX-512 (F, DQ and VL)";
}

const Variant cpu_avx512{
    .name = "cpu.avx512",
    .device = Device::cpu,
    .whole_forward = true,
    .whole_backward = true,
    .why_not_here = why_not_here,
    .why_not = avx512::why_not,
    .forward_workspace = avx512::forward_workspace,
    .backward_workspace = avx512::backward_workspace,
    .forward = avx512::forward,
    .backward = avx512::backward,
};

}  // namespace lf

#else

namespace lf {

static const char* why_not_here() { return "this CPU is not an x86-64"; }

const Variant cpu_avx512{
    .name = "cpu.avx512",
    .device = Device::cpu,
    .why_not_here = why_not_here,
};

}  // namespace lf

#endif
