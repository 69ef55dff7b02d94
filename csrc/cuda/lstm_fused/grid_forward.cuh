// cuda.grid, forward: the whole sequence in a group of blocks that hold W_hh between them, or what
// of it fits.
//
//   registers   16 units' rows of W_hh as fragments, a warp the terms of its eighth of h, or for 8
//               of the units of its quarter; of few rows 8 units'
//               the input of the next step or rows, on its way
//   shared      h of 8 or 16 rows as factors; the sums of all warps; c of the cells that the block
//               owns; the fragments that registers do not hold
//   L2          h, from block to block; fragments that neither holds (grid_plan.h: streams)
//   waits       for the words of h that the other blocks of the group hand on; two __syncthreads
//               for 8 or 16 rows: h is there, and the sums are; where turns follow each other, one
//
// The memory that h is handed on in is filled with kAbsent before the launch, and every step has
// words of its own: who finds a word that is not kAbsent has the states, and nothing is ever reset.
//
// Why one copy of h is enough: a step's last read of it comes before the barrier behind the sums,
// the next write after. And of the sums: they are read before the barrier behind the next h.
//
// With 16 rows at a time there are two copies of both, where shared memory holds them, and from
// three turns on h of the next turn is taken between the products of this one and the barrier
// behind its sums: this turn's cells and the next turn's products have no barrier between them. Who
// writes a copy of h, or of the sums, has come through the barrier before, to which everybody came
// after reading it. Nobody waits for himself: h of the next turn was handed on behind the barrier
// of the turn before this one, or earlier, as it is never this turn's own.
//
// Where turns follow each other h of the next one was handed on long before it is needed, and only
// the trip of the loads that find it would be waited for, once for each four pieces of a thread. So
// it is asked for ahead, by cp.async into its place in shared memory: with two copies before the
// products, and behind the barrier where there is one. What was not there yet when asked for says
// so in shared memory as it does in registers, and is looked for again.
//
// Refuses projections, fp64, H over grid_plan.h's, and H over 128 for every 8 multiprocessors,
// which backward needs.
//
// Bound at H = 1024 in bf16, 8 rows: the trip through L2, 0.65 to 0.7 us; 16 KB of h into the
// multiprocessor, 0.15, into shared memory and out again, 0.15; the products, 0.24; the sums of 8
// warps through shared memory, 0.15; the cell, 0.1: some 1.45 us a step. With more rows the trip of
// some hides behind the products of others, but for the loads that find them there. 16 rows: the
// products, 0.48; h in, 0.3, as two rounds of loads; into shared memory, 0.15; sums, 0.15; the
// cells of all threads at once, 0.15: some 1.1 us, where twice 8 rows would be 1.8, as every wait
// and every latency is there once; and some 0.8 where h was asked for in time. Beyond H = 1024 come
// rounds of loads, each 0.2 us where they are not asked for ahead, and 16 KB of fragments from
// shared memory, 0.07 us, for each that registers do not hold, again for every turn.
//
// Up to H = 1024, and where a group of twice the blocks has room for every 8 rows, a block has half
// of the units: half of the product, no fragments from shared memory and half of the sums. For 8
// rows that is some 1.3 us a step at H = 1024 in bf16, 1.6 in TF32 instead of 2.3, and by three
// products 2.2 instead of 3.6, at H = 512 1.6 instead of 2.3. What comes in stays the same.
//
// In float32 by three products (product.cuh) these take 1.45 us at H = 1024, h of twice the bytes
// 0.3 more and 160 KB of fragments from shared memory 0.7: some 3.6 us a step, and at H = 512,
// where products take 0.7, some 2.3.
//
// Where fragments are streamed, they come for every turn at what L2 has for a multiprocessor where
// all 132 ask, 24 bytes a clock of 5.5 TB/s: in TF32 at H = 1536 128 KB of a block's 384, 3.1 us,
// and the step some 5.9; at H = 2048 256 KB, 6.3 us, and some 9.4, where L2 has to hold 33 MB. The
// 96 blocks of H = 1536 may get more: each warp has 4 KB on their way at once, a block 32, which
// would do for 41 bytes a clock.
//
// Not known: whether y, filled before the launch, is still in L2 when its words are asked for. From
// device memory the first look at a step's words would take some 0.3 us more.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/grid.cuh"

