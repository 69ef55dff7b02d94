// Numbers of 16 bits as the CPU kernels widen and round them:   narrow_check
#define LF_ISA oracle
#include "narrow.h"
#include "this_isa.h"

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

// The bits of a float rounded to 16 bits; NaN as the quiet one of either sign.
template <DType kDType>
int rounded(float value, int lane) {
  Narrow<kDType> numbers[Vec<float>::kWidth];
  float all[Vec<float>::kWidth]{};
  all[lane] = value;
  Vec<float>::load(all).store(numbers, lane + 1);
  return numbers[lane].bits;
}

void compare_rounded(const char* type, float value, int got, int want) {
  if (got == want) return;
  std::printf("%g is rounded to %s 0x%04x, should be 0x%04x\n", value, type, got, want);
  ++wrong;
}

// Numbers between two of 16 bits: at the middle, and just beside it.
template <DType kDType, class Number>
void check_rounding(const char* type, int infinity) {
  for (int bits = 0; bits < infinity; ++bits) {
    const int lane = bits % Vec<float>::kWidth;
    const float low = widened<kDType>(bits, lane);
    const float high = bits + 1 < infinity ? widened<kDType>(bits + 1, lane) : 2 * low;
    const float middle = bits + 1 < infinity ? low + (high - low) / 2 : low;
    for (const float value :
         {low, middle, std::nextafter(middle, 0.f), std::nextafter(middle, high)})
      for (const float sign : {1.f, -1.f})
        compare_rounded(type, sign * value, rounded<kDType>(sign * value, lane),
                        Number(sign * value).bits);
  }
  const float most = widened<kDType>(infinity - 1, 0),
              unit = most - widened<kDType>(infinity - 2, 0);
  const float over = most + unit / 2;  // the first that is infinite
  compare_rounded(type, over, rounded<kDType>(over, 1), infinity);
  compare_rounded(type, std::nextafter(over, 0.f), rounded<kDType>(std::nextafter(over, 0.f), 1),
                  infinity - 1);
  compare_rounded(type, -INFINITY, rounded<kDType>(-INFINITY, 2), infinity | 0x8000);
  const int nan = rounded<kDType>(NAN, 3) & 0x7fff;
  if (nan <= infinity) compare_rounded(type, NAN, nan, infinity + 1);
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
  check_rounding<DType::bf16, check::BFloat16>("bfloat16", 0x7f80);
  check_rounding<DType::f16, check::Float16>("float16", 0x7c00);
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
