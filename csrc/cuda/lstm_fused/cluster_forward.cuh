// cuda.cluster, forward: the whole sequence in a cluster of blocks that hold W_hh between them.
//
//   registers   16 units' rows of W_hh as fragments, a warp the terms of its quarter of h
//               the input of the next step or rows, on its way
//   shared      h of 8 rows as factors, twice; the sums of all warps, twice; c of the block's
//               cells; the fragments that registers do not hold
//   cluster     h, by st.async from who owns a cell into the shared memory of all blocks
//   waits       for all bytes of h, at an mbarrier; one __syncthreads for 8 rows: the sums are
//               there
//
// A step's input h is an exchange: exchange m of a turn is what its step m reads, h0 for m = 0. It
// uses copy m % 2 of h and the barrier beside it. Every block sends the h of its units to all, its
// own too, for each row that the batch has, whether the step has it or not: so every exchange is of
// the same bytes, and a barrier is armed for them two exchanges ahead.
//
// Why nobody overwrites an h that somebody has still to read. Block Q sends h of exchange m + 1
// into block P's copy of exchange m - 1. Before that, Q's warps had all bytes of exchange m, also
// those of P, who has a unit at the least. P sent these after its __syncthreads of step m - 1, to
// which each of its warps, also one without units, came after its product of exchange m - 1. After
// the last step nothing is sent.
//
// Why a barrier counts each byte in its phase. Thread 0 of P arms it for exchange m + 1 when it has
// seen the end of exchange m - 1, and before that __syncthreads of step m - 1: before P sends h of
// m, and so before anybody sends h of m + 1. And nobody waits for the end of a phase that the next
// but one has already followed: that would need P's bytes, which P sends after all its warps have
// seen the end.
//
// The sums have two copies in turns: who writes one has come through the __syncthreads behind the
// other, to which everybody came after reading this one.
//
// Refuses projections, fp64, H over cluster_plan.h's, and GPUs before sm_90.
//
// Bound at H = 256 in bf16, 8 rows, 8 blocks: st.async to another multiprocessor and the wait for
// it, 0.35 us; the product, 0.12, its half of h out of shared memory, 0.03, and the sums of 4
// warps, 0.1; the cell, 0.1: some 0.7 us a step. At H = 512, 16 blocks: 0.4, 0.23, 0.06, 0.1, 0.1:
// 0.9 us. 8 rows more in turns are the product, the sums and the cell, 0.3 to 0.45 us, until these
// fill the wait. In TF32 products take twice as long, in float32 by three of them six times: 1.4 us
// at H = 512, some 2.1 us a step, and at H = 256 some 1.3.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/cluster.cuh"

namespace lf::cuda {

template <class T>
struct ClusterForward {
  ScanForward<T> scan;
  GridShare share;
};

// The states of a set's warp, two rows of 16 units, as pieces of 16 bytes; every lane gets one.
template <Product kProduct>
struct PieceOfStates {
  using Factor = typename Kind<kProduct>::Factor;
  static constexpr int kUnits = 16 / int(sizeof(Factor));  // of a piece
  static constexpr int kPieces = 32 / kUnits;              // of a warp

  uint32_t words[4];

  __device__ __forceinline__ explicit PieceOfStates(Factor state) {
    uint32_t word = 0;
    std::memcpy(&word, &state, sizeof state);
    if constexpr (sizeof state == 2) word |= __shfl_down_sync(~0u, word, 1) << 16;
    constexpr int kOfWord = 4 / int(sizeof(Factor));
#pragma unroll
    for (int k = 0; k < 4; ++k) words[k] = __shfl_sync(~0u, word, index() * kUnits + k * kOfWord);
  }

