#include "machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sanitize.h"

#if !defined(__x86_64__)
#error "the SIMT machine switches fibers by x86-64 instructions: port switch_stack()"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {

uint64_t seed = 0;

namespace {

constexpr size_t kStackBytes = 256 << 10, kRedZone = 64, kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 << 10;  // of a block, sm_90
constexpr unsigned kBarriers = 16, kMaxCluster = 16;

struct Barrier {
  unsigned arrived = 0;
  Where where{};
  std::vector<int> parked;
};

// Where the lanes of one mask meet. Two sets of slots: nobody can be two meetings ahead.
struct Meeting {
  Barrier barrier;
  unsigned round[32] = {};
  alignas(64) unsigned char slots[2][32 * 64];
};

struct Block {
  uint3 index;
  unsigned rank = 0;        // in its cluster
  Barrier cluster_barrier;  // the one of rank 0 counts
  unsigned alive = 0;
  unsigned char* shared = nullptr;
  size_t capacity = 0;
  Barrier barriers[kBarriers];
  std::vector<std::map<unsigned, Meeting>> warps;  // by mask
};

struct Copy {
  void* to;
  const void* from;
  unsigned bytes, valid;
};

enum class State { ready, spinning, parked, done };

struct Thread {
  int id;
  uint3 index;
  Block* block = nullptr;
  unsigned lane = 0, warp = 0;
  State state = State::ready;
  Where where{};
  std::deque<std::vector<Copy>> copies;  // groups, the last of which is open
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Identity identity;
  void* fake_stack = nullptr;
};

struct Effect {
  std::unique_ptr<char> issued;  // what ThreadSanitizer knows the moment of issue by
  std::function<void()> run;
};

// Stacks and identities outlive launches: making them took most of a small launch's time. An
// identity serves one thread of a launch, as all that one does is ordered, but launches are ordered
// anyway.
std::vector<char*> free_stacks;
std::vector<Identity> free_identities;

Identity take_identity() {
  if (free_identities.empty()) return Identity::fresh();
  const Identity identity = free_identities.back();
  free_identities.pop_back();
  return identity;
}

char* take_stack() {
  if (!free_stacks.empty()) {
    char* const stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
  }
  void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) throw Error("no memory for the stack of a thread");
  mprotect(stack, size_t(sysconf(_SC_PAGESIZE)), PROT_NONE);
  return static_cast<char*>(stack);
}

