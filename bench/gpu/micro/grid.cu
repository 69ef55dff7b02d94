#include <algorithm>

#include "grid.cuh"
#include "host.cuh"

namespace lf::micro {

namespace {

void measure_barrier(const Gpu& gpu, const std::string& name, void (*kernel)(GridBarrier),
                     unsigned blocks) {
  constexpr int kRounds = 1000;
  Memory flags(size_t(blocks) * kFlagPitch * sizeof(unsigned));
  const dev::Grid grid{.blocks = blocks, .threads = 256, .cooperative = true};
  const Samples samples =
      repeat<GridBarrier>(gpu, kernel, grid, {.flags = flags.at<unsigned>(), .rounds = kRounds},
                          [&](GridBarrier&, int) { flags.zero(gpu); });
  put_time(name, samples, kRounds, {{"blocks", blocks}, {"threads", 256}});
}

// Block 0 with every other block in turn: partners are near to it or far from it.
void measure_hop(const Gpu& gpu, const std::string& name) {
  constexpr int kRounds = 256;
  Memory words(2 * (kRounds + 1) * 16), clocks(sizeof(Clocks));
  const dev::Grid grid{.blocks = unsigned(gpu.multiprocessors), .threads = 32, .cooperative = true};
  Samples samples;
  for (unsigned partner = 1; partner < grid.blocks.x && !samples.timed_out; ++partner) {
    Samples of_partner;
    for (int k = 0; k < 3; ++k) {
      words.zero(gpu);
      const Hop p{clocks.at<Clocks>(), words.at<uint32_t>(), kRounds, partner};
      sample(gpu, p.clocks, [&] { dev::launch(gpu.context, grid, hop, p); }, of_partner);
    }
    samples.nanoseconds.push_back(median(of_partner.nanoseconds));
    samples.cycles.push_back(median(of_partner.cycles));
    samples.outside.push_back(median(of_partner.outside));
    samples.timed_out = of_partner.timed_out;
  }
  const auto [nearest, farthest] =
      std::minmax_element(samples.nanoseconds.begin(), samples.nanoseconds.end());
  const double hops = 2 * kRounds;
  put_time(name, samples, hops,
           {{"partners", double(samples.cycles.size())},
            {"nearest", *nearest * 1e-3 / hops},
            {"farthest", *farthest * 1e-3 / hops}});
}

template <int kVectors>
void measure_exchange(const Gpu& gpu, const std::string& name, void (*kernel)(Exchange),
                      unsigned blocks) {
  constexpr int kRounds = 256;  // 17 MB of the largest tiles, which L2 holds
  constexpr size_t kTileBytes = kVectors * kExchangeThreads * 16;
  Memory words((kRounds + 1) * kTileBytes);
  Memory flags(size_t(blocks) * kFlagPitch * sizeof(unsigned));
  const dev::Grid grid{
      .blocks = blocks, .threads = kExchangeThreads, .shared = kTileBytes, .cooperative = true};
  const Exchange p{.words = words.at<uint32_t>(), .flags = flags.at<unsigned>(), .rounds = kRounds};
  const Samples samples = repeat<Exchange>(gpu, kernel, grid, p, [&](Exchange&, int) {
    words.zero(gpu);
    flags.zero(gpu);
  });
  put_time(name, samples, kRounds, {{"blocks", blocks}, {"bytes", double(kTileBytes)}});
}

template <int kVectors>
void measure_exchanges(const Gpu& gpu, unsigned blocks) {
  const std::string size = "." + std::to_string(blocks) + "." + std::to_string(kVectors * 4) + "KB";
  attempt("word_exchange" + size, [&] {
    measure_exchange<kVectors>(gpu, "word_exchange" + size, word_exchange<kVectors>, blocks);
  });
  attempt("flag_exchange" + size, [&] {
    measure_exchange<kVectors>(gpu, "flag_exchange" + size, flag_exchange<kVectors>, blocks);
  });
}

}  // namespace

void measure_grid(const Gpu& gpu) {
  const auto all = unsigned(gpu.multiprocessors);
  attempt("l2_hop", [&] { measure_hop(gpu, "l2_hop"); });
  measure_exchanges<1>(gpu, 32);
  measure_exchanges<4>(gpu, 64);  // H 1024, 8 rows of bfloat16
  measure_exchanges<4>(gpu, 128);
  measure_exchanges<16>(gpu, 64);  // 32 rows
  for (const unsigned blocks : {32u, 64u, all}) {
    const std::string size = blocks == all ? ".all" : "." + std::to_string(blocks);
    const auto measure = [&](const std::string& name, void (*kernel)(GridBarrier)) {
      attempt(name, [&] { measure_barrier(gpu, name, kernel, blocks); });
    };
    measure("flag_barrier" + size, flag_barrier);
    measure("counter_barrier" + size, counter_barrier);
  }
}

}  // namespace lf::micro
