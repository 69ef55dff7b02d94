// Between the blocks of a cluster, through each other's shared memory.
#pragma once

#include "clocked.cuh"

namespace lf::micro {

struct ClusterRounds {
  Clocks* clocks;
  int rounds;
};

__global__ void cluster_barrier(ClusterRounds p) {
  Stopwatch watch;
  ptx::cluster_sync();
  watch.start();
  for (int round = 0; round < p.rounds; ++round) ptx::cluster_sync();
  watch.stop(p.clocks);
}

// 16 bytes by st.async from block 0 of a cluster to its last one, and back.
template <unsigned kCluster>
__global__ void cluster_round_trip(ClusterRounds p) {
  ptx::Shared shared;
  auto* const box = shared.take<uint32_t>(4);
  auto* const full = shared.take<uint64_t>(1);
  const unsigned rank = ptx::cluster_rank();
  if (threadIdx.x == 0) {
    ptx::init_barrier(full, 1);
    ptx::arrive_expecting(full, 16);
  }
  ptx::cluster_sync();
  Patience patience;
  Stopwatch watch;
  watch.start();
  if (threadIdx.x == 0 && rank % (kCluster - 1) == 0) {
    uint32_t value[4] = {rank, 1, 2, 3};
    const auto send = [&] { ptx::store_async(box, kCluster - 1 - rank, value, full); };
    for (int round = 0; round < p.rounds; ++round) {
      if (rank == 0) send();
      patience.until([&] { return ptx::phase_ended(full, unsigned(round) % 2); });
      value[0] += box[0];
      if (round + 1 < p.rounds) ptx::arrive_expecting(full, 16);
      if (rank) send();
    }
    use(value[0], p.clocks);
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
  ptx::cluster_sync();
}

// All blocks of a cluster give their part of a tile to all, as h of a time step: two tiles in
// turns, a barrier for each, armed again by one thread as soon as all have read.
template <unsigned kCluster, unsigned kTileBytes>
__global__ void cluster_exchange(ClusterRounds p) {
  constexpr unsigned kPieces = kTileBytes / 16 / kCluster;  // of a block
  ptx::Shared shared;
  auto* const tiles = shared.take<uint32_t>(2 * kTileBytes / 4);
  auto* const full = shared.take<uint64_t>(2);
  const unsigned rank = ptx::cluster_rank();
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) {
      ptx::init_barrier(full + k, 1);
      ptx::arrive_expecting(full + k, kTileBytes);
    }
  ptx::cluster_sync();
  Patience patience;
  Stopwatch watch;
  watch.start();
  uint32_t value[4] = {threadIdx.x, rank, 2, 3};
  for (int round = 0; round < p.rounds; ++round) {
    uint32_t* const tile = tiles + round % 2 * (kTileBytes / 4);
    uint64_t* const barrier = full + round % 2;
    for (unsigned k = threadIdx.x; k < kPieces * kCluster; k += blockDim.x)
      ptx::store_async(tile + (rank * kPieces + k % kPieces) * 4, k / kPieces, value, barrier);
    patience.until([&] { return ptx::phase_ended(barrier, unsigned(round) / 2 % 2); });
    value[0] += tile[(threadIdx.x * 4 + unsigned(round)) % (kTileBytes / 4)];
    __syncthreads();  // all have read: from now on peers may be let on to the round after the next
    if (threadIdx.x == 0 && round + 2 < p.rounds) ptx::arrive_expecting(barrier, kTileBytes);
  }
  watch.stop(p.clocks);
  patience.report(p.clocks);
  use(value[0], p.clocks);
  ptx::cluster_sync();
}

}  // namespace lf::micro
