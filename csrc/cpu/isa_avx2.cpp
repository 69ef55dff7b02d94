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
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

#include "cpu/avx2.inl.h"
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
