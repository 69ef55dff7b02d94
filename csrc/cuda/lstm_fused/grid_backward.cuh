// cuda.grid, backward: the gradients of the gates, from the last step to the first, in a group of
// blocks that hold W_hh between them.
//
// W_hh is cut in both directions. A block owns the cells of 16 units, as forward. Of W_hh it holds
// what one part of the gates, those of an eighth of all units, sends to 128 units: the product
// needs an eighth of the gradients that all gates have, where blocks with whole columns would need
// all.
//
//   registers   W_hh transposed as fragments: a tile for each gate, a warp 16 of the 128 units;
//               what the next step or rows read, on its way
//   shared      the gradients of the part's gates as factors, twice: 8 or 16 rows come in while
//               others are multiplied; dc and dh of the cells that the block owns; words and tags
//               that are asked for ahead
//   L2          gradients of gates, from who owns a cell to the blocks that hold its part;
//               the parts' shares of dh, from there to who owns the cell; fragments as forward
//   waits       for both, and one __syncthreads for 8 or 16 rows: the gradients are there
//
// Both are handed on as pairs of word and tag, in two copies that steps use in turns; the tag is
// the number of the step. Why nobody overwrites what somebody has still to read, for each row of
// the batch, whose steps follow each other without a gap: who writes the gradients of step m of a
// row has its dh of m - 1, from all parts of his own 128 units. These had all gradients of m - 1,
// so every owner had his dh of m - 2, so all blocks, as each sends dh to some owner, had done
// reading the gradients of m - 2. And who writes dh of m has gradients of m; their owners have dh
// of m - 1 from blocks that had all gradients of m - 1, which each owner wrote after reading his dh
// of m - 2. "After" is by data alone between blocks: a word that was read is in a register, or in
// shared memory and waited for, before anything that was computed of it is written; within a block
// by __syncthreads, for the two units of a word by the shuffle that joins them, and for a unit past
// H, which hands on zeros and has no dh to wait for, by the barrier of its warp.
//
// With 16 rows and from three turns on both are asked for ahead, as forward: dh of a turn before
// the products behind the turn before it, and gradients, which were handed on just before the last
// products, before the cells of the next turn. A tag tells whether they had come by then.
//
// Bound at H = 1024 in bf16, 8 rows: two trips through L2, 1.3 us; 16 KB of gradients in, 8 KB of
// dh out and in, 0.3; the products, for which every warp reads all 8 KB of gradients, 0.29; the
// cell, 0.1: some 2 us a step. With more rows the trips of some hide behind the products of others,
// and with more than 24 there are 16 at a time, where there is such a kernel (grid_plan.h): for
// them fragments are read once, and each round of loads, each barrier and each cell's chain is
// there once; where all is asked for in time the three rounds of loads, 0.2 us each, are not waited
// for. Beyond H = 1024, and where fragments are streamed, as forward.
//
// In float32 by three products (product.cuh) it is the scheduler that bounds these, by 46
// instructions for two slices of a tile: 1.7 us at H = 1024, and 160 KB of fragments from shared
// memory 0.7 more: some 4.4 us a step, and at H = 512 some 2.8.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/grid.cuh"

namespace lf::cuda {

template <class T>
struct GridBackward {
  ScanBackward<T> scan;
  GridShare share;
  // Pairs of word and tag, zeros before the launch, for each group, slice and turn:
  uint32_t* dgates;  // [kGridParts][columns][4 gates][units of a part]
  uint32_t* dh;      // [blocks][kGridParts / 2][cells][2 parts]
  StreamedOfAll streamed;
  Waiting waiting;
  bool asks;  // as the plan says: it is for the host to know what memory there is
};

// Words of a turn of all blocks' hands.
constexpr LF_FN int64_t dgates_words(int columns, int width, int size) {
  return int64_t(columns) * 4 * width * size / 4 * 2;
}
constexpr LF_FN int64_t dh_words(int blocks, int cells) {
  return int64_t(blocks) * kGridParts * cells * 2;
}

// Two words, and behind them their tags.
__device__ __forceinline__ void poll_pairs(uint32_t (&words)[4], const uint32_t* from) {
  uint32_t word[2], tags[2];
  ptx::poll_tagged(word, tags, from);
  words[0] = word[0], words[1] = word[1], words[2] = tags[0], words[3] = tags[1];
}

// Where a thread's pieces come that it asks for ahead.
struct Asked {
  uint4* place;  // of its first one

