// Host and device portability. Nothing else lives here.
#pragma once

#if defined(__CUDACC__)
#define LF_FN __host__ __device__ __forceinline__
#else
#define LF_FN inline __attribute__((always_inline))
#endif

// Every translation unit that computes defines LF_ISA (generic, avx2, avx512, avx512bf16, neon,
// cuda, dispatch, ops) before it includes shared code. The code then lives in namespace lf::LF_ISA,
// so the linker can never merge an AVX-512 copy of a function with a plain one.
#ifndef LF_ISA
#error "define LF_ISA before including shared code"
#endif
