// What NEON brings to Vec<T> (simd.inl.h).
#pragma once

#define LF_VECTOR_BYTES 16
#define LF_VECTOR_REGISTERS 32
#define LF_HALF(x) vcvt_f32_f16(float16x4_t(x))
#define LF_TO_HALF(x) vcvt_f16_f32(x)
