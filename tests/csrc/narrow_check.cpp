// Every number of 16 bits as the CPU kernels widen it where no instruction does:   narrow_check
#define LF_ISA oracle
#define LF_VECTOR_BYTES 16
#define LF_VECTOR_REGISTERS 16
#include "cpu/simd.inl.h"
#include "narrow.h"

using namespace lf;
using namespace lf::oracle;

namespace {

int wrong = 0;

// The float that has the bits of got, NaN and -0 included.
void compare(const char* type, int bits, float got, float want) {
  if (std::isnan(want) ? std::isnan(got) : std::memcmp(&got, &want, sizeof got) == 0) return;
  std::printf("%s 0x%04x is %g, should be %g\n", type, bits, got, want);
  ++wrong;
}

template <DType kDType>
float widened(int bits, int lane) {
  Narrow<kDType> numbers[Vec<float>::kWidth]{};
  numbers[lane].bits = uint16_t(bits);
  return Vec<float>::load(numbers, lane + 1).v[lane];
}

}  // namespace

int main() {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const int lane = bits % Vec<float>::kWidth;
    check::BFloat16 brain;
    brain.bits = uint16_t(bits);
    compare("bfloat16", bits, widened<DType::bf16>(bits, lane), float(brain));
    check::Float16 half;
    half.bits = uint16_t(bits);
    float want = float(half);
    if ((bits & 0x7c00) == 0x7c00) want = bits & 0x3ff ? NAN : bits & 0x8000 ? -INFINITY : INFINITY;
    compare("float16", bits, widened<DType::f16>(bits, lane), want);
  }
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
