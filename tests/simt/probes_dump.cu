// Runs every probe on random words:   probes_dump ROUNDS [SEED]
//
// One text for both sides: compiled by nvcc it runs on a GPU, and by g++ in the SIMT machine, whose
// schedule SEED chooses. For every round of every probe it prints
//
//   NAME ROUND ANSWER HASH_OF_INPUTS WORDS_OUT...
//
// and "# NAME REASON" for what this GPU cannot run. bench/gpu/twins.py compares two such dumps.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "probe_device.cuh"
#include "probes_inputs.h"

namespace {

using namespace lf::probes;

// FNV-1a.
uint64_t hash(const std::vector<uint32_t>& words) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t word : words)
    for (int k = 0; k < 4; ++k, word >>= 8) h = (h ^ (word & 0xff)) * 0x100000001b3;
  return h;
}

const char* text(Answer answer) {
  constexpr const char* kTexts[] = {"same", "same_but_nan", "near", "products"};
  return kTexts[int(answer)];
}

void run(const Probe& probe, uint64_t round) {
  const std::vector<uint32_t> inputs = make_inputs(probe, round);
  DeviceWords in(inputs), out(std::vector<uint32_t>(inputs.size()));
  DeviceWords scratch(std::vector<uint32_t>(inputs.size() + 32 * Words::kWords));
  lf::dev::launch<Words>({}, probe.grid(), probe.kernel, {in.data(), out.data(), scratch.data()});
  std::printf("%s %llu %s %016llx", probe.name, (unsigned long long)round, text(probe.answer),
              (unsigned long long)hash(inputs));
  for (const uint32_t word : out.read()) std::printf(" %x", word);
  std::puts("");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  set_schedule(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  const char* now = "nothing yet";
  try {
    for (const Probe& probe : kProbes) {
      now = probe.name;
      const std::string reason = why_not(probe);
      if (!reason.empty()) std::printf("# %s %s\n", probe.name, reason.c_str());
      for (uint64_t round = 0; reason.empty() && round < rounds; ++round) run(probe, round);
    }
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", now, error.what());
    return 1;
  }
}
