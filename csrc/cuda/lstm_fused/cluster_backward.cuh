// cuda.cluster, backward: the gradients of the gates, from the last step to the first, in a cluster
// of blocks that hold W_hh between them.
//
//   registers   the block's rows of W_hh, transposed, as fragments: what the gates of its units
//               send to all units, of which a warp has its tiles of 16
//               what the next step or rows read, on its way
//   shared      the gradients of the block's gates as factors, twice; what all blocks send to its
//               cells, twice; dc and dh of the cells; fragments that registers do not hold
//   cluster     shares of dh, by st.async from each block into the shared memory of a cell's owner
//   waits       for all shares, at an mbarrier; one __syncthreads for 8 rows: the gradients are
//               there
//
// Not the gradients of the gates go from block to block but shares of dh, each a sum over the gates
// of one block in float: 32 H bytes into every block for 8 rows, where all gradients would be 64 H
// in 16 bits and 128 H in float32. A cut between the two, in parts of gates, would send both, with
// two waits where this has one. The shares are added in the order of the blocks.
//
// Exchange k of a turn is what its k-th step, counted from its last one, sends: with copy k % 2 of
// the shares and the barrier beside it. Every block sends to all, its own cells too, for each pair
// of rows that the batch has, whether the step has them or not: always as many bytes.
//
// Why nobody overwrites a share that somebody has still to read. Block Q sends exchange k + 1 into
// block P's copy of exchange k - 1 after its __syncthreads of that step, to which its threads came
// after they had all bytes of exchange k, also those of P. P sent these behind its own
// __syncthreads, to which its threads came after they had read exchange k - 1. What is not read is
// not sent, and the last exchange, for dh0, is awaited before the end.
//
// Barriers are armed two exchanges ahead, as forward: thread 0 of P does it when it has seen the
// end of exchange k - 1, before that __syncthreads, before anybody sends exchange k + 1.
//
// The gradients have two copies in turns: who writes one has come through the __syncthreads behind
// the other, to which everybody came after the product of this one.
//
// Bound at H = 256 in bf16, 8 rows, 8 blocks: st.async and its wait, 0.35 us; 8 KB of shares in and
// out, 0.15; the product, 0.12, for which every warp reads all 2 KB of gradients, 0.07; the cell
// and 8 shares, 0.15: some 0.85 us a step. At H = 512, 16 blocks: 0.4, 0.3, 0.23, 0.07, 0.2: 1.2
// us. 8 rows more in turns are all of this but the wait, until they fill it. In float32 by three
// products these take 1.4 us at H = 512, some 2.4 us a step, and at H = 256 some 1.5.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/cluster.cuh"

