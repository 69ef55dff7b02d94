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

const Variant cpu_generic{"cpu.generic",
                          Device::cpu,
                          true,
                          true,
                          why_not_here,
                          generic::why_not,
                          generic::forward_workspace,
                          generic::backward_workspace,
                          generic::forward,
                          generic::backward};

}  // namespace lf
