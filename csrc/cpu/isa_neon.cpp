// cpu.neon: 4 floats a vector, 32 registers; baseline on AArch64, so no target pragma.
#include "contract/variant.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/neon.inl.h"

#define LF_ISA neon
#include "cpu/scan.inl.h"

namespace lf {

static const char* why_not_here() { return nullptr; }

const Variant cpu_neon{
    .name = "cpu.neon",
    .device = Device::cpu,
    .whole_forward = true,
    .whole_backward = true,
    .why_not_here = why_not_here,
    .why_not = neon::why_not,
    .forward_workspace = neon::forward_workspace,
    .backward_workspace = neon::backward_workspace,
    .forward = neon::forward,
    .backward = neon::backward,
};

}  // namespace lf

#else

namespace lf {

static const char* why_not_here() { return "this CPU is not an AArch64"; }

const Variant cpu_neon{
    .name = "cpu.neon",
    .device = Device::cpu,
    .why_not_here = why_not_here,
};

}  // namespace lf

#endif