namespace lf::cuda {

template <class T>
struct ClusterBackward {
  ScanBackward<T> scan;
  GridShare share;
};

template <class Cell, Product kProduct, int kBucket>
__global__ void __launch_bounds__(Cluster<kProduct, Pass::backward, kBucket>::kThreads, 1)
    cluster_backward(const __grid_constant__ ClusterBackward<typename Kind<kProduct>::Storage> p) {
  using Self = Cluster<kProduct, Pass::backward, kBucket>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  using Slice = typename Self::Slice;
  constexpr ClusterPlan kPlan = Self::kPlan;
  constexpr int kUnits = Self::kUnits, kThreads = Self::kThreads;
  const ScanBackward<T>& scan = p.scan;
  const Slice slice(scan.sizes, p.share);
  const int H = scan.sizes.H, turns = p.share.turns;
  const int blocks = Self::blocks(), rank = int(ptx::cluster_rank()), first_unit = rank * kUnits;
  const int first_output = Self::warp() * kPlan.tiles * kTileRows;

  ptx::Shared shared;
  const Exchanges exchanges{shared.take<uint64_t>(2 * turns)};
  int* const ends = shared.take<int>(4 * turns);  // the step after a turn's last one
  unsigned char* dgates_now = shared.take<unsigned char>(int(kPlan.buffer));
  unsigned char* dgates_before = shared.take<unsigned char>(int(kPlan.buffer));
  float* const shares_of_all = shared.take<float>(2 * turns * blocks * kThreads);
  float* const dh_of_all = shared.take<float>(turns * kThreads);
  float* const dc_of_all = shared.take<float>(turns * kThreads);
  typename Self::Matrix w_hh;
  w_hh.load(shared, [&](int tile, int row, int k) {
    const int gate = k / kUnits, from = first_unit + k % kUnits;
    const int to = first_output + tile * kTileRows + row;
    return from < H && to < H ? scan.w_hh[slice.direction][(gate * H + from) * H + to] : T(0.f);
  });

  // Bytes of an exchange: from all blocks, for the block's sets that have a unit.
  const int units = H - first_unit < kUnits ? H - first_unit : kUnits;
  const int sets_in_use = (units + kSetUnits - 1) / kSetUnits;
  const auto bytes = [&](int turn) {
    const int pairs = (Self::batch_rows(slice, turn) + 1) / 2;
    return unsigned(blocks * sets_in_use * pairs * 8 * 16);
  };
  if (threadIdx.x == 0)
    for (int turn = 0; turn < turns; ++turn) {
      const bool early = slice.direction == 0 && Self::batch_rows(slice, turn) > 0;
      ends[turn] = early ? Self::steps_of(slice, turn) : slice.steps;
      exchanges.init(turn, bytes(turn));
    }
  // dh: what the later steps, or the caller after the last, send back. A cell that has not begun
  // keeps it, and one that has ended holds what it sends to its initial state.
  for (int turn = 0; turn < turns; ++turn) {
    const bool exists = slice.exists(turn);
    dh_of_all[Slice::place(turn)] = exists && scan.dh_n ? widen(scan.dh_n[slice.state(turn)]) : 0.f;
    dc_of_all[Slice::place(turn)] = exists && scan.dc_n ? scan.dc_n[slice.state(turn)] : 0.f;
  }
  __syncthreads();  // for racecheck alone, to which barrier.cluster is no barrier of the block
  ptx::cluster_sync();

  const auto gates = slice.cells(scan.gates, 4);
  const auto dgates = slice.cells(scan.dgates, 4);
  const auto cs = slice.cells(scan.c, 1);
  const auto dys = scan.dy ? slice.outputs(scan.dy) : CellPlace<const T>{};
  T gate_kept[4], dy(0.f);
  float c = 0, c_prev = 0;
  const auto load_inputs = [&](int turn, const StepRows& rows, const StepRows& rows_before) {
    if (!slice.active(rows)) return;
    const T* const from = gates.at(rows);
#pragma unroll
    for (int g = 0; g < 4; ++g) gate_kept[g] = from[g * H];
    dy = scan.dy ? *dys.at(rows) : T(0.f);
    c = *cs.at(rows);
    c_prev = slice.active(rows_before) ? *cs.at(rows_before)
             : scan.c0                 ? scan.c0[slice.state(turn)]
                                       : 0.f;
  };
  const auto load_turn = [&](const StepRows& step, const StepRows& step_before, int turn) {
    load_inputs(turn, slice.rows(step, turn), slice.rows(step_before, turn));
  };

  const auto shares_at = [&](int turn, int k, int from) {
    return shares_of_all + ((turn * 2 + k % 2) * blocks + from) * kThreads;
  };
  // What step n of a turn has sent, where `rows` are those that it had.
  const auto take_dh = [&](int turn, int n, const StepRows& rows) {
    if (rows.count == 0) return;
    const int k = ends[turn] - 1 - n;
    exchanges.await(turn, k, bytes(turn));
    if (!slice.active(rows)) return;
    const float* const share = shares_at(turn, k, 0) + Self::set() * kSetThreads +
                               share_place(Self::Cell::unit_of_set(), slice.column);
    float sum = share[0];
#pragma unroll 4
    for (int from = 1; from < blocks; ++from) sum += share[from * kThreads];
    dh_of_all[Slice::place(turn)] = sum;
  };

  // Of the steps around the one to come, which is `now`.
  StepRows after{0, 0}, now = slice.step(slice.steps - 1), before = slice.step(slice.steps - 2),
                        earlier = slice.step(slice.steps - 3);
  // The cells of a turn, and their gradients as factors.
  const auto update = [&](int turn, const StepRows& rows) {
    T kept[4] = {T(0.f), T(0.f), T(0.f), T(0.f)};
    if (slice.active(rows)) {
      Value gate[4], unused, dc = dc_of_all[Slice::place(turn)];
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        gate[g] = widen(gate_kept[g]);
        if (kFolded<T> && Cell::is_sigmoid(g)) gate[g] = unfold(gate[g].x);
      }
      const float dh = widen(dy) + dh_of_all[Slice::place(turn)];
      Cell::template backward<Value>(gate, c_prev, c, dh, dc, unused);
      dc_of_all[Slice::place(turn)] = dc.x;
      T* const to = dgates.at(rows);
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        narrow(gate[g].x, kept[g]);
        to[g * H] = kept[g];
      }
    }
    Factor* const row = reinterpret_cast<Factor*>(dgates_now + slice.column * kPlan.pitch);
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const Factor factor = Kind<kProduct>::factor(kept[g]);
      row[g * kUnits + slice.unit - first_unit] = factor;
    }
    if (turn + 1 < turns && slice.rows(now, turn + 1).count > 0)
      load_turn(now, before, turn + 1);
    else
      load_turn(before, earlier, 0);
  };
  // Their products, and shares of dh on their way: the turn's exchange k.
  const auto send_back = [&](int turn, int k) {
    Sums<kProduct, kPlan.tiles> sums = {};
    w_hh.template multiply_add<kPlan.pitch, 0>(dgates_now, sums);
    const int lane = Self::lane(), column = lane % 4 * 2;
    if (column >= Self::batch_rows(slice, turn)) return;
#pragma unroll
    for (int tile = 0; tile < kPlan.tiles; ++tile) {
      const int output = first_output + tile * kTileRows;
      if (output >= H) continue;
      uint32_t words[4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        std::memcpy(words + 2 * half, sums[tile][half], 2 * sizeof(float));
      float* const to = shares_at(turn, k, rank) + output % kUnits / kSetUnits * kSetThreads +
                        share_place(lane / 4, column);
      ptx::store_async(to, unsigned(output / kUnits), words, exchanges.of(turn, k));
    }
  };

  load_turn(now, before, 0);
  for (int n = slice.steps - 1; n >= 0; --n) {
    const StepRows fetched = slice.step(n - 3);
    // Nobody asks what the first step sends back but dh0.
    const bool sends = n > 0 || scan.dh0;
    for (int turn = 0; turn < turns; ++turn) {
      take_dh(turn, n + 1, slice.rows(after, turn));
      const StepRows rows = slice.rows(now, turn);
      if (rows.count == 0) continue;
      update(turn, rows);
      __syncthreads();
      if (sends) send_back(turn, ends[turn] - 1 - n);
      unsigned char* const written = dgates_now;
      dgates_now = dgates_before, dgates_before = written;
    }
    after = now, now = before, before = earlier, earlier = fetched;
  }

  for (int turn = 0; turn < turns; ++turn) {
    if (scan.dh0) take_dh(turn, 0, slice.rows(after, turn));
    if (!slice.exists(turn)) continue;
    if (scan.dh0) narrow(dh_of_all[Slice::place(turn)], scan.dh0[slice.state(turn)]);
    scan.dc0[slice.state(turn)] = dc_of_all[Slice::place(turn)];
  }
  ptx::cluster_sync();  // no block is gone while another one may still send to the cluster
}

}  // namespace lf::cuda