  static __device__ __forceinline__ Asked take(ptx::Shared& shared, int pieces) {
    return {shared.take<uint4>(pieces * kGridThreads) + threadIdx.x};
  }
  __device__ __forceinline__ void ask(int piece, const uint32_t* from) const {
    ptx::poll_tagged_async(place + piece * kGridThreads, from);
  }
  template <class Source>
  __device__ __forceinline__ bool came(int piece, const Source& source) const {
    const uint4 pairs = place[piece * kGridThreads];
    const uint32_t words[4] = {pairs.x, pairs.z, pairs.y, pairs.w};
    if (!source.is_there(piece, words)) return false;
    source.take(piece, words);
    return true;
  }
};

// The gradients of a turn's rows of a part, with the tag, into `to` as factors.
template <class Self>
struct PartOfGates {
  static constexpr int kUnits = Self::kPlan.width / kGridParts;
  static constexpr int kSize = int(sizeof(typename Self::T));
  static constexpr int kRowWords = 4 * kUnits * kSize / 4 * 2;

  const uint32_t* from;  // from here on: of the thread's first piece
  int units;             // of the part that exist
  int rows;
  uint32_t tag;
  unsigned char* to;
  Asked asked;

  __device__ __forceinline__ PartOfGates(const uint32_t* gates, int units, int rows, uint32_t tag,
                                         unsigned char* factors, Asked asked)
      : from(gates + Self::first_row() * kRowWords + Self::first_byte() / 4),
        units(units),
        rows(rows - Self::first_row()),
        tag(tag),
        to(factors + Self::first_row() * Self::kPlan.pitch + Self::first_byte() / 2),
        asked(asked) {}

  __device__ __forceinline__ bool wanted(int piece) const {
    const int unit = (Self::first_byte() + Self::bytes_on(piece)) / (2 * kSize) % kUnits;
    return Self::rows_on(piece) < rows && unit < units;
  }
  __device__ __forceinline__ const uint32_t* from_of(int piece) const {
    return from + Self::rows_on(piece) * kRowWords + Self::bytes_on(piece) / 4;
  }
  __device__ __forceinline__ void poll(int piece, uint32_t (&words)[4]) const {
    poll_pairs(words, from_of(piece));
  }
  __device__ __forceinline__ bool is_there(int, const uint32_t (&words)[4]) const {
    return words[2] == tag && words[3] == tag;
  }
  __device__ __forceinline__ void ask(int piece) const { asked.ask(piece, from_of(piece)); }
  __device__ __forceinline__ bool came(int piece) const { return asked.came(piece, *this); }
  __device__ __forceinline__ void take(int piece, const uint32_t (&words)[4]) const {
    unsigned char* const row = to + Self::rows_on(piece) * Self::kPlan.pitch;
    *reinterpret_cast<uint2*>(row + Self::bytes_on(piece) / 2) = {Self::factors(words[0]),
                                                                  Self::factors(words[1])};
  }
};

// What the parts send to a cell, added up always in the same order. A piece is of two parts.
template <int kCells>
struct SharesOfDh {
  const uint32_t* from;  // of the cell
  int parts;             // 0: nothing is wanted
  uint32_t tag;
  float& sum;
  Asked asked;

