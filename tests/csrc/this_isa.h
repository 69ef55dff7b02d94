// Vectors as the kernels have them of the ISA that a check is compiled for; LF_ISA names a
// namespace.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>

#include "cpu/avx512.inl.h"
#elif defined(__AVX2__)
#include <immintrin.h>

#include "cpu/avx2.inl.h"
#elif defined(__aarch64__)
#include <arm_neon.h>

#include "cpu/neon.inl.h"
#else
#define LF_VECTOR_BYTES 16
#define LF_VECTOR_REGISTERS 16
#endif

#include "cpu/simd.inl.h"
