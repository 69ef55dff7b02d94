// A SIMT machine: CUDA kernels, unchanged, on one CPU thread. Every CUDA thread is a fiber, and a
// seed decides in which order they run, so a run can be repeated and debugged.
//
//   builtins.h      what a kernel uses without including anything: threadIdx, __syncthreads, ...
//   include/        twins of csrc/cuda/lstm_fused/{ptx,dev}.cuh, found first on the include path
//   machine.cpp     the scheduler
//
// Built plain it finds wrong numbers, deadlocks, divergent barriers and copies that nobody waited
// for; with AddressSanitizer also accesses outside of arrays, shared ones too; with clang's
// ThreadSanitizer also every missing barrier, and relaxed accesses where release and acquire are
// due. (g++'s ThreadSanitizer does not see stores through a function's return slot.)
//
// What it cannot see: time, bank conflicts, how tensor cores round (it takes the worst that is
// known of any), wrong PTX text. A probe per wrapper (probes.cuh) compares the last two with a GPU.
#pragma once

#include <vector_types.h>  // dim3, uint3, and __global__ and the like as nothing

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <type_traits>

#include "sanitize.h"

extern uint3 threadIdx, blockIdx;  // of the running fiber
extern dim3 blockDim, gridDim;

namespace simt {

using Where = std::source_location;

// What a kernel did that no GPU would forgive; the message names the place and the thread.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Launch {
  dim3 grid = 1, block = 1;
  size_t shared = 0;         // bytes of dynamic shared memory
  unsigned cluster = 1;      // blocks per cluster, neighbours in x
  bool cooperative = false;  // false: clusters run one after another, as a GPU may
};

// 0: always the first that can go on. Any other: a random one, and every asynchronous effect at a
// random moment. Stays until it is changed.
extern uint64_t seed;

// Of a cooperative launch so many blocks, the first ones, start when all others have ended, as if
// another launch had their place; and how often threads of theirs have waited so far. Stay until
// they are changed.
extern unsigned late_blocks;
extern uint64_t late_waits;

// Runs the kernel to its end; throws Error.
void run(const Launch& launch, const std::function<void()>& kernel);

// ---- for the twins: what a thread may do -------------------------------------------------------

[[noreturn]] void fail(const std::string& what, Where where);

unsigned lane();
unsigned cluster_rank();
unsigned cluster_size();
bool coin();  // always false with seed 0

void yield(Where where);  // others may go first
void spin(Where where);   // the same, in a loop that waits for another thread

// Waits until `count` threads of the block wait at barrier `id`. All must call from one place.
void block_barrier(unsigned id, unsigned count, const char* kind, Where where);
void cluster_barrier(Where where);

// What a lane hands to the others of its warp.
struct Slot {
  alignas(16) unsigned char bytes[64];
};

// Every lane of the mask hands in a slot and gets everybody's, by lane. Memory is ordered only
// where `orders`, as for __syncwarp.
const Slot* exchange(unsigned mask, const Slot& mine, bool orders, const char* kind, Where where);
template <class T>
SIMT_UNSANITIZED inline Slot slot_of(const T& value) {
  static_assert(sizeof(T) <= sizeof(Slot) && std::is_trivially_copyable_v<T>);
  Slot slot{};
  __builtin_memcpy(slot.bytes, &value, sizeof value);
  return slot;
}
template <class T>
SIMT_UNSANITIZED inline const T& of_lane(const Slot* exchanged, unsigned lane) {
  return *reinterpret_cast<const T*>(exchanged[lane].bytes);
}

// The next array of this thread's block in shared memory, `used` bytes of which are taken, with a
// red zone behind it. Fails where the launch gave less.
void* carve(size_t& used, size_t bytes, Where where);
// The same place in the shared memory of the block with that rank in the cluster.
void* peer(const void* shared, unsigned rank, Where where);

// cp.async: copies of 16 bytes of this thread, in groups. unit: of so many bytes all are of one
// moment; of fewer than 16 others may be writing them.
void copy_later(void* to, const void* from, unsigned valid, unsigned unit);
void close_copies();
void finish_copies(size_t groups_left);

// An effect of the hardware's own that comes about some time after this call, as if by a thread
// that was started here.
void post(std::function<void()> effect);

// ThreadSanitizer's view of an object that orders memory; nothing without it.
void release(const void* object);
void acquire(const void* object);

}  // namespace simt