// Saves the registers that a call preserves, and goes on where `to` was saved.
__attribute__((naked, noinline)) void switch_stack(void** /*save*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

class Machine {
 public:
  Machine(const Launch& launch, const std::function<void()>& kernel)
      : launch_(launch), kernel_(kernel), random_(seed * 0x9e3779b97f4a7c15 + 1) {}
  ~Machine();

  void run();

  Thread& self() { return *current_; }
  const Launch& launch() const { return launch_; }
  Block& peer(Block& block, unsigned rank) { return (&block - block.rank)[rank]; }
  uint64_t random();
  void leave(State state, Where where);
  void wait(Barrier& barrier, unsigned count, bool orders, const char* kind, Where where);
  void post(std::function<void()> effect);
  [[noreturn]] void fail(const std::string& what, Where where);

 private:
  static void entry();
  void make_block(Block& block, unsigned number);
  void make_thread(Thread& thread, int id);
  void run_blocks(unsigned first, unsigned count);
  void resume(Thread& thread);
  void suspend();
  void end_thread();
  void run_effect();
  int take(std::vector<int>& queue);
  void throw_if_failed();
  [[noreturn]] void report_deadlock();

  const Launch launch_;
  const std::function<void()>& kernel_;
  std::vector<Block> blocks_;  // those on the machine now
  std::vector<Thread> threads_;
  std::vector<int> ready_, spinning_;
  std::deque<Effect> effects_;
  Thread* current_ = nullptr;
  size_t alive_ = 0;
  uint64_t random_;
  std::optional<std::string> error_;
  std::vector<Identity> identities_;  // of threads that have ended
  void *main_pointer_ = nullptr, *main_fake_stack_ = nullptr;
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
  Identity main_ = Identity::current();
};

Machine* machine = nullptr;

std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string text(Where where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

SIMT_UNSANITIZED uint64_t Machine::random() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

void Machine::fail(const std::string& what, Where where) {
  Quiet quiet;
  if (!current_) throw Error(what + " at " + text(where));
  error_ = what + " at " + text(where) + ", block " + text(current_->block->index) + ", thread " +
           text(current_->index);
  current_->state = State::done;
  suspend();
  std::abort();
}

void Machine::throw_if_failed() {
  if (error_) throw Error(*error_);
}

SIMT_UNSANITIZED void Machine::resume(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  before_switch(&main_fake_stack_, thread.stack, kStackBytes);
  thread.identity.enter(false);
  switch_stack(&main_pointer_, thread.stack_pointer);
  after_switch(main_fake_stack_, nullptr, nullptr);
  current_ = nullptr;
}

SIMT_UNSANITIZED void Machine::suspend() {
  Thread& thread = *current_;
  before_switch(thread.state == State::done ? nullptr : &thread.fake_stack, main_bottom_,
                main_size_);
  main_.enter(false);
  switch_stack(&thread.stack_pointer, main_pointer_);
  after_switch(thread.fake_stack, nullptr, nullptr);
}

SIMT_UNSANITIZED void Machine::entry() {
  after_switch(nullptr, &machine->main_bottom_, &machine->main_size_);
  machine->kernel_();
  machine->end_thread();
  machine->suspend();
  std::abort();
}

void Machine::end_thread() {
  Quiet quiet;
  Thread& thread = *current_;
  if (thread.copies.size() > 1 || !thread.copies.front().empty())
    fail("a thread ends with cp.async copies that it has not waited for", Where::current());
  thread.state = State::done;
  --alive_;
  Block& block = *thread.block;
  if (--block.alive > 0) return;
  // Its shared memory is gone, for its peers too.
  unpoison(block.shared, block.capacity);
  std::memset(block.shared, 0xff, block.capacity);
  poison(block.shared, block.capacity);
}

void Machine::leave(State state, Where where) {
  Quiet quiet;
  current_->where = where;
  current_->state = state;
  if (state == State::ready) ready_.push_back(current_->id);
  if (state == State::spinning) spinning_.push_back(current_->id);
  suspend();
}

void Machine::wait(Barrier& barrier, unsigned count, bool orders, const char* kind, Where where) {
  {
    Quiet quiet;
    if (barrier.arrived && text(barrier.where) != text(where))
      fail(std::string(kind) + " in divergent code: others wait at " + text(barrier.where), where);
    barrier.where = where;
    if (orders) release(&barrier);
    if (++barrier.arrived < count) {
      barrier.parked.push_back(current_->id);
      leave(State::parked, where);
    } else {
      barrier.arrived = 0;
      for (const int id : barrier.parked) {
        threads_[id].state = State::ready;
        ready_.push_back(id);
      }
      barrier.parked.clear();
      if (seed) leave(State::ready, where);  // the last to come need not be the first to go
    }
  }
  if (orders) acquire(&barrier);
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
  main_.enter(false);
  agent.end();
}

int Machine::take(std::vector<int>& queue) {
  const size_t k = seed ? random() % queue.size() : 0;
  const int id = queue[k];
  queue.erase(queue.begin() + ptrdiff_t(k));
  return id;
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
  block.warps.resize((block.alive + 31) / 32);
  // Room for the red zones of as many arrays as fit.
  block.capacity = (launch_.shared / 16 + 1) * (16 + kRedZone);
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
  thread.copies.resize(1);
  thread.stack = take_stack();
  void** top = reinterpret_cast<void**>(thread.stack + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(&entry);
  for (int k = 0; k < 6; ++k) *--top = nullptr;  // the registers that switch_stack takes
  thread.stack_pointer = top;
  thread.identity = take_identity();
  thread.identity.enter(true);  // the launch precedes it
  main_.enter(false);
  ready_.push_back(id);
}

// Blocks [first, first + count) from start to end.
void Machine::run_blocks(unsigned first, unsigned count) {
  const unsigned size = launch_.block.x * launch_.block.y * launch_.block.z;
  blocks_ = std::vector<Block>(count);
  threads_ = std::vector<Thread>(size_t(count) * size);
  for (unsigned k = 0; k < count; ++k) make_block(blocks_[k], first + k);
  for (size_t k = 0; k < threads_.size(); ++k) make_thread(threads_[k], int(k));
  alive_ = threads_.size();
  size_t in_vain = 0;  // resumed spinning threads since the last one that got on
  while (alive_) {
    const bool idle = ready_.empty() && (spinning_.empty() || !seed || random() % 4);
    if (!effects_.empty() && (idle || (seed && random() % 16 == 0))) {
      run_effect();
      in_vain = 0;
    } else if (!ready_.empty() && (spinning_.empty() || !seed || random() % 64)) {
      resume(threads_[take(ready_)]);
      in_vain = 0;
    } else if (!spinning_.empty() && ++in_vain < 100 * threads_.size() + 1000) {
      const int id = take(spinning_);
      resume(threads_[id]);
      if (threads_[id].state != State::spinning) in_vain = 0;
    } else {
      report_deadlock();
    }
    throw_if_failed();
  }
  while (!effects_.empty()) run_effect();
  for (Thread& thread : threads_) {  // what it did precedes what follows the launch
    thread.identity.enter(false);
    main_.enter(true);
    identities_.push_back(thread.identity);
    free_stacks.push_back(thread.stack);
    thread.stack = nullptr;
  }
  for (Block& block : blocks_) {
    unpoison(block.shared, block.capacity);
    std::free(block.shared);
    block.shared = nullptr;
  }
}

Machine::~Machine() {  // what an error left
  for (Thread& thread : threads_)
    if (thread.stack) {
      unpoison(thread.stack, kStackBytes);
      munmap(thread.stack, kStackBytes);
    }
  for (Block& block : blocks_)
    if (block.shared) {
      unpoison(block.shared, block.capacity);
      std::free(block.shared);
    }
  free_identities.insert(free_identities.end(), identities_.begin(), identities_.end());
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
  std::vector<int> clusters;
  for (unsigned k = 0; k < blocks; k += launch_.cluster) clusters.push_back(int(k));
  while (!clusters.empty()) run_blocks(unsigned(take(clusters)), launch_.cluster);
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& kernel) {
  const Quiet quiet;
  Machine here(launch, kernel);
  machine = &here;
  here.run();
}

void fail(const std::string& what, Where where) {
  if (machine) machine->fail(what, where);
  throw Error(what + " at " + text(where));
}

SIMT_UNSANITIZED unsigned lane() { return machine->self().lane; }
SIMT_UNSANITIZED unsigned cluster_rank() { return machine->self().block->rank; }
SIMT_UNSANITIZED unsigned cluster_size() { return machine->launch().cluster; }
SIMT_UNSANITIZED bool coin() { return seed && machine->random() & 1; }

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

const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes, bool orders,
                              const char* kind, Where where) {
  Thread& self = machine->self();
  if (!(mask >> self.lane & 1)) fail(std::string(kind) + " by a lane outside of its mask", where);
  Meeting* meeting;
  unsigned char* slots;
  {
    Quiet quiet;
    meeting = &self.block->warps[self.warp][mask];
    slots = meeting->slots[meeting->round[self.lane]++ % 2];
    if (bytes) std::memcpy(slots + 64 * self.lane, mine, bytes);
  }
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

static void finish(const Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.valid);
  std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
}

void copy_later(void* to, const void* from, unsigned bytes, unsigned valid) {
  const Copy copy{to, from, bytes, valid};
  if (coin()) return finish(copy);
  Quiet quiet;
  machine->self().copies.back().push_back(copy);
}

void close_copies() {
  Quiet quiet;
  machine->self().copies.emplace_back();
}

void finish_copies(size_t groups_left) {
  std::deque<std::vector<Copy>>& groups = machine->self().copies;
  while (groups.size() > groups_left + 1) {
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
