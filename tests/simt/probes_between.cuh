// Probes of what is between blocks: flags, words that are their own flags, clusters, and barriers
// that count arrivals and bytes.
//
// On a GPU a wait that is never answered ends after some seconds, and the words that come out are
// wrong; the SIMT machine says "deadlock" long before.
#pragma once

#include "probes.cuh"

namespace lf::probes {

template <class Ended>
__device__ __forceinline__ void wait_until(Ended ended) {
  for (int patience = 1 << 22; patience && !ended(); --patience) {
  }
}

// Every word of the past changes the result.
__host__ __device__ inline uint32_t mix(uint32_t past, uint32_t word) {
  return past * 0x9e3779b1 + word;
}

// ---- cooperative blocks

// Two blocks pass a word a lane to and fro by a flag, and mix what they get into it.
constexpr int kTurns = 20;
__global__ void take_turns(Words words) {
  unsigned* const flag = words.scratch + words.at(2, 0);
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  uint32_t word = words.input()[0];
  for (unsigned turn = 0; turn < kTurns; ++turn) {
    if (turn % 2 == blockIdx.x) {
      *mine = word;
      __syncwarp();
      if (threadIdx.x == 0) ptx::add_release(flag, 1);
    } else {
      if (threadIdx.x == 0) wait_until([&] { return ptx::load_acquire(flag) > turn; });
      __syncwarp();
      word = mix(word, *theirs);
    }
  }
  words.output()[0] = word;
}

// Every lane of 4 blocks adds lane + 1 to one counter, and reads the others' words when it is full.
__global__ void add_from_all(Words words) {
  constexpr unsigned kFull = 4 * (32 * 33 / 2);
  unsigned* const counter = words.scratch + words.at(4, 0);
  words.scratch[words.at(blockIdx.x, threadIdx.x)] = words.input()[0];
  ptx::add_release(counter, threadIdx.x + 1);
  wait_until([&] { return ptx::load_acquire(counter) == kFull; });
  for (int k = 0; k < 4; ++k)
    words.output()[k] = words.scratch[words.at(unsigned(k), 31 - threadIdx.x)];
  words.output()[4] = ptx::load_acquire(counter);
}

// Two blocks publish 8 words a lane, 4 at a time; a word that is 0 is not there yet.
__global__ void publish(Words words) {
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  for (int first = 0; first < 8; first += 4) {
    for (int k = first; k < first + 4; ++k) ptx::publish_word(mine + k, words.input()[k] | 1);
    uint32_t seen[4];
    wait_until([&] {
      ptx::poll_words(seen, theirs + first);
      return seen[0] && seen[1] && seen[2] && seen[3];
    });
    for (int k = 0; k < 4; ++k) words.output()[first + k] = seen[k];
  }
}

// The same, asked for while the other block may be writing; what has come by then must be right.
__global__ void ask_ahead(Words words) {
  ptx::Shared shared;
  uint32_t* const came = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  for (int first = 0; first < 8; first += 4) {
    ptx::poll_async(came, theirs + first);
    ptx::commit_copies();
    for (int k = first; k < first + 4; ++k) ptx::publish_word(mine + k, words.input()[k] | 1);
    ptx::wait_copies<0>();
    uint32_t seen[4];
    wait_until([&] {
      ptx::poll_words(seen, theirs + first);
      return seen[0] && seen[1] && seen[2] && seen[3];
    });
    for (int k = 0; k < 4; ++k)
      words.output()[first + k] = came[k] && came[k] != seen[k] ? ~seen[k] : seen[k];
  }
}

// As publish, by pairs of word and tag, in two places by turns: the tag is the turn.
__global__ void publish_pairs(Words words) {
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  for (uint32_t turn = 1; turn <= 4; ++turn) {
    for (int k = 0; k < 2; ++k)
      ptx::publish_tagged(mine + turn % 2 * 4 + 2 * k, words.input()[2 * turn - 2 + k], turn);
    uint32_t seen[2], tags[2];
    wait_until([&] {
      ptx::poll_tagged(seen, tags, theirs + turn % 2 * 4);
      return tags[0] == turn && tags[1] == turn;
    });
    for (int k = 0; k < 2; ++k) words.output()[2 * turn - 2 + k] = seen[k];
  }
}

// The same, asked for while the other block may be writing: no pair may be of two turns.
__global__ void ask_for_pairs(Words words) {
  ptx::Shared shared;
  uint32_t* const came = shared.take<uint32_t>(32 * 4) + 4 * threadIdx.x;
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  for (uint32_t turn = 1; turn <= 4; ++turn) {
    ptx::poll_tagged_async(came, theirs + turn % 2 * 4);
    ptx::commit_copies();
    for (int k = 0; k < 2; ++k)
      ptx::publish_tagged(mine + turn % 2 * 4 + 2 * k, words.input()[2 * turn - 2 + k], turn);
    ptx::wait_copies<0>();
    uint32_t seen[2], tags[2];
    wait_until([&] {
      ptx::poll_tagged(seen, tags, theirs + turn % 2 * 4);
      return tags[0] == turn && tags[1] == turn;
    });
    for (int k = 0; k < 2; ++k)
      words.output()[2 * turn - 2 + k] =
          came[2 * k + 1] == turn && came[2 * k] != seen[k] ? ~seen[k] : seen[k];
  }
}

// Two blocks tell each other a word a lane. Out: the words before two exchanges, what the other
// block told, and how many lanes were the first to exchange the one word that all do.
__global__ void give_up(Words words) {
  uint32_t* const mine = words.scratch + words.at(blockIdx.x, threadIdx.x);
  const uint32_t* const theirs = words.scratch + words.at(blockIdx.x ^ 1, 31 - threadIdx.x);
  uint32_t* const of_all = words.scratch + words.at(2, 0);
  uint32_t* const out = words.output();
  for (int k = 0; k < 2; ++k) out[k] = ptx::exchange_word(mine, words.input()[k]);
  ptx::tell_host(mine + 1, words.input()[2] | 1);
  wait_until([&] { return (out[2] = ptx::poll_word(theirs + 1)) != 0; });
  if (!ptx::exchange_word(of_all, 1)) ptx::add_release(of_all + 1, 1);
  ptx::add_release(of_all + 2, 1);
  wait_until([&] { return ptx::load_acquire(of_all + 2) == 64; });
  out[3] = ptx::load_acquire(of_all + 1);
}

// ---- clusters

// Every block reads from its neighbours' shared memory.
template <unsigned kCluster>
__global__ void read_peers(Words words) {
  ptx::Shared shared;
  uint32_t* const mine = shared.take<uint32_t>(32);
  const unsigned rank = ptx::cluster_rank();
  mine[threadIdx.x] = words.input()[0];
  ptx::cluster_sync();
  for (unsigned k = 0; k < 7; ++k)
    words.output()[k] = ptx::of_peer(mine, (rank + k) % kCluster)[(31 - threadIdx.x + k) % 32];
  words.output()[7] = rank;
  ptx::cluster_sync();
}

// Every block writes into its neighbours' shared memory.
template <unsigned kCluster>
__global__ void write_peers(Words words) {
  ptx::Shared shared;
  uint32_t* const box = shared.take<uint32_t>(8 * 32);
  const unsigned rank = ptx::cluster_rank();
  ptx::cluster_sync();  // all have started
  for (unsigned k = 0; k < 8; ++k)
    ptx::of_peer(box, (rank + 1 + k) % kCluster)[k * 32 + 31 - threadIdx.x] = words.input()[k];
  ptx::cluster_sync();
  for (unsigned k = 0; k < 8; ++k) words.output()[k] = box[k * 32 + threadIdx.x];
}

// Every lane sends 16 bytes to up to 4 blocks of its cluster, waits for what its block gets, mixes
// it into what it sends next: several phases through two boxes and their barriers. All send to all,
// so a block that has got the whole of a phase knows that its peers have read the phase before.
constexpr unsigned kPhases = 5;
template <unsigned kCluster>
constexpr unsigned kMessages = kCluster < 4 ? kCluster : 4;  // of a lane
template <unsigned kCluster>
__global__ void send_to_peers(Words words) {
  constexpr unsigned kSent = kMessages<kCluster>, kBoxWords = kSent * 32 * 4;
  constexpr unsigned kLanes = 32 / kCluster;  // of one block that send to the same one
  ptx::Shared shared;
  auto* const boxes = shared.take<uint32_t>(2 * kBoxWords);
  auto* const full = shared.take<uint64_t>(2);
  const unsigned rank = ptx::cluster_rank(), lane = threadIdx.x;
  if (lane == 0)
    for (int k = 0; k < 2; ++k) {
      ptx::init_barrier(full + k, 1);
      ptx::arrive_expecting(full + k, kBoxWords * 4);
    }
  ptx::cluster_sync();
  uint32_t value[4];
  for (int w = 0; w < 4; ++w) value[w] = words.input()[w];
  for (unsigned phase = 0; phase < kPhases; ++phase) {
    uint32_t* const box = boxes + phase % 2 * kBoxWords;
    uint64_t* const barrier = full + phase % 2;
    for (unsigned k = 0; k < kSent; ++k) {
      const unsigned to = (lane + k) % kCluster, slot = k * 32 + rank * kLanes + lane / kCluster;
      const uint32_t sent[4] = {value[0] + k, value[1], value[2], value[3] ^ to};
      ptx::store_async(box + slot * 4, to, sent, barrier);
    }
    wait_until([&] { return ptx::phase_ended(barrier, phase / 2 % 2); });
    for (unsigned k = 0; k < kSent; ++k)
      for (int w = 0; w < 4; ++w)
        value[w] = mix(value[w], box[(k * 32 + 31 - lane) * 4 + unsigned(w)]);
    if (lane == 0 && phase + 2 < kPhases) ptx::arrive_expecting(barrier, kBoxWords * 4);
    __syncwarp();  // all lanes have read before any of them lets a peer write here again
  }
  for (int w = 0; w < 4; ++w) words.output()[w] = value[w];
  ptx::cluster_sync();
}

// ---- barriers

// Three lanes make a phase. Out: a bit for every question whether one has ended, four times
// 0 1 0 0 1: the phase before it starts, the one before that, then after each arrival.
constexpr unsigned kArrivals = 3;
__global__ void count_arrivals(Words words) {
  ptx::Shared shared;
  auto* const barrier = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) ptx::init_barrier(barrier, kArrivals);
  ptx::cluster_sync();
  uint32_t seen = 0;
  for (unsigned phase = 0; phase < 4; ++phase) {
    seen = seen << 1 | ptx::phase_ended(barrier, phase % 2);
    seen = seen << 1 | ptx::phase_ended(barrier, (phase + 1) % 2);
    __syncwarp();
    for (unsigned k = 0; k < kArrivals; ++k) {
      if (threadIdx.x == (phase * kArrivals + k) % 32) ptx::arrive_expecting(barrier, 0);
      __syncwarp();
      seen = seen << 1 | ptx::phase_ended(barrier, phase % 2);
      __syncwarp();
    }
  }
  words.output()[0] = seen;
}

// All lanes of 2 blocks expect 16 bytes each, which may come before they do.
__global__ void count_bytes(Words words) {
  ptx::Shared shared;
  auto* const box = shared.take<uint32_t>(32 * 4);
  auto* const barrier = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) ptx::init_barrier(barrier, 32);
  ptx::cluster_sync();
  for (unsigned phase = 0; phase < 2; ++phase) {
    const uint32_t* const in = words.input() + 4 * phase;
    const uint32_t value[4] = {in[0], in[1], in[2], in[3]};
    ptx::store_async(box + 4 * threadIdx.x, ptx::cluster_rank() ^ 1, value, barrier);
    ptx::arrive_expecting(barrier, 16);
    wait_until([&] { return ptx::phase_ended(barrier, phase % 2); });
    for (int w = 0; w < 4; ++w)
      words.output()[4 * phase + unsigned(w)] = box[(31 - threadIdx.x) * 4 + unsigned(w)];
    ptx::cluster_sync();
  }
}

}  // namespace lf::probes
