// What a launch costs: of empty kernels one after another, in a stream and in a captured graph.
#include <chrono>

#include "host.cuh"

namespace lf::micro {

namespace {

constexpr int kLaunches = 500;  // more would fill the queue, and the host would wait

struct Nothing {};
__global__ void empty(Nothing) {}

double now_in_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

void launch_many(const Gpu& gpu, const dev::Grid& grid) {
  for (int k = 0; k < kLaunches; ++k) dev::launch<Nothing>(gpu.context, grid, empty, {});
}

void finish(const Gpu& gpu) {
  dev::check(cudaStreamSynchronize(dev::stream_of(gpu.context)), "a kernel");
}

// One after another in the stream: as fast as the slower of host and GPU.
void in_stream(const Gpu& gpu, const std::string& name, const dev::Grid& grid) {
  std::vector<double> times, of_host;
  for (int k = 0; k <= kRepetitions; ++k) {
    double host = 0;
    const double time = by_events(gpu, [&] {
      const double start = now_in_us();
      launch_many(gpu, grid);
      host = now_in_us() - start;
    });
    if (k == 0) continue;
    times.push_back(time * 1e-3 / kLaunches);
    of_host.push_back(host / kLaunches);
  }
  put(name, "us", times, {{"host", median(of_host)}, {"blocks", grid.blocks.x}});
}

// The same as nodes of a graph.
void in_graph(const Gpu& gpu, const std::string& name, const dev::Grid& grid) {
  const cudaStream_t stream = dev::stream_of(gpu.context);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  dev::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  launch_many(gpu, grid);
  dev::check(cudaStreamEndCapture(stream, &graph), "capture");
  dev::check(cudaGraphInstantiate(&executable, graph, 0), "graph");
  std::vector<double> times;
  for (int k = 0; k <= kRepetitions; ++k) {
    const double time =
        by_events(gpu, [&] { dev::check(cudaGraphLaunch(executable, stream), "graph"); });
    if (k) times.push_back(time * 1e-3 / kLaunches);
  }
  put(name, "us", times, {{"nodes", kLaunches}, {"blocks", grid.blocks.x}});
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

// From the call until the host knows that the kernel has ended.
void and_wait(const Gpu& gpu, const std::string& name) {
  std::vector<double> times;
  for (int k = 0; k < 200; ++k) {
    const double start = now_in_us();
    dev::launch<Nothing>(gpu.context, {1, 32}, empty, {});
    finish(gpu);
    if (k >= 20) times.push_back(now_in_us() - start);
  }
  put(name, "us", times, {});
}

}  // namespace

void measure_launches(const Gpu& gpu) {
  const auto all = unsigned(gpu.multiprocessors);
  const std::pair<const char*, dev::Grid> grids[] = {
      {"", {.blocks = all, .threads = 256}},
      {".cooperative", {.blocks = all, .threads = 256, .cooperative = true}},
      {".clusters_of_8", {.blocks = all / 8 * 8, .threads = 256, .cluster = 8}},
      {".one_block", {.blocks = 1, .threads = 32}},
  };
  for (const auto& [kind, grid] : grids) {
    const std::string stream = std::string("launch.stream") + kind;
    const std::string graph = std::string("launch.graph") + kind;
    attempt(stream, [&, &grid = grid] { in_stream(gpu, stream, grid); });
    attempt(graph, [&, &grid = grid] { in_graph(gpu, graph, grid); });
  }
  attempt("launch.and_wait", [&] { and_wait(gpu, "launch.and_wait"); });
}

}  // namespace lf::micro
