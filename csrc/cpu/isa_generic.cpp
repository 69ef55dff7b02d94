// cpu.generic: what every compiler can build and every CPU can run; 16-byte vectors are SSE2 on
// x86-64.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define LF_ISA generic
#define LF_VECTOR_BYTES 16
#define LF_VECTOR_REGISTERS 16
#include "cpu/scan.inl.h"

namespace lf {

static const char* why_not_here() { return nullptr; }

const Variant cpu_generic{
    .name = "cpu.generic",
    .device = Device::cpu,
    .whole_forward = true,
    .whole_backward = true,
    .why_not_here = why_not_here,
    .why_not = generic::why_not,
    .forward_workspace = generic::forward_workspace,
    .backward_workspace = generic::backward_workspace,
    .forward = generic::forward,
    .backward = generic::backward,
};

}  // namespace lf