  __device__ __forceinline__ bool wanted(int piece) const { return 2 * piece < parts; }
  __device__ __forceinline__ void poll(int piece, uint32_t (&words)[4]) const {
    poll_pairs(words, from + piece * kCells * 4);
  }
  __device__ __forceinline__ void ask(int piece) const {
    asked.ask(piece, from + piece * kCells * 4);
  }
  __device__ __forceinline__ bool came(int piece) const { return asked.came(piece, *this); }
  __device__ __forceinline__ bool is_there(int piece, const uint32_t (&words)[4]) const {
    return words[2] == tag && (words[3] == tag || 2 * piece + 1 == parts);
  }
  __device__ __forceinline__ void take(int piece, const uint32_t (&words)[4]) const {
    float share[2];
    std::memcpy(share, words, sizeof share);
    sum = piece == 0 ? share[0] : sum + share[0];
    if (2 * piece + 1 < parts) sum += share[1];
  }
};

template <class Cell, Product kProduct, int kBucket, int kColumns>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_backward(const __grid_constant__ GridBackward<typename Kind<kProduct>::Storage> p) {
  using Self = Group<kProduct, Pass::backward, kBucket, kColumns>;
  using T = typename Self::T;
  using Slice = typename Self::Slice;
  using Gates = PartOfGates<Self>;
  constexpr GridPlan kPlan = Self::kPlan;
  constexpr int kSize = int(sizeof(T)), kUnits = Gates::kUnits;
  constexpr int kSlab = kUnits * kSize;  // of a gate, in a row of factors
  const ScanBackward<T>& scan = p.scan;
  const Slice slice(scan.sizes, p.share);
  const int H = scan.sizes.H, D = scan.sizes.D, turns = p.share.turns;
  // The part that this block multiplies, how much of it exists, and the first of the 128 units.
  const int part = int(blockIdx.x) % kGridParts, parts = (H + kUnits - 1) / kUnits;
  const int units = H - part * kUnits < kUnits ? H - part * kUnits : kUnits;
  const int output = int(blockIdx.x) / kGridParts * kGridOutputs + Self::warp() * kGridUnits;

  ptx::Shared shared;
  unsigned char* now_read = shared.take<unsigned char>(int(kPlan.buffer));
  unsigned char* now_written = shared.take<unsigned char>(int(kPlan.buffer));
  float* const dh_of_all = shared.take<float>(kPlan.turns * kPlan.cells);
  float* const dc_of_all = shared.take<float>(kPlan.turns * kPlan.cells);
  // A turn makes a group of copies of gradients, and after its cells one of dh, be it of nothing:
  // there is at least one more behind the group that is waited for.
  const bool asks = p.asks && asks_ahead(kPlan, turns);
  Asked asked_gates{nullptr}, asked_dh{nullptr};
  typename Self::Matrix w_hh;
  const auto element = [&](int tile, int row, int k) {
    const int from = part * kUnits + k, to = output + row;
    return from < H && to < H ? scan.w_hh[slice.direction][(tile * H + from) * H + to] : T(0.f);
  };
  w_hh.load(shared, element, Self::streamed(p.streamed));
  if (asks) {
    asked_gates = Asked::take(shared, Self::kPieces);
    asked_dh = Asked::take(shared, kPiecesOfDh);
  }

  // dh: what the later steps, or the caller after the last, send back. A cell that has not begun
  // keeps it, and one that has ended holds what it sends to its initial state.
  for (int turn = 0; Slice::owns_cells() && turn < turns; ++turn) {
    const bool exists = slice.exists(turn);
    dh_of_all[Slice::place(turn)] = exists && scan.dh_n ? widen(scan.dh_n[slice.state(turn)]) : 0.f;
    dc_of_all[Slice::place(turn)] = exists && scan.dc_n ? scan.dc_n[slice.state(turn)] : 0.f;
  }
  Self::clear(now_read);
  Self::clear(now_written);
  __syncthreads();

  T gates[4], dy(0.f);
  float c = 0, c_prev = 0;
  const auto load_inputs = [&](int turn, const StepRows& rows, const StepRows& rows_before) {
    if (!slice.active(rows)) return;
    const T* const from = scan.gates + slice.row(rows) * 4 * H + slice.unit;
#pragma unroll
    for (int g = 0; g < 4; ++g) gates[g] = from[g * H];
    const int64_t row = (rows.first + slice.column) * D + slice.direction;
    dy = scan.dy ? scan.dy[row * H + slice.unit] : T(0.f);
    c = scan.c[slice.row(rows) * H + slice.unit];
    c_prev = slice.active(rows_before) ? scan.c[slice.row(rows_before) * H + slice.unit]
             : scan.c0                 ? scan.c0[slice.state(turn)]
                                       : 0.f;
  };

  // Where a turn hands on; the tag is the number of the group's step, from 1 on.
  const int64_t group = Self::group();
  const auto hands = [&](uint32_t tag, int turn) { return (group * 2 + tag % 2) * turns + turn; };
  const auto dgates_at = [&](uint32_t tag, int turn, int of_part) {
    constexpr int64_t kWords = dgates_words(kColumns, kPlan.width, kSize);
    return p.dgates + hands(tag, turn) * kWords + of_part * (kWords / kGridParts);
  };
  const auto dh_at = [&](uint32_t tag, int turn, int block, int place) {
    return p.dh + hands(tag, turn) * dh_words(int(gridDim.x), kPlan.cells) +
           (block * (kGridParts / 2) * kPlan.cells + place) * 4;
  };
  const auto shares_of_dh = [&](uint32_t tag, int turn) {
    return SharesOfDh<kPlan.cells>{dh_at(tag, turn, int(blockIdx.x), int(threadIdx.x)), parts, tag,
                                   dh_of_all[Slice::place(turn)], asked_dh};
  };
  const auto take_dh = [&](uint32_t tag, int turn, const StepRows& rows, bool asked) {
    if (!slice.active(rows)) return;
    if (!asked || !have_come<kPiecesOfDh, 1>(shares_of_dh(tag, turn)))
      receive<kPiecesOfDh>(shares_of_dh(tag, turn), p.waiting);
  };

  const auto load_turn = [&](const StepRows& step, int n, int turn) {
    load_inputs(turn, slice.rows(step, turn), slice.rows(slice.step(n - 1), turn));
  };
  StepRows after{0, 0}, now = slice.step(slice.steps - 1);
  // What the step after has sent back, the cells of a turn, and their gradients on their way.
  const auto update = [&](int n, uint32_t tag, int turn) {
    take_dh(tag - 1, turn, slice.rows(after, turn), asks);
    const StepRows rows = slice.rows(now, turn);
    if (rows.count == 0 || !Slice::owns_cells()) return;
    T kept[4] = {T(0.f), T(0.f), T(0.f), T(0.f)};
    if (slice.active(rows)) {
      Value gate[4], unused, dc = dc_of_all[Slice::place(turn)];
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        gate[g] = widen(gates[g]);
        if (kFolded<T> && Cell::is_sigmoid(g)) gate[g] = unfold(gate[g].x);
      }
      const float dh = widen(dy) + dh_of_all[Slice::place(turn)];
      Cell::template backward<Value>(gate, c_prev, c, dh, dc, unused);
      dc_of_all[Slice::place(turn)] = dc.x;
#pragma unroll
      for (int g = 0; g < 4; ++g) narrow(gate[g].x, kept[g]);
    }
    if (kSize == 4) __syncwarp();  // a unit past an odd H is behind the one before it
    // A piece is of so many units, and whole.
    constexpr int kWhole = 8 / kSize;
    const bool hands_on = slice.column < rows.count && Self::hands_on(slice.unit) &&
                          slice.unit < (H + kWhole - 1) / kWhole * kWhole;
    uint32_t* const first = dgates_at(tag, turn, slice.unit / kUnits) +
                            (slice.column * 4 * kUnits + slice.unit % kUnits) * (kSize / 2);
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const uint32_t word = Self::word_of(kept[g]);
      if (hands_on) ptx::publish_tagged(first + g * kUnits * (kSize / 2), word, tag);
    }

