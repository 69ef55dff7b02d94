#include "cpu/team.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

namespace lf {
namespace {

std::atomic<bool> forked{false};

void mark_forked() { forked.store(true, std::memory_order_relaxed); }

const int fork_hook = pthread_atfork(nullptr, nullptr, mark_forked);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void run_team(int threads, TeamWork work, const void* task) {
  if (threads <= 1 || fork_hook != 0 || forked.load(std::memory_order_relaxed)) {
    work(task, 0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  work(task, omp_get_thread_num(), omp_get_num_threads());
}

void Barrier::wait(int members) {
  if (members == 1) return;
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  // A step is microseconds, so spin; but a partner that lost its core costs milliseconds: then
  // yield; and one that works alone may take seconds: then sleep.
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
    if (spins < 2000)
      pause();
    else if (spins < 4000)
      sched_yield();
    else
      phase_.wait(phase, std::memory_order_acquire);
  }
}

}  // namespace lf
