// The twin of gpu/probe_device.cuh for the SIMT machine.
#pragma once

#include <string>
#include <vector>

#include "machine.h"
#include "probes_table.cuh"

namespace lf::probes {

class DeviceWords {
 public:
  explicit DeviceWords(const std::vector<uint32_t>& values) : words_(values) {}
  uint32_t* data() { return words_.data(); }
  std::vector<uint32_t> read() const { return words_; }

 private:
  std::vector<uint32_t> words_;
};

inline std::string why_not(const Probe&) { return ""; }
inline void set_schedule(uint64_t seed) { simt::seed = seed; }

}  // namespace lf::probes
