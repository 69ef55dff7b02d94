// Not compiled with a sanitizer, as it is not what is tested; it calls them all the same.
#include "machine.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fibers.h"
#include "sanitize.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {

uint64_t seed = 0;
unsigned late_blocks = 0;
uint64_t late_waits = 0;

namespace {

constexpr size_t kRedZone = 64, kMaxArrays = 16, kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 << 10;  // of a block, sm_90
constexpr unsigned kBarriers = 16, kMaxCluster = 16;

struct Barrier {
  unsigned arrived = 0, round = 0;
  Where where{};
  std::vector<int> parked;
  // What ThreadSanitizer orders by, in turns: who comes late out of a round must not be ordered
  // behind those who have come to the next one already. Nobody can be two rounds ahead.
  char order[2];
};

// Where the lanes of one mask meet. Two sets of slots: nobody can be two meetings ahead.
struct Meeting {
  Barrier barrier;
  unsigned round[32] = {};
  Slot slots[2][32];
};
struct Warp {
  Meeting of_all;
  std::map<unsigned, Meeting> of_some;  // by mask
};

struct Block {
  uint3 index;
  unsigned rank = 0;        // in its cluster
  Barrier cluster_barrier;  // the one of rank 0 counts
  unsigned alive = 0;
  unsigned char* shared = nullptr;
  size_t capacity = 0;
  Barrier barriers[kBarriers];
  std::vector<Warp> warps;
};

struct Copy {
  void* to;  // 16 bytes
  const void* from;
  unsigned valid, unit;  // bytes; so many are read at one moment
  unsigned done = 0;     // which units
};

enum class State { ready, spinning, parked, done };

struct Thread {
  int id;
  uint3 index;
  Block* block = nullptr;
  unsigned lane = 0, warp = 0;
  State state = State::ready;
  Where where{};
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> copies;  // groups
  Fiber fiber;
};

struct Effect {
  std::unique_ptr<char> issued;  // what ThreadSanitizer knows the moment of issue by
  std::function<void()> run;
};

FiberPool fibers;

uint64_t random_state;  // starts anew at every launch

uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

// Threads that may go on: one at random, or the one that has waited longest.
class Queue {
 public:
  explicit Queue(size_t most = 0) : ids_(std::bit_ceil(most)) {}
  bool empty() const { return size_ == 0; }
  void push(int id) { at(size_++) = id; }
  int take() {
    if (seed) std::swap(at(0), at(random() % size_));
    --size_;
    return ids_[first_++ & (ids_.size() - 1)];
  }

 private:
  int& at(size_t k) { return ids_[(first_ + k) & (ids_.size() - 1)]; }

  std::vector<int> ids_;  // a ring
  size_t first_ = 0, size_ = 0;
};

class Machine {
 public:
  Machine(const Launch& launch, const std::function<void()>& kernel)
      : launch_(launch), kernel_(kernel) {}
  ~Machine();

  void run();

  Thread& self() { return *current_; }
  const Launch& launch() const { return launch_; }
  Block& peer(Block& block, unsigned rank) { return (&block - block.rank)[rank]; }
  void leave(State state, Where where);
  void wait(Barrier& barrier, unsigned count, bool orders, const char* kind, Where where);
  void post(std::function<void()> effect);
  [[noreturn]] void fail(const std::string& what, Where where);

 private:
  // What comes next: a thread, by its number, or one of these.
  enum { kEffect = -1, kDeadlock = -2, kEnd = -3 };

  static void entry();
  void make_block(Block& block, unsigned number);
  void make_thread(Thread& thread, int id);
  void run_blocks(unsigned first, unsigned count);
  int choose();
  void go_on();
  void enter(Thread& thread, Fiber& from, bool ends);
  void end_thread();
  void run_effect();
  [[noreturn]] void report_deadlock();

