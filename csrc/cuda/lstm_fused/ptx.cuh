// All PTX of the project, and nothing else. Every function here has a twin of the same signature
// for the SIMT machine (tests/simt/include) and a probe kernel that compares the two on a GPU
// (tests/simt/probes.cuh).
//
// The numbers in brackets name sections of the PTX ISA 9.0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lf::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Dynamic shared memory, handed out array by array: every thread must take the same arrays in the
// same order. Arrays begin at multiples of 16 bytes.
class Shared {
 public:
  template <class T>
  __device__ __forceinline__ T* take(int n) {
    extern __shared__ __align__(1024) unsigned char lf_shared[];
    T* const at = reinterpret_cast<T*>(lf_shared + used_);
    used_ += (sizeof(T) * n + 15) / 16 * 16;
    return at;
  }

 private:
  size_t used_ = 0;
};

// So many rows of so many bytes further in global memory, or back, by one instruction. What the
// compiler can look into it takes apart, and adds up anew for every access.
template <class T>
__device__ __forceinline__ T* moved(T* from, int rows, int bytes) {
  size_t to;
  asm volatile("mad.wide.s32 %0, %1, %2, %3;"
               : "=l"(to)
               : "r"(rows), "r"(bytes), "l"(__cvta_generic_to_global(from)));
  return static_cast<T*>(__cvta_global_to_generic(to));
}

// The same number, of which the compiler knows nothing: what is computed of it stays where it is
// written, also in a loop.
__device__ __forceinline__ uint32_t unknown(uint32_t x) {
  uint32_t same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(x));
  return same;
}

// 16 bytes to global memory by one instruction, where `to` is a multiple of 16. nvcc 13.0 takes
// some stores of such a struct apart again for GPUs before sm_100, into four of 4 bytes.
__device__ __forceinline__ void store_words(void* to, const uint32_t (&value)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value[0]), "r"(value[1]),
               "r"(value[2]), "r"(value[3])
               : "memory");
}

// ---- cp.async [9.7.9.25.3]: 16 bytes from global to shared memory, valid of them; the rest is
// zero

__device__ __forceinline__ void copy_async(void* to, const void* from, int valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kLeft groups of this thread's copies are under way.
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// ---- matrices of a warp [9.7.14]; fragments as in the ISA's tables
// -------------------------------

// Two or four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix
// l / 8, 16 bytes aligned.
__device__ __forceinline__ void load_matrix(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b: a 16 x 16 by rows, b 16 x 8 by columns, d 16 x 8 in float.
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply_f16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// a 16 x 8 by rows, b 8 x 8 by columns, both of words whose last 13 bits are zero, as to_tf32 gives
// them.
__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Rounded to 10 bits of mantissa, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// ---- the special function unit [9.7.3]. Subnormal arguments and results are zero
// -----------------

// 2^x, within 2^-22 of itself.
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / x, within an ulp.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- flags between blocks, for memory that another one wrote before

__device__ __forceinline__ unsigned load_acquire(const unsigned* p) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}
__device__ __forceinline__ void add_release(unsigned* p, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// ---- words that are their own flags: one trip through L2, not the three of a flag and its data

// Not ordered with anything: who sees a word knows that word and nothing else.
__device__ __forceinline__ void publish_word(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
// 16 aligned bytes. Each word is whole, but the four need not be of one moment.
__device__ __forceinline__ void poll_words(uint32_t (&words)[4], const uint32_t* from) {
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "l"(from)
               : "memory");
}

// The same into shared memory, as a copy that wait_copies waits for: each word as it is at some
// moment from now until then. By the memory model cp.async is weak, and asks for no order; that of
// 16 aligned bytes no word comes in parts is what GPUs do, by whole sectors of L2.
__device__ __forceinline__ void poll_async(void* to, const uint32_t* from) { copy_async(to, from); }
// The same of two pairs of word and tag, each whole.
__device__ __forceinline__ void poll_tagged_async(void* to, const uint32_t* from) {
  copy_async(to, from);
}

__device__ __forceinline__ uint32_t poll_word(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}
// Publishes a word, and gives what was there before.
__device__ __forceinline__ uint32_t exchange_word(uint32_t* at, uint32_t word) {
  uint32_t before;
  asm volatile("atom.relaxed.gpu.global.exch.b32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(at), "r"(word)
               : "memory");
  return before;
}
// Publishes a word to the host, in memory of its own.
__device__ __forceinline__ void tell_host(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

// The same with a tag beside each word, for memory that is used again: a pair of word and tag is
// whole.
__device__ __forceinline__ void publish_tagged(uint32_t* to, uint32_t word, uint32_t tag) {
  const uint64_t both = uint64_t(tag) << 32 | word;
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(both) : "memory");
}
// Two such pairs, 16 aligned bytes; they need not be of one moment.
__device__ __forceinline__ void poll_tagged(uint32_t (&words)[2], uint32_t (&tags)[2],
                                            const uint32_t* from) {
  uint64_t both[2];
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(both[0]), "=l"(both[1])
               : "l"(from)
               : "memory");
#pragma unroll
  for (int k = 0; k < 2; ++k) words[k] = uint32_t(both[k]), tags[k] = uint32_t(both[k] >> 32);
}

// ---- clocks, which never go back: of the SM in its cycles, of the device in nanoseconds

__device__ __forceinline__ uint64_t cycles() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(now)::"memory");
  return now;
}
// Some devices advance it only every microsecond.
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

// ---- clusters of blocks, sm_90 and later
// ---------------------------------------------------------

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#else
  __trap();
#endif
  return rank;
}
// Every thread of the cluster has come here before any goes on.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#else
  __trap();
#endif
}
// The same place in the shared memory of the block with that rank.
template <class T>
__device__ __forceinline__ T* of_peer(T* shared, unsigned rank) {
  uint64_t at = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.u64 %0, %1, %2;"
               : "=l"(at)
               : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
#else
  __trap();
#endif
  return reinterpret_cast<T*>(at);
}

// ---- barriers in shared memory that count arrivals and bytes, sm_90 and later [9.7.13.15]
// --------

// One thread: `arrivals` make a phase. Others may use it after a cluster_sync.
__device__ __forceinline__ void init_barrier(uint64_t* barrier, unsigned arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier)),
      "r"(arrivals)
      : "memory");
#else
  __trap();
#endif
}
// Arrives, and makes the phase wait for `bytes` more.
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#else
  __trap();
#endif
}
// Whether the phase of that parity has ended; may wait a little for it.
__device__ __forceinline__ bool phase_ended(const uint64_t* barrier, unsigned parity) {
  unsigned ended = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#else
  __trap();
#endif
  return ended;
}
// Writes 16 bytes into the shared memory of the block with that rank, some time later, and then
// counts them at its barrier. `to` and `barrier` are this block's own places of the same arrays.
__device__ __forceinline__ void store_async(void* to, unsigned rank, const uint32_t (&value)[4],
                                            uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 to, barrier;\n"
      "mapa.shared::cluster.u32 to, %0, %6;\n"
      "mapa.shared::cluster.u32 barrier, %1, %6;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
      "[to], {%2, %3, %4, %5}, [barrier];\n}" ::"r"(shared_address(to)),
      "r"(shared_address(barrier)), "r"(value[0]), "r"(value[1]), "r"(value[2]), "r"(value[3]),
      "r"(rank)
      : "memory");
#else
  __trap();
#endif
}

}  // namespace lf::ptx
