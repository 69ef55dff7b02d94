// What AddressSanitizer and ThreadSanitizer must be told about fibers and red zones.
#pragma once

#include <cstddef>

#if defined(__has_feature)  // clang's spelling of g++'s macros
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#elif __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// clang's no_sanitize("thread") still notes entries and exits, which must not be noted around a
// switch of fibers: it would enter in one and exit in another.
#if defined(__clang__)
#define SIMT_UNSANITIZED __attribute__((disable_sanitizer_instrumentation))
#else
#define SIMT_UNSANITIZED __attribute__((no_sanitize("thread", "address", "undefined")))
#endif

namespace simt {

// While one lives, accesses of this fiber are the machine's, not the kernel's.
struct Quiet {
#if defined(__SANITIZE_THREAD__)
  Quiet() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  ~Quiet() { AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0); }
#else
  Quiet() {}
#endif
  Quiet(const Quiet&) = delete;
};

inline void poison([[maybe_unused]] const void* at, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(at, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* at, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#endif
}

// Around a switch of stacks: AddressSanitizer must know which one is in use, and keeps a fake stack
// for each. fake: where to keep the one that is left; nullptr: it is never entered again.
SIMT_UNSANITIZED inline void before_switch([[maybe_unused]] void** fake,
                                           [[maybe_unused]] const void* bottom,
                                           [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake, bottom, size);
#endif
}
// fake: of the one that is entered. bottom, size: of the one that was left.
SIMT_UNSANITIZED inline void after_switch([[maybe_unused]] void* fake,
                                          [[maybe_unused]] const void** bottom,
                                          [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, bottom, size);
#endif
}

// A fiber as ThreadSanitizer sees it: a thread of its own, that what its maker did before precedes.
struct Identity {
  void* fiber = nullptr;

  static Identity current() {
#if defined(__SANITIZE_THREAD__)
    return {__tsan_get_current_fiber()};
#else
    return {};
#endif
  }
  static Identity fresh() {
#if defined(__SANITIZE_THREAD__)
    return {__tsan_create_fiber(0)};
#else
    return {};
#endif
  }
  // It is never entered again.
  void end() const {
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(fiber);
#endif
  }
  // From now on this one runs. ordered: what the last one did precedes what this one does.
  SIMT_UNSANITIZED void enter([[maybe_unused]] bool ordered) const {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber, ordered ? 0 : __tsan_switch_to_fiber_no_sync);
#endif
  }
};

}  // namespace simt