namespace lf::cuda {

// One NaN, or two of 16 bits. A state that is this very NaN is handed on as another one.
constexpr uint32_t kAbsent = 0xffffffff, kOtherNan = 0x7fff7fff;
constexpr int kAbsentByte = 0xff;

// Where states are handed on: a place for every row of every direction, a multiple of 16 bytes.
struct Exchange {
  unsigned char* first;
  int row;  // bytes from one to the next
  int64_t direction;
  bool is_y;  // it is the output itself
};

template <class T>
struct GridForward {
  ScanForward<T> scan;
  GridShare share;
  Exchange exchange;
  StreamedOfAll streamed;
  Waiting waiting;
};

// The first `rows` states, `stride` bytes apart, from `from` on, into `to` as factors.
template <class Self>
struct States {
  const unsigned char* from;  // from here on: of the thread's first piece
  int stride;
  int bytes;
  int rows;
  unsigned char* to;

  __device__ __forceinline__ States(const unsigned char* states, int stride, int bytes, int rows,
                                    unsigned char* factors)
      : from(states + Self::first_row() * stride + Self::first_byte()),
        stride(stride),
        bytes(bytes - Self::first_byte()),
        rows(rows - Self::first_row()),
        to(factors + Self::first_row() * Self::kPlan.pitch + Self::first_byte()) {}

