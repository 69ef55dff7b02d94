// csrc/cpu/team.cpp with threads of the standard library for a team: ThreadSanitizer sees nothing
// of what OpenMP's runtime synchronises. The barrier is the real one. And the variants that are
// left out, so that one alone can be compiled.
#define run_team run_team_of_openmp
#include "cpu/team.cpp"
#undef run_team

#include <thread>
#include <vector>

#include "contract/variant.h"

namespace lf {

void run_team(int threads, TeamWork work, const void* task) {
  std::vector<std::thread> others;
  for (int member = 1; member < threads; ++member) others.emplace_back(work, task, member, threads);
  work(task, 0, threads);
  for (std::thread& other : others) other.join();
}

static const char* left_out() { return "it was left out of this program"; }

const Variant cpu_avx2{.name = "cpu.avx2", .why_not_here = left_out};
const Variant cpu_avx512{.name = "cpu.avx512", .why_not_here = left_out};
const Variant cpu_avx512bf16{.name = "cpu.avx512bf16", .why_not_here = left_out};
const Variant cpu_neon{.name = "cpu.neon", .why_not_here = left_out};

}  // namespace lf
