// The kernels of the microbenchmarks, small, in the SIMT machine:   micro_check [SEED]
//
// Their times mean nothing here. What they exchange must come, and no wait may be in vain.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../bench/gpu/micro/block.cuh"
#include "../../bench/gpu/micro/cluster.cuh"
#include "../../bench/gpu/micro/grid.cuh"
#include "../../bench/gpu/micro/memory.cuh"
#include "cuda/lstm_fused/dev.cuh"

namespace {

using namespace lf;
using namespace lf::micro;
constexpr int kRounds = 5;

int wrong = 0;

void check(bool right, const char* what) {
  if (right) return;
  std::printf("%s is wrong\n", what);
  ++wrong;
}

template <class P>
void run(const char* name, void (*kernel)(P), const dev::Grid& grid, P p) {
  Clocks clocks{};
  p.clocks = &clocks;
  dev::launch(Context{}, grid, kernel, p);
  check(!clocks.timed_out, name);
  check(clocks.cycles > 0 && clocks.nanoseconds > 0, name);
}

void check_grid() {
  for (const auto& kernel : {counter_barrier, flag_barrier}) {
    std::vector<unsigned> flags(3 * kFlagPitch);
    const dev::Grid grid{.blocks = 3, .threads = 64, .cooperative = true};
    run<GridBarrier>("a grid's barrier", kernel, grid,
                     {.clocks = nullptr, .flags = flags.data(), .rounds = kRounds});
    unsigned sum = 0;
    for (const unsigned flag : flags) sum += flag;
    check(sum == 3 * (kRounds + 1), "a grid's barrier");
  }
  std::vector<uint32_t> words(2 * (kRounds + 1) * 4);
  run<Hop>("hop", hop, {.blocks = 3, .threads = 32, .cooperative = true},
           {.clocks = nullptr, .words = words.data(), .rounds = kRounds, .partner = 2});
  for (const auto& kernel : {word_exchange<1>, flag_exchange<1>}) {
    constexpr size_t kTileBytes = kExchangeThreads * 16;
    std::vector<uint32_t> tiles((kRounds + 1) * kTileBytes / 4);
    std::vector<unsigned> flags(4 * kFlagPitch);
    const dev::Grid grid{
        .blocks = 4, .threads = kExchangeThreads, .shared = kTileBytes, .cooperative = true};
    run<Exchange>(
        "a grid's exchange", kernel, grid,
        {.clocks = nullptr, .words = tiles.data(), .flags = flags.data(), .rounds = kRounds});
    for (const uint32_t word : tiles) check(word & 1, "a grid's exchange");
  }
}

template <unsigned kCluster>
void check_cluster() {
  const ClusterRounds p{.clocks = nullptr, .rounds = kRounds};
  dev::Grid grid{.blocks = 2 * kCluster, .threads = 64, .cluster = kCluster};
  run("cluster_barrier", cluster_barrier, grid, p);
  grid.shared = 32;
  run("cluster_round_trip", cluster_round_trip<kCluster>, grid, p);
  grid.shared = 2 * 1024 + 16;
  run("cluster_exchange", cluster_exchange<kCluster, 1024>, grid, p);
}

void check_block() {
  const BlockRounds p{.clocks = nullptr, .rounds = kRounds};
  const dev::Grid grid{.blocks = 2, .threads = 64, .shared = kMatrixBytes};
  run("multiply_rate", multiply_rate<Bf16, 2>, grid, p);
  run("multiply_rate", multiply_rate<Tf32, 1>, grid, p);
  run("load_matrix_rate", load_matrix_rate, grid, p);
  run("block_barrier", block_barrier, grid, p);
  run("cell_latency", cell_latency<4>, grid, p);
}

// The chain must visit every node, and come back.
void check_memory() {
  constexpr uint32_t kCount = 64, kPitch = 8;
  std::vector<uint32_t> nodes(kCount * kPitch);
  const Chain chain{nodes.data(), kCount, kPitch};
  dev::launch(Context{}, {2, 32}, link, chain);
  uint32_t at = 0, met = 0;
  do at = nodes[at * kPitch], ++met;
  while (at != 0 && met < kCount);
  check(at == 0 && met == kCount, "the chain");
  run<Chase>("chase", chase, {1, 1},
             {.clocks = nullptr, .chain = chain, .start = 3, .hops = int(kCount)});
}

}  // namespace

int main(int argc, char** argv) {
  simt::seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
  try {
    check_grid();
    check_cluster<2>();
    check_cluster<4>();
    check_cluster<8>();
    check_block();
    check_memory();
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
