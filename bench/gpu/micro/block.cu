#include "block.cuh"
#include "host.cuh"

namespace lf::micro {

namespace {

std::string warps_text(unsigned warps) { return ".w" + std::to_string(warps); }

// On every multiprocessor at once, as a scan runs.
dev::Grid everywhere(const Gpu& gpu, unsigned warps) {
  return {.blocks = unsigned(gpu.multiprocessors), .threads = 32 * warps};
}

template <class Type, int kSums>
void measure_multiply(const Gpu& gpu, const std::string& type, unsigned warps) {
  constexpr int kRounds = 4096;
  const std::string name = type + warps_text(warps) + ".s" + std::to_string(kSums);
  attempt(name, [&] {
    const Samples samples = repeat<BlockRounds>(gpu, multiply_rate<Type, kSums>,
                                                everywhere(gpu, warps), {.rounds = kRounds});
    const double products = double(warps) * kRounds * kSums * Type::kProducts;
    put_rate(name, "FMA/clk", samples, products, {{"warps", warps}, {"sums", kSums}});
  });
}

template <class Type>
void measure_multiplies(const Gpu& gpu, const std::string& type) {
  for (const unsigned warps : {8, 16, 4, 2, 1}) {
    measure_multiply<Type, 4>(gpu, type, warps);
    measure_multiply<Type, 2>(gpu, type, warps);
    measure_multiply<Type, 1>(gpu, type, warps);
  }
}

template <int kCells>
void measure_cell(const Gpu& gpu, unsigned warps) {
  constexpr int kRounds = 1000;
  const std::string name = "cell" + warps_text(warps) + ".c" + std::to_string(kCells);
  attempt(name, [&] {
    const Samples samples =
        repeat<BlockRounds>(gpu, cell_latency<kCells>, everywhere(gpu, warps), {.rounds = kRounds});
    put_time(name, samples, kRounds, {{"warps", warps}, {"cells", 32.0 * warps * kCells}});
  });
}

}  // namespace

void measure_block(const Gpu& gpu) {
  measure_multiplies<Bf16>(gpu, "multiply_bf16");
  measure_multiplies<Tf32>(gpu, "multiply_tf32");
  for (const unsigned warps : {4, 8, 16}) {
    const std::string name = "load_matrix" + warps_text(warps);
    attempt(name, [&] {
      constexpr int kRounds = 2048;
      dev::Grid grid = everywhere(gpu, warps);
      grid.shared = kMatrixBytes;
      const Samples samples = repeat<BlockRounds>(gpu, load_matrix_rate, grid, {.rounds = kRounds});
      put_rate(name, "B/clk", samples, double(warps) * kRounds * kMatrixBytes, {{"warps", warps}});
    });
  }
  for (const unsigned warps : {2, 4, 8, 16}) {
    const std::string name = "block_barrier" + warps_text(warps);
    attempt(name, [&] {
      constexpr int kRounds = 10000;
      const Samples samples =
          repeat<BlockRounds>(gpu, block_barrier, everywhere(gpu, warps), {.rounds = kRounds});
      put_time(name, samples, kRounds, {{"warps", warps}});
    });
  }
  for (const unsigned warps : {1, 4, 8, 16}) measure_cell<4>(gpu, warps);
  for (const unsigned warps : {1, 8}) measure_cell<1>(gpu, warps);
}

}  // namespace lf::micro