  // Its place among the warp's; the lanes that have the same one send it to different blocks.
  static __device__ __forceinline__ int index() { return int(threadIdx.x) % kPieces; }
  static __device__ __forceinline__ int sender() { return int(threadIdx.x) % 32 / kPieces; }
  static constexpr int kSenders = 32 / kPieces;
  static __device__ __forceinline__ int column() {
    return int(threadIdx.x) % kSetThreads / 32 * 2 + index() * kUnits / kSetUnits;
  }
  static __device__ __forceinline__ int unit_of_set() { return index() * kUnits % kSetUnits; }
};

template <class Cell, Product kProduct, int kBucket>
__global__ void __launch_bounds__(Cluster<kProduct, Pass::forward, kBucket>::kThreads, 1)
    cluster_forward(const __grid_constant__ ClusterForward<typename Kind<kProduct>::Storage> p) {
  using Self = Cluster<kProduct, Pass::forward, kBucket>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  using Piece = PieceOfStates<kProduct>;
  using Slice = typename Self::Slice;
  constexpr ClusterPlan kPlan = Self::kPlan;
  constexpr int kSums = Self::kThreads / 32 * kSumsOfWarp;
  const ScanForward<T>& scan = p.scan;
  const Slice slice(scan.sizes, p.share);
  const int H = scan.sizes.H, turns = p.share.turns;
  const int rank = int(ptx::cluster_rank()), first_unit = rank * Self::kUnits;
  const int first_term = Self::warp() % kSetWarps * (Self::kWidth / kSetWarps);

  ptx::Shared shared;
  const Exchanges exchanges{shared.take<uint64_t>(2 * turns)};
  int* const first_steps = shared.take<int>(4 * turns);
  unsigned char* const h_of_all = shared.take<unsigned char>(2 * turns * int(kPlan.buffer));
  float4* const sums_of_all = shared.take<float4>(2 * kSums);
  float* const c_of_all = shared.take<float>(turns * Self::kThreads);
  typename Self::Matrix w_hh;
  w_hh.load(shared, [&](int tile, int row, int k) {
    const int gate = tile % 2 * 2 + row / 8;
    const int unit = first_unit + Self::set() * kSetUnits + tile / 2 * 8 + row % 8;
    const int term = first_term + k;
    return unit < H && term < H ? scan.w_hh[slice.direction][(gate * H + unit) * H + term] : T(0.f);
  });

  // Bytes of an exchange: whole pieces of all blocks, and so H rounded up to them.
  const auto bytes = [&](int turn) {
    return unsigned(Self::batch_rows(slice, turn) * ((H + Piece::kUnits - 1) / Piece::kUnits) * 16);
  };
  if (threadIdx.x == 0)
    for (int turn = 0; turn < turns; ++turn) {
      const bool late = slice.direction == 1 && Self::batch_rows(slice, turn) > 0;
      first_steps[turn] = late ? slice.steps - Self::steps_of(slice, turn) : 0;
      exchanges.init(turn, bytes(turn));
    }
  // Factors past H and rows past the batch stay zeros: they meet weights of zero, and a NaN would
  // come through.
  Self::clear(h_of_all, 2 * turns * int(kPlan.buffer));
  for (int turn = 0; turn < turns; ++turn)
    c_of_all[Slice::place(turn)] = slice.exists(turn) && scan.c0 ? scan.c0[slice.state(turn)] : 0.f;
  // For racecheck alone, to which barrier.cluster is no barrier of the block.
  __syncthreads();
  ptx::cluster_sync();

  const auto h_at = [&](int turn, int m) {
    return h_of_all + (turn * 2 + m % 2) * int(kPlan.buffer);
  };
  // Sends the state of every thread's cell to all blocks: the turn's exchange m.
  const auto hand_on = [&](int turn, int m, T state) {
    const Piece piece(Kind<kProduct>::factor(state));
    const int unit = first_unit + Self::set() * kSetUnits + Piece::unit_of_set();
    if (unit >= H || Piece::column() >= Self::batch_rows(slice, turn)) return;
    unsigned char* const to =
        h_at(turn, m) + Piece::column() * kPlan.pitch + unit * int(sizeof(Factor));
    // Each block begins with itself, so that not all send to the same one at once.
    for (int k = Piece::sender(); k < Self::blocks(); k += Piece::kSenders) {
      const int peer = rank + k < Self::blocks() ? rank + k : rank + k - Self::blocks();
      ptx::store_async(to, unsigned(peer), piece.words, exchanges.of(turn, m));
    }
  };
  const auto h0_of = [&](int turn) {
    return slice.exists(turn) && scan.h0 ? scan.h0[slice.state(turn)] : T(0.f);
  };
  for (int turn = 0; turn < turns; ++turn) hand_on(turn, 0, h0_of(turn));

  const auto gates = slice.cells(scan.gates, 4);
  const auto y = slice.outputs(scan.y);
  const auto kept_c = scan.c ? slice.cells(scan.c, 1) : CellPlace<float>{};
  T x[4] = {T(0.f), T(0.f), T(0.f), T(0.f)};
  const auto load_input = [&](const StepRows& rows) {
    if (!slice.active(rows)) return;
    const T* const from = gates.at(rows);
#pragma unroll
    for (int g = 0; g < 4; ++g) x[g] = from[g * H];
  };

  float4 *sums_now = sums_of_all, *sums_before = sums_of_all + kSums;
  StepRows now = slice.step(0), next = slice.step(1);
  load_input(slice.rows(now, 0));
  for (int n = 0; n < slice.steps; ++n) {
    const StepRows later = slice.step(n + 2);
    for (int turn = 0; turn < turns; ++turn) {
      const StepRows rows = slice.rows(now, turn);
      if (rows.count == 0) break;  // and none in the turns after it
      Value gate[4];
#pragma unroll
      for (int g = 0; g < 4; ++g) gate[g] = widen(x[g]);
      const StepRows rows_after = turn + 1 < turns ? slice.rows(now, turn + 1) : StepRows{0, 0};
      load_input(rows_after.count > 0 ? rows_after : slice.rows(next, 0));

      const int m = n - first_steps[turn];
      exchanges.await(turn, m, bytes(turn));
      Sums<kProduct> sums = {};
      w_hh.template multiply_add<kPlan.pitch, 0>(h_at(turn, m) + first_term * int(sizeof(Factor)),
                                                 sums);
      share_sums<kProduct>(sums, Self::lane(), [&](int unit, int column) -> float4& {
        return sums_now[Self::warp() * kSumsOfWarp + column * kSumsPitch + unit];
      });
      __syncthreads();
#pragma unroll
      for (int w = 0; w < kSetWarps; ++w) {  // always in this order
        const float4 part = sums_now[(Self::set() * kSetWarps + w) * kSumsOfWarp +
                                     slice.column * kSumsPitch + Self::Cell::unit_of_set()];
        gate[0] = gate[0] + part.x;
        gate[1] = gate[1] + part.y;
        gate[2] = gate[2] + part.z;
        gate[3] = gate[3] + part.w;
      }
      float4* const read = sums_now;
      sums_now = sums_before, sums_before = read;

      const bool active = slice.active(rows);
      Value c = c_of_all[Slice::place(turn)], kept[4];
      T out(0.f);
      if (active) {
        Value h_wide;
        Cell::forward(gate, c, h_wide, kept);
        narrow(h_wide.x, out);
      }
      // A row that has not begun hands on its h0 once more.
      if (slice.rows(next, turn).count > 0) hand_on(turn, m + 1, active ? out : h0_of(turn));
      if (!active) continue;
      c_of_all[Slice::place(turn)] = c.x;
      *y.at(rows) = out;
      if (slice.batch_row(turn) >= next.count) {  // its last step
        scan.h_n[slice.state(turn)] = out;
        scan.c_n[slice.state(turn)] = c.x;
      }
      if (!scan.c) continue;
      *kept_c.at(rows) = c.x;
      T* const to = gates.at(rows);
#pragma unroll
      for (int g = 0; g < 4; ++g) narrow((kFolded<T> ? kept : gate)[g].x, to[g * H]);
    }
    now = next, next = later;
  }
  ptx::cluster_sync();  // no block is gone while another one may still send to the cluster
}

}  // namespace lf::cuda