  __device__ __forceinline__ bool wanted(int piece) const {
    return Self::rows_on(piece) < rows && Self::bytes_on(piece) < bytes;
  }
  __device__ __forceinline__ const uint32_t* from_of(int piece) const {
    return reinterpret_cast<const uint32_t*>(from + Self::rows_on(piece) * stride +
                                             Self::bytes_on(piece));
  }
  __device__ __forceinline__ void poll(int piece, uint32_t (&words)[4]) const {
    ptx::poll_words(words, from_of(piece));
  }
  __device__ __forceinline__ bool is_there(int, const uint32_t (&words)[4]) const {
    return words[0] != kAbsent && words[1] != kAbsent && words[2] != kAbsent && words[3] != kAbsent;
  }
  __device__ __forceinline__ uint4* at(int piece) const {
    return reinterpret_cast<uint4*>(to + Self::rows_on(piece) * Self::kPlan.pitch +
                                    Self::bytes_on(piece));
  }
  __device__ __forceinline__ void take(int piece, const uint32_t (&words)[4]) const {
    *at(piece) = {Self::factors(words[0]), Self::factors(words[1]), Self::factors(words[2]),
                  Self::factors(words[3])};
  }
  // Ahead of its time, into the place where it is wanted, and whether it has come.
  __device__ __forceinline__ void ask(int piece) const {
    ptx::poll_async(at(piece), from_of(piece));
  }
  __device__ __forceinline__ bool came(int piece) const {
    const uint4 all = *at(piece);
    const uint32_t words[4] = {all.x, all.y, all.z, all.w};
    if (!is_there(piece, words)) return false;
    if (Self::kRounds) take(piece, words);
    return true;
  }
};

template <class Cell, Product kProduct, int kBucket, int kColumns>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_forward(const __grid_constant__ GridForward<typename Kind<kProduct>::Storage> p) {
  using Self = Group<kProduct, Pass::forward, kBucket, kColumns>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  using Slice = typename Self::Slice;
  constexpr GridPlan kPlan = Self::kPlan;
  const ScanForward<T>& scan = p.scan;
  const Slice slice(scan.sizes, p.share);
  const int H = scan.sizes.H, D = scan.sizes.D, turns = p.share.turns;
  // A warp's share of the terms, and the first of its units in the block.
  constexpr int kUnitsOfWarp = kPlan.tiles / 2 * 8, kCuts = Self::kUnits / kUnitsOfWarp;
  const int term_share = Self::warp() / kCuts, first_unit = Self::warp() % kCuts * kUnitsOfWarp;
  const int first_term = term_share * (kPlan.width / kPlan.shares);

  ptx::Shared shared;
  constexpr int kBuffer = int(kPlan.buffer), kSums = kPlan.shares * kPlan.cells;
  unsigned char* h_now = shared.take<unsigned char>(kPlan.copies * kBuffer);
  float4* sums_now = shared.take<float4>(kPlan.copies * kSums);
  unsigned char* h_next = h_now + (kPlan.copies - 1) * kBuffer;
  float4* sums_next = sums_now + (kPlan.copies - 1) * kSums;
  float* const c_of_all = shared.take<float>(kPlan.turns * kPlan.cells);
  typename Self::Matrix w_hh;
  const auto element = [&](int tile, int row, int k) {
    const int gate = tile % 2 * 2 + row / 8;
    const int unit = int(blockIdx.x) * Self::kUnits + first_unit + tile / 2 * 8 + row % 8;
    const int term = first_term + k;
    return unit < H && term < H ? scan.w_hh[slice.direction][(gate * H + unit) * H + term] : T(0.f);
  };
  w_hh.load(shared, element, Self::streamed(p.streamed));

  for (int turn = 0; Slice::owns_cells() && turn < turns; ++turn)
    c_of_all[Slice::place(turn)] = slice.exists(turn) && scan.c0 ? scan.c0[slice.state(turn)] : 0.f;
  for (int copy = 0; copy < kPlan.copies; ++copy) Self::clear(h_now + copy * kBuffer);
  __syncthreads();

  const auto states_at = [&](const StepRows& rows) {
    return p.exchange.first + rows.first * p.exchange.row + slice.direction * p.exchange.direction;
  };
  T x[4] = {T(0.f), T(0.f), T(0.f), T(0.f)};
  const auto load_input = [&](const StepRows& rows) {
    if (!slice.active(rows)) return;
    const T* const from = scan.gates + slice.row(rows) * 4 * H + slice.unit;
#pragma unroll
    for (int g = 0; g < 4; ++g) x[g] = from[g * H];
  };

  const int bytes = int(p.exchange.is_y ? H * sizeof(T) : p.exchange.row);  // of a state
  // What a turn's rows at a step start from, as factors: rows that go on, and behind them rows that
  // begin.
  const auto going_on = [](const StepRows& rows_before, const StepRows& rows) {
    return rows_before.count < rows.count ? rows_before.count : rows.count;
  };
  // A struct that a lambda returned would cost registers.
  const auto with_states = [&](const StepRows& rows_before, const StepRows& rows, unsigned char* to,
                               const auto& use) {
    use(States<Self>{states_at(rows_before), p.exchange.row, bytes, going_on(rows_before, rows),
                     to});
  };
  const auto take_h = [&](const StepRows& rows_before, const StepRows& rows, int turn,
                          unsigned char* to, bool asked) {
    for (int row = going_on(rows_before, rows); row < rows.count; ++row) {
      const int64_t state =
          slice.direction * scan.sizes.B + slice.first_row + turn * kColumns + row;
      for (int k = int(threadIdx.x); k < H; k += kGridThreads)
        reinterpret_cast<Factor*>(to + row * kPlan.pitch)[k] =
            Kind<kProduct>::factor(scan.h0 ? scan.h0[state * H + k] : T(0.f));
    }
    with_states(rows_before, rows, to, [&](const States<Self>& states) {
      if (!asked || !have_come<Self::kPieces, 0>(states)) receive<Self::kPieces>(states, p.waiting);
    });
  };

  const auto ask_for_h = [&](const StepRows& rows_before, const StepRows& rows, unsigned char* to) {
    with_states(rows_before, rows, to,
                [&](const States<Self>& states) { ask<Self::kPieces>(states); });
    ptx::commit_copies();
  };

  StepRows before = slice.step(-1), now = slice.step(0), next = slice.step(1);
  load_input(slice.rows(now, 0));
  bool is_there = false;  // h of the rows to come
  for (int n = 0; n < slice.steps; ++n) {
    const StepRows later = slice.step(n + 2);
    for (int turn = 0; turn < turns; ++turn) {
      const StepRows rows = slice.rows(now, turn), rows_before = slice.rows(before, turn);
      if (rows.count == 0) break;  // and none in the turns after it
      Value gate[4];
#pragma unroll
      for (int g = 0; g < 4; ++g) gate[g] = widen(x[g]);
      const StepRows rows_after = turn + 1 < turns ? slice.rows(now, turn + 1) : StepRows{0, 0};
      load_input(rows_after.count > 0 ? rows_after : slice.rows(next, 0));

      // Whether a step has other turns, so that one before or after this one is not this one again.
      const auto others = [&](const StepRows& step) {
        return turns_follow(kPlan, turns) && (turn > 0 || slice.rows(step, 1).count > 0);
      };
      if (kPlan.copies == 1 || !is_there) {
        // Where there is one copy, it was asked for by the turn before.
        take_h(rows_before, rows, turn, h_now, kPlan.asks && kPlan.copies == 1 && others(before));
        __syncthreads();
      } else {
        __syncwarp();  // no barrier since the cells, and products are of whole warps
      }
      const auto of_next = [&](int turn, const auto& use) {
        if (turn + 1 < turns && slice.rows(now, turn + 1).count > 0)
          use(slice.rows(before, turn + 1), slice.rows(now, turn + 1), turn + 1);
        else
          use(slice.rows(now, 0), slice.rows(next, 0), 0);
      };
      // Not where the next turn is this one again, which has still to hand its h on. Nor where it
      // is the one just before, as of two: these products would be done before its trip through L2.
      const bool ahead = kPlan.copies == 2 && others(now);
      if (kPlan.asks && ahead)
        of_next(turn, [&](const StepRows& rows_before, const StepRows& rows, int) {
          ask_for_h(rows_before, rows, h_next);
        });
      const auto share = [&](const auto& sums, int first_column) {
        share_sums<kProduct>(sums, Self::lane(), [&](int unit, int column) -> float4& {
          return sums_now[term_share * kPlan.cells +
                          grid_place(first_unit + unit, first_column + column, Self::kUnits)];
        });
      };
      const unsigned char* const factors = h_now + first_term * int(sizeof(Factor));
      Sums<kProduct, kPlan.tiles> sums = {};
      if constexpr (kColumns == kGridColumns) {
        w_hh.template multiply_add<kPlan.pitch, 0>(factors, sums);
      } else {
        Sums<kProduct, kPlan.tiles> of_next_eight = {};
        w_hh.template multiply_add<kPlan.pitch, 0>(factors, sums, of_next_eight);
        share(of_next_eight, 8);
      }
      share(sums, 0);
      if constexpr (kPlan.copies == 2) {
        if (ahead)
          of_next(int(ptx::unknown(uint32_t(turn))),
                  [&](const StepRows& rows_before, const StepRows& rows, int turn) {
                    take_h(rows_before, rows, turn, h_next, kPlan.asks);
                  });
        is_there = ahead;
      }
      __syncthreads();
      if constexpr (kPlan.copies == 1) {
        if (kPlan.asks && others(now))
          of_next(int(ptx::unknown(uint32_t(turn))),
                  [&](const StepRows& rows_before, const StepRows& rows, int) {
                    ask_for_h(rows_before, rows, h_now);
                  });
      }

      if (!Slice::owns_cells()) continue;
#pragma unroll
      for (int w = 0; w < kPlan.shares; ++w) {  // always in this order
        const float4 part = sums_now[w * kPlan.cells + int(threadIdx.x)];
        gate[0] = gate[0] + part.x;
        gate[1] = gate[1] + part.y;
        gate[2] = gate[2] + part.z;
        gate[3] = gate[3] + part.w;
      }
      if constexpr (kPlan.copies == 2) {
        unsigned char* const h_read = h_now;
        h_now = h_next, h_next = h_read;
        float4* const sums_read = sums_now;
        sums_now = sums_next, sums_next = sums_read;
      }
      const bool active = slice.active(rows);
      Value c = c_of_all[Slice::place(turn)];
      T out(0.f);
      if (active) {
        Value h_wide, unused[4];  // folded here, the gates cost registers: 28 bytes of a stack
        Cell::forward(gate, c, h_wide, unused);
        narrow(h_wide.x, out);
      }
      const uint32_t word = Self::word_of(out);
      unsigned char* const row = states_at(rows) + slice.column * p.exchange.row;
      const int byte = slice.unit * int(sizeof(T));
      if (slice.column < rows.count && byte < bytes && Self::hands_on(slice.unit))
        ptx::publish_word(reinterpret_cast<uint32_t*>(row + byte),
                          word == kAbsent ? kOtherNan : word);
      if (!active) continue;
      c_of_all[Slice::place(turn)] = c.x;
      if (!p.exchange.is_y)
        scan.y[((rows.first + slice.column) * D + slice.direction) * H + slice.unit] = out;
      if (slice.batch_row(turn) >= next.count) {  // its last step
        scan.h_n[slice.state(turn)] = out;
        scan.c_n[slice.state(turn)] = c.x;
      }
      if (!scan.c) continue;
      scan.c[slice.row(rows) * H + slice.unit] = c.x;
      T* const kept = scan.gates + slice.row(rows) * 4 * H + slice.unit;
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        if (kFolded<T> && Cell::is_sigmoid(g)) gate[g] = fold(gate[g].x);
        narrow(gate[g].x, kept[g * H]);
      }
    }
    before = now, now = next, next = later;
  }
}

}  // namespace lf::cuda