    if (slice.active(rows)) {
      T* const to = scan.dgates + slice.row(rows) * 4 * H + slice.unit;
#pragma unroll
      for (int g = 0; g < 4; ++g) to[g * H] = kept[g];
    }
    if (turn + 1 < turns && slice.rows(now, turn + 1).count > 0)
      load_turn(now, n, turn + 1);
    else
      load_turn(slice.step(n - 1), n - 1, 0);
  };
  // As forward, not a lambda that returns them.
  const auto with_gates = [&](uint32_t tag, int turn, int rows, const auto& use) {
    use(Gates{dgates_at(tag, turn, part), units, rows, tag, now_written, asked_gates});
  };
  // The products of the part's gradients, and their shares of dh on their way.
  const auto send_back = [&](uint32_t tag, int turn) {
    const int rows = slice.rows(now, turn).count;
    if (rows == 0 || units <= 0) return;
    with_gates(tag, turn, rows, [&](const Gates& gates) {
      if (!asks || turn == 0 || !have_come<Self::kPieces, 1>(gates))
        receive<Self::kPieces>(gates, p.waiting);
    });
    unsigned char* const written = now_written;
    now_written = now_read, now_read = written;
    __syncthreads();

    const auto send = [&](const auto& sums, int first_column) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int own = 0; own < kOwn<kProduct>; ++own) {
          const int unit = Self::lane() / 4 + half * 8;
          const int column = first_column + Self::lane() % 4 * kOwn<kProduct> + own;
          float share = sums[0][half][own] + sums[1][half][own];
          if constexpr (std::extent_v<std::remove_cvref_t<decltype(sums)>> == kTiles)
            share += sums[2][half][own] + sums[3][half][own];
          uint32_t* const to = dh_at(tag, turn, output / kGridUnits, grid_place(unit, column)) +
                               part / 2 * (kPlan.cells * 4) + part % 2 * 2;
          uint32_t word;
          std::memcpy(&word, &share, sizeof word);
          if (output + unit < H && column < rows) ptx::publish_tagged(to, word, tag);
        }
    };
    if constexpr (kColumns == kGridColumns) {
      Sums<kProduct> sums = {};
      w_hh.template multiply_add<kPlan.pitch, kSlab>(now_read, sums);
      send(sums, 0);
    } else {  // two gates to a sum, so that there are no more
      Sums<kProduct, 2> sums = {}, of_next_eight = {};
      w_hh.template multiply_add<kPlan.pitch, kSlab>(now_read, sums, of_next_eight);
      send(sums, 0);
      send(of_next_eight, kGridColumns);
    }
  };

  load_turn(now, slice.steps - 1, 0);
  for (int n = slice.steps - 1; n >= 0; --n) {
    const uint32_t tag = uint32_t(slice.steps - n);
    // Nobody asks what the first step sends back but dh0.
    const bool sends = n > 0 || scan.dh0;
    // A turn's gradients are on their way while the one before it multiplies.
    for (int turn = 0; turn <= turns; ++turn) {
      // Gradients that were handed on before the last products; the first turn has none before it.
      if (asks) {
        if (turn > 1 && sends)
          with_gates(tag, turn - 1, slice.rows(now, turn - 1).count,
                     [&](const Gates& gates) { ask<Self::kPieces>(gates); });
        ptx::commit_copies();
      }
      if (turn < turns) update(n, tag, turn);
      if (asks) {
        const bool same_step = turn + 1 < turns;
        if (turn < turns && (same_step || n > 0) &&
            slice.active(same_step ? slice.rows(after, turn + 1) : slice.rows(now, 0)))
          ask<kPiecesOfDh>(same_step ? shares_of_dh(tag - 1, turn + 1) : shares_of_dh(tag, 0));
        ptx::commit_copies();
      }
      if (turn > 0 && sends) send_back(tag, turn - 1);
    }
    after = now, now = slice.step(n - 1);
  }

  for (int turn = 0; Slice::owns_cells() && turn < turns; ++turn) {
    if (scan.dh0) take_dh(uint32_t(slice.steps), turn, slice.rows(after, turn), false);
    if (!slice.exists(turn)) continue;
    if (scan.dh0) narrow(dh_of_all[Slice::place(turn)], scan.dh0[slice.state(turn)]);
    scan.dc0[slice.state(turn)] = dc_of_all[Slice::place(turn)];
  }
}

}  // namespace lf::cuda