  const Launch launch_;
  const std::function<void()>& kernel_;
  std::vector<Block> blocks_;  // those on the machine now
  std::vector<Thread> threads_;
  Queue ready_, spinning_;
  std::deque<Effect> effects_;
  Thread* current_ = nullptr;
  size_t late_ = 0, held_back_ = 0;  // threads of late blocks, and those of them yet to start
  size_t alive_ = 0, in_vain_ = 0;   // resumed spinning threads since the last one that got on
  int next_ = kEnd;
  std::optional<std::string> error_;
  Fiber main_{.identity = Identity::current()};
};

Machine* machine = nullptr;

std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string text(Where where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

bool same(Where a, Where b) {
  return a.line() == b.line() &&
         (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

void Machine::fail(const std::string& what, Where where) {
  Quiet quiet;
  if (!current_) throw Error(what + " at " + text(where));
  error_ = what + " at " + text(where) + ", block " + text(current_->block->index) + ", thread " +
           text(current_->index);
  current_->state = State::done;
  next_ = kEnd;
  switch_fiber(current_->fiber, main_, true);
  std::abort();
}

// Threads go on from one to another; what is not a thread is run_blocks's.
int Machine::choose() {
  if (alive_ == held_back_)
    while (held_back_) ready_.push(int(--held_back_));
  if (!alive_) return kEnd;
  const bool idle = ready_.empty() && (spinning_.empty() || !seed || random() % 4);
  if (!effects_.empty() && (idle || (seed && random() % 16 == 0))) return kEffect;
  if (!ready_.empty() && (spinning_.empty() || !seed || random() % 64)) {
    in_vain_ = 0;
    return ready_.take();
  }
  if (spinning_.empty() || ++in_vain_ >= 100 * threads_.size() + 1000) return kDeadlock;
  return spinning_.take();
}

void Machine::enter(Thread& thread, Fiber& from, bool ends) {
  current_ = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  switch_fiber(from, thread.fiber, ends);
}

void Machine::go_on() {
  Thread& thread = *current_;
  const bool ends = thread.state == State::done;
  if (thread.state != State::spinning) in_vain_ = 0;
  next_ = choose();
  if (next_ == thread.id) return;
  if (next_ >= 0) return enter(threads_[size_t(next_)], thread.fiber, ends);
  switch_fiber(thread.fiber, main_, ends);
}

void Machine::entry() {
  Fiber& main = machine->main_;
  const bool first = !main.bottom;
  after_switch(nullptr, first ? &main.bottom : nullptr, first ? &main.size : nullptr);
  machine->kernel_();
  machine->end_thread();
  machine->go_on();
  std::abort();
}

void Machine::end_thread() {
  Thread& thread = *current_;
  bool copies = !thread.open_copies.empty();
  for (const std::vector<Copy>& group : thread.copies) copies |= !group.empty();
  if (copies)
    fail("a thread ends with cp.async copies that it has not waited for", Where::current());
  thread.state = State::done;
  --alive_;
  Block& block = *thread.block;
  if (--block.alive > 0) return;
  // Its shared memory is gone, for its peers too.
  Quiet quiet;
  unpoison(block.shared, block.capacity);
  std::memset(block.shared, 0xff, block.capacity);
  poison(block.shared, block.capacity);
}

void Machine::leave(State state, Where where) {
  current_->where = where;
  current_->state = state;
  if (state == State::ready) ready_.push(current_->id);
  if (state == State::spinning) spinning_.push(current_->id);
  if (state == State::spinning && size_t(current_->id) < late_) ++late_waits;
  go_on();
}

void Machine::wait(Barrier& barrier, unsigned count, bool orders, const char* kind, Where where) {
  if (barrier.arrived && !same(barrier.where, where))
    fail(std::string(kind) + " in divergent code: others wait at " + text(barrier.where), where);
  barrier.where = where;
  const char* const order = &barrier.order[barrier.round % 2];
  if (orders) release(order);
  if (barrier.parked.capacity() < count) {
    Quiet quiet;
    barrier.parked.reserve(count);
  }
  if (++barrier.arrived < count) {
    barrier.parked.push_back(current_->id);
    leave(State::parked, where);
  } else {
    barrier.arrived = 0;
    ++barrier.round;
    for (const int id : barrier.parked) {
      threads_[size_t(id)].state = State::ready;
      ready_.push(id);
    }
    barrier.parked.clear();
    if (seed) leave(State::ready, where);  // the last to come need not be the first to go
  }
  if (orders) acquire(order);
}

void Machine::post(std::function<void()> effect) {
  Quiet quiet;
  effects_.push_back({std::make_unique<char>(), std::move(effect)});
  release(effects_.back().issued.get());
}

// As a thread of its own: nothing else that the machine did precedes the effect. A launch has
// thousands of them, and room for their identities only if they go at once.
void Machine::run_effect() {
  const size_t k = seed ? random() % effects_.size() : 0;
  const Effect effect = std::move(effects_[k]);
  effects_.erase(effects_.begin() + ptrdiff_t(k));
  const Identity agent = Identity::fresh();
  agent.enter(true);  // the launch precedes it
  acquire(effect.issued.get());
  effect.run();
  main_.identity.enter(false);
  agent.end();
}

void Machine::report_deadlock() {
  std::map<std::string, int> waiting;
  for (const Thread& thread : threads_)
    if (thread.state == State::parked || thread.state == State::spinning)
      ++waiting["of block " + text(thread.block->index) +
                (thread.state == State::parked ? " wait at " : " spin at ") + text(thread.where)];
  std::string message = "deadlock:";
  for (const auto& [what, threads] : waiting)
    message += "\n  " + std::to_string(threads) + " threads " + what;
  throw Error(message);
}

void Machine::make_block(Block& block, unsigned number) {
  const dim3 grid = launch_.grid;
  block.index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
  block.rank = number % launch_.cluster;
  block.alive = launch_.block.x * launch_.block.y * launch_.block.z;
  block.warps = std::vector<Warp>((block.alive + 31) / 32);
  block.capacity = launch_.shared + kMaxArrays * (16 + kRedZone);
  block.shared =
      static_cast<unsigned char*>(std::aligned_alloc(1024, (block.capacity + 1023) & ~1023));
  std::memset(block.shared, 0xff, block.capacity);  // NaN in every format
}

void Machine::make_thread(Thread& thread, int id) {
  const dim3 block = launch_.block;
  const unsigned size = block.x * block.y * block.z, k = unsigned(id) % size;
  thread.id = id;
  thread.index = {k % block.x, k / block.x % block.y, k / block.x / block.y};
  thread.block = &blocks_[unsigned(id) / size];
  thread.lane = k % 32;
  thread.warp = k / 32;
  thread.fiber = fibers.take(&entry);
  thread.fiber.identity.enter(true);  // the launch precedes it
  main_.identity.enter(false);
  if (size_t(id) >= held_back_) ready_.push(id);
}

// Blocks [first, first + count) from start to end.
void Machine::run_blocks(unsigned first, unsigned count) {
  const unsigned size = launch_.block.x * launch_.block.y * launch_.block.z;
  blocks_ = std::vector<Block>(count);
  threads_ = std::vector<Thread>(size_t(count) * size);
  ready_ = spinning_ = Queue(threads_.size());
  late_ = held_back_ = launch_.cooperative ? late_blocks * size : 0;
  for (unsigned k = 0; k < count; ++k) make_block(blocks_[k], first + k);
  for (size_t k = 0; k < threads_.size(); ++k) make_thread(threads_[k], int(k));
  alive_ = threads_.size();
  for (next_ = choose(); next_ != kEnd;) {
    if (next_ == kDeadlock) report_deadlock();
    if (next_ == kEffect) {
      run_effect();
      in_vain_ = 0;
      next_ = choose();
    } else {
      enter(threads_[size_t(next_)], main_, false);
      current_ = nullptr;
    }
  }
  if (error_) throw Error(*error_);
  while (!effects_.empty()) run_effect();
  for (Thread& thread : threads_) {  // what it did precedes what follows the launch
    thread.fiber.identity.enter(false);
    main_.identity.enter(true);
    fibers.give_back(thread.fiber);
    thread.fiber = {};
  }
  for (Block& block : blocks_) {
    unpoison(block.shared, block.capacity);
    std::free(block.shared);
    block.shared = nullptr;
  }
}

Machine::~Machine() {  // what an error left
  for (const Thread& thread : threads_)
    if (thread.fiber.bottom) fibers.abandon(thread.fiber);
  for (Block& block : blocks_)
    if (block.shared) {
      unpoison(block.shared, block.capacity);
      std::free(block.shared);
    }
  machine = nullptr;
}

void Machine::run() {
  const dim3 grid = launch_.grid, block = launch_.block;
  const unsigned blocks = grid.x * grid.y * grid.z;
  if (block.x * block.y * block.z > kMaxThreads || launch_.shared > kMaxShared || blocks == 0)
    throw Error(
        "a launch must have 1 to 1024 threads a block, at most 227 KiB of shared memory "
        "and a block");
  if (launch_.cluster > kMaxCluster || grid.x % launch_.cluster)
    throw Error("a grid must be whole clusters of at most 16 blocks");
  gridDim = grid;
  blockDim = block;
  if (launch_.cooperative) return run_blocks(0, blocks);
  // One cluster after another, in any order: nobody may wait for a block of another cluster.
  Queue clusters(blocks);
  for (unsigned k = 0; k < blocks; k += launch_.cluster) clusters.push(int(k));
  while (!clusters.empty()) run_blocks(unsigned(clusters.take()), launch_.cluster);
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& kernel) {
  const Quiet quiet;
  random_state = seed * 0x9e3779b97f4a7c15 + 1;
  Machine here(launch, kernel);
  machine = &here;
  here.run();
}

void fail(const std::string& what, Where where) {
  if (machine) machine->fail(what, where);
  throw Error(what + " at " + text(where));
}

unsigned lane() { return machine->self().lane; }
unsigned cluster_rank() { return machine->self().block->rank; }
unsigned cluster_size() { return machine->launch().cluster; }
bool coin() { return seed && random() & 1; }

void yield(Where where) {
  if (seed) machine->leave(State::ready, where);
}
void spin(Where where) { machine->leave(State::spinning, where); }

void block_barrier(unsigned id, unsigned count, const char* kind, Where where) {
  machine->wait(machine->self().block->barriers[id], count, true, kind, where);
}

void cluster_barrier(Where where) {
  Block& first = machine->peer(*machine->self().block, 0);
  const dim3 block = machine->launch().block;
  machine->wait(first.cluster_barrier, cluster_size() * block.x * block.y * block.z, true,
                "cluster_sync", where);
}

const Slot* exchange(unsigned mask, const Slot& mine, bool orders, const char* kind, Where where) {
  Thread& self = machine->self();
  if (!(mask >> self.lane & 1)) fail(std::string(kind) + " by a lane outside of its mask", where);
  Warp& warp = self.block->warps[self.warp];
  Meeting* meeting = &warp.of_all;
  if (mask != ~0u) {
    Quiet quiet;
    meeting = &warp.of_some[mask];
  }
  Slot* const slots = meeting->slots[meeting->round[self.lane]++ % 2];
  slots[self.lane] = mine;
  machine->wait(meeting->barrier, unsigned(__builtin_popcount(mask)), orders, kind, where);
  return slots;
}

void* carve(size_t& used, size_t bytes, Where where) {
  Quiet quiet;
  const Block& block = *machine->self().block;
  const size_t whole = (bytes + 15) / 16 * 16, arrays = used >> 32, taken = used & 0xffffffff;
  if (taken + whole > machine->launch().shared)
    fail("a kernel takes " + std::to_string(taken + whole) +
             " bytes of shared memory, the launch "
             "gave " +
             std::to_string(machine->launch().shared),
         where);
  if (arrays == kMaxArrays) fail("a kernel has more arrays in shared memory than red zones", where);
  unsigned char* const at = block.shared + taken + arrays * kRedZone;
  poison(at + bytes, whole - bytes + kRedZone);
  used = (arrays + 1) << 32 | (taken + whole);
  return at;
}

void* peer(const void* shared, unsigned rank, Where where) {
  Quiet quiet;
  Block& mine = *machine->self().block;
  const auto offset = size_t(static_cast<const unsigned char*>(shared) - mine.shared);
  if (offset >= mine.capacity) fail("an address that is not in this block's shared memory", where);
  if (rank >= cluster_size()) fail("no block of the cluster has that rank", where);
  return machine->peer(mine, rank).shared + offset;
}

namespace {
void run_unit(const Copy& copy, unsigned first) {
  const char* const from = static_cast<const char*>(copy.from) + first;
  char* const to = static_cast<char*>(copy.to) + first;
  if (copy.unit == 16) {
    std::memcpy(to, from, copy.valid);
    std::memset(to + copy.valid, 0, 16 - copy.valid);
    return;
  }
  uint64_t word = 0;  // that others may be writing
  if (copy.unit == 8)
    word = __atomic_load_n(reinterpret_cast<const uint64_t*>(from), __ATOMIC_RELAXED);
  else
    word = __atomic_load_n(reinterpret_cast<const uint32_t*>(from), __ATOMIC_RELAXED);
  std::memcpy(to, &word, copy.unit);
}
void finish(const Copy& copy) {
  unpoison(copy.to, 16);
  for (unsigned first = 0; first < 16; first += copy.unit)
    if (!(copy.done >> first & 1)) run_unit(copy, first);
}
}  // namespace

void copy_later(void* to, const void* from, unsigned valid, unsigned unit) {
  Copy copy{to, from, valid, unit};
  for (unsigned first = 0; first < 16; first += unit)
    if (coin()) run_unit(copy, first), copy.done |= 1u << first;
  poison(to, 16);  // nobody may look until it is waited for
  Quiet quiet;
  machine->self().open_copies.push_back(copy);
}

void close_copies() {
  Quiet quiet;
  Thread& self = machine->self();
  self.copies.push_back(std::move(self.open_copies));
  self.open_copies.clear();
}

void finish_copies(size_t groups_left) {
  std::deque<std::vector<Copy>>& groups = machine->self().copies;
  while (groups.size() > groups_left) {
    std::vector<Copy> group;
    {
      Quiet quiet;
      group = std::move(groups.front());
      groups.pop_front();
    }
    for (const Copy& copy : group) finish(copy);
  }
}

void post(std::function<void()> effect) {
  machine->post(std::move(effect));
  yield(Where::current());
}

void release([[maybe_unused]] const void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(const_cast<void*>(object));
#endif
}
void acquire([[maybe_unused]] const void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(const_cast<void*>(object));
#endif
}

}  // namespace simt
