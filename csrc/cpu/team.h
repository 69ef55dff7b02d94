// A team of threads for the CPU kernels, and the barrier that its members share.
#pragma once

#include <atomic>

namespace lf {

// The largest team; a share of a layer on more cores than this would be microseconds.
constexpr int kMaxTeam = 256;

// member is 0 .. members - 1; members is what the team really got, at most what was asked.
using TeamWork = void (*)(const void* task, int member, int members);

// Runs work once per member on torch's OpenMP threads. Serial after a fork: GNU libgomp hangs in a
// child whose parent had a team.
void run_team(int threads, TeamWork work, const void* task);

// Members wait for each other at every call of wait(), which also publishes what they wrote before.
class alignas(64) Barrier {
 public:
  void wait(int members);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

}  // namespace lf
