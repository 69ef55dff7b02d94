// Stacks that threads of the SIMT machine run on, and the switch from one to another.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "machine.h"
#include "sanitize.h"

#if !defined(__x86_64__)
#error "the SIMT machine switches fibers by x86-64 instructions: port switch_stack()"
#endif

namespace simt {

constexpr size_t kStackBytes = 256 << 10;

// Where somebody runs, or has stopped.
struct Fiber {
  void* stack_pointer = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;
  Identity identity;
};

// Saves the registers that a call preserves, and goes on where `to` was saved.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// Returns when somebody switches back. ends: nobody will.
inline void switch_fiber(Fiber& from, const Fiber& to, bool ends) {
  before_switch(ends ? nullptr : &from.fake_stack, to.bottom, to.size);
  to.identity.enter(false);
  switch_stack(&from.stack_pointer, to.stack_pointer);
  after_switch(from.fake_stack, nullptr, nullptr);
}

// Stacks and identities outlive launches: making them took most of a small launch's time. An
// identity serves one thread of a launch, as all that one does is ordered, but launches are ordered
// anyway.
class FiberPool {
 public:
  // One that starts with `entry`.
  Fiber take(void (*entry)()) {
    Fiber fiber;
    fiber.bottom = take_stack();
    fiber.size = kStackBytes;
    fiber.identity = take_identity();
    // At one place in every stack, all of them would share a few lines of the cache.
    const size_t shift = number_++ % 32 * 192;
    char* const end = static_cast<char*>(const_cast<void*>(fiber.bottom)) + kStackBytes - shift;
    void** top = reinterpret_cast<void**>(end) - 2;
    *top = reinterpret_cast<void*>(entry);
    for (int k = 0; k < 6; ++k) *--top = nullptr;  // the registers that switch_stack takes
    fiber.stack_pointer = top;
    return fiber;
  }
  // Of one that has ended.
  void give_back(const Fiber& fiber) {
    stacks_.push_back(fiber.bottom);
    identities_.push_back(fiber.identity);
  }
  // One that never will.
  void abandon(const Fiber& fiber) {
    void* const stack = const_cast<void*>(fiber.bottom);
    unpoison(stack, kStackBytes);
    munmap(stack, kStackBytes);
  }

 private:
  Identity take_identity() {
    if (identities_.empty()) return Identity::fresh();
    const Identity identity = identities_.back();
    identities_.pop_back();
    return identity;
  }
  const void* take_stack() {
    if (!stacks_.empty()) {
      const void* const stack = stacks_.back();
      stacks_.pop_back();
      return stack;
    }
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw Error("no memory for the stack of a thread");
    mprotect(stack, size_t(sysconf(_SC_PAGESIZE)), PROT_NONE);
    return stack;
  }

  std::vector<const void*> stacks_;
  std::vector<Identity> identities_;
  size_t number_ = 0;
};

}  // namespace simt
