// What the probes are given: random words, and of numbers also those that are special.
#pragma once

#include <cstdint>
#include <vector>

#include "../csrc/splitmix.h"
#include "probes_table.cuh"

namespace lf::probes {

using oracle::Random;

// A round has one of these.
enum class Scene {
  even,       // 1/4 to 2
  wide,       // as far apart as leaves sums finite
  special,    // zeros of both signs, infinities and NaN here and there
  subnormal,  // too small for the full mantissa
};
constexpr int kScenes = 4;

struct Format {
  int exponent, mantissa;  // bits

  uint32_t infinity() const { return ((1u << exponent) - 1) << mantissa; }
  uint32_t sign() const { return 1u << (exponent + mantissa); }
  int bias() const { return (1 << (exponent - 1)) - 1; }
};
constexpr Format kFloat{8, 23}, kBf16{8, 7}, kF16{5, 10}, kTf32{8, 10};

// low, high: powers of two; below that of the smallest normal number it is subnormal.
inline uint32_t number(Random& random, Format f, int low, int high) {
  const int64_t power = random.from_to(low, high) + f.bias();
  const uint32_t mantissa = uint32_t(random.next()) & ((1u << f.mantissa) - 1);
  return (random.one_in(2) ? f.sign() : 0) | uint32_t(power < 1 ? 0 : power) << f.mantissa |
         mantissa;
}
inline uint32_t element(Random& random, Format f, Scene scene) {
  const int far = f.exponent == 5 ? 10 : 30;  // products of 2^20, and of 2^60
  switch (scene) {
    case Scene::wide:
      return number(random, f, -far, far);
    case Scene::subnormal:
      return number(random, f, -f.bias(), -f.bias());
    case Scene::special:
      if (random.one_in(48)) {
        const uint32_t sign = random.one_in(2) ? f.sign() : 0;
        const uint32_t quiet = f.infinity() | 1u << (f.mantissa - 1);
        switch (random.from_to(0, 2)) {
          case 0:
            return sign;
          case 1:
            return sign | f.infinity();
          default:
            return sign | quiet;
        }
      }
      [[fallthrough]];
    default:
      return number(random, f, -2, 0);
  }
}

// A word of a product's lane: a in 0 to 3, b in 4 and 5, c in 6 and 7. Where a is subnormal, b is
// not and c is zero, or else nothing would be seen of it.
inline uint32_t operand(Random& random, Inputs inputs, Scene scene, int word) {
  const bool c = word >= 6;
  if (scene == Scene::subnormal && word >= 4) {
    if (c) return random.one_in(2) ? kFloat.sign() : 0;
    scene = Scene::even;
  }
  if (c) return element(random, kFloat, scene);
  if (inputs == Inputs::tf32) return element(random, kTf32, scene) << 13;
  const Format f = inputs == Inputs::bf16 ? kBf16 : kF16;
  const uint32_t low = element(random, f, scene);
  return low | element(random, f, scene) << 16;
}

// For conversions. special: one of a list; subnormal: of float, or of float16; wide: any bits at
// all; even: on or beside the middle of two numbers of 7 or 10 bits of mantissa.
inline uint32_t any_float(Random& random, Scene scene) {
  constexpr uint32_t kSpecial[] = {
      0x00000000, 0x7f800000, 0x7fc00000, 0x7f800001, 0x7fc00001, 0x7fffffff,  // 0, inf, NaNs
      0x00000001, 0x00001000, 0x007fffff, 0x00800000, 0x00801000,              // smallest of all
      0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x7f7ff000, 0x7f7fefff,  // largest of float, bf16, tf32
      0x477fe000, 0x477fefff, 0x477ff000, 0x477fffff,              // of float16: 65504, 65520
      0x33000000, 0x33000001, 0x33800000, 0x387fe000, 0x38800000,  // and its smallest: 2^-25 ...
  };
  const uint32_t sign = random.one_in(2) ? kFloat.sign() : 0;
  switch (scene) {
    case Scene::wide:
      return uint32_t(random.next());
    case Scene::special:
      return sign | kSpecial[random.next() % (sizeof kSpecial / sizeof *kSpecial)];
    case Scene::subnormal: {
      const uint32_t x =
          random.one_in(2) ? number(random, kFloat, -26, -14) : number(random, kFloat, -127, -126);
      return x & ~0u << random.from_to(0, 22);  // mostly ties
    }
    default: {
      const int bits = random.one_in(2) ? 13 : 16;  // that tf32 and float16, or bf16, have not
      const uint32_t x = number(random, kFloat, -14, 15) & ~0u << bits;
      return x + (1u << (bits - 1)) + uint32_t(random.from_to(-1, 1));
    }
  }
}

// The words of all lanes; the same for the same round.
inline std::vector<uint32_t> make_inputs(const Probe& probe, uint64_t round) {
  Random random{round};
  const Scene scene = Scene(round % kScenes);
  std::vector<uint32_t> words(size_t(probe.blocks) * 32 * Words::kWords);
  for (size_t k = 0; k < words.size(); ++k) switch (probe.inputs) {
      case Inputs::bits:
        words[k] = uint32_t(random.next());
        break;
      case Inputs::floats:
        words[k] = any_float(random, scene);
        break;
      default:
        words[k] = operand(random, probe.inputs, scene, int(k % Words::kWords));
    }
  return words;
}

}  // namespace lf::probes
