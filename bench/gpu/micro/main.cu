// Microbenchmarks of what the kernels are designed by:   micro [PART_OF_A_NAME | --names]
//
// Prints a line of JSON for each figure as soon as it is there, in order of their worth: what a
// time step waits for first. bench/gpu/micro.py sets them beside what was predicted.
#include <cstdio>
#include <cstring>
#include <exception>

#include "host.cuh"

namespace {

using namespace lf;

micro::Gpu this_gpu() {
  if (const char* reason = dev::why_not_here()) throw std::runtime_error(reason);
  micro::Gpu gpu{};
  dev::check(cudaDeviceGetAttribute(&gpu.multiprocessors, cudaDevAttrMultiProcessorCount, 0),
             "multiprocessors");
  cudaStream_t stream;
  dev::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  gpu.context.stream = stream;
  return gpu;
}

}  // namespace

int main(int argc, char** argv) {
  const bool names = argc > 1 && !std::strcmp(argv[1], "--names");
  if (names)
    micro::ask_for_names();
  else if (argc > 1)
    micro::ask_for(argv[1]);
  try {
    const micro::Gpu gpu = names ? micro::Gpu{.multiprocessors = 132} : this_gpu();
    micro::measure_clusters(gpu);
    micro::measure_grid(gpu);
    micro::measure_block(gpu);
    micro::measure_memory(gpu);
    micro::measure_launches(gpu);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
