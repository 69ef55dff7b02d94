// Memory with red zones.
#pragma once

#include <sanitizer/asan_interface.h>  // its macros do nothing without the sanitizer
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/types.h"

// Where tensors lie: at the end of their memory, where overruns meet a guard page, or at its begin.
// odd: what is given there begins one element further, so not with whole 16 bytes.
struct Place {
  bool end = false, odd = false;

  Place() = default;
  Place(bool end) : end(end) {}
  operator bool() const { return end; }
};

// n elements between two pages that nobody may touch, flush with one of them; what lies between
// them and the other page is poisoned for AddressSanitizer and checked for writes at the end. The
// pages see what AddressSanitizer cannot: vector instructions with masks, and code under emulators.
template <class T>
class Guarded {
 public:
  // Filled with NaN: all bits set.
  Guarded(int64_t n, bool end, int64_t align = sizeof(T), int64_t before = 0) : n_(n) {
    if (n == 0) return;
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = n * sizeof(T);
    inside_ = lf::ceil_div(before + bytes, page) * page;
    void* const all = mmap(nullptr, inside_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    begin_ = static_cast<char*>(all) + page;
    if (all == MAP_FAILED || mprotect(begin_, inside_, PROT_READ | PROT_WRITE) != 0) {
      std::perror("no memory");
      std::exit(1);
    }
    std::memset(begin_, 0xff, inside_);
    char* const first = begin_ + (end ? (inside_ - bytes) / align * align : before);
    data_ = reinterpret_cast<T*>(first);
    ASAN_POISON_MEMORY_REGION(begin_, first - begin_);
    ASAN_POISON_MEMORY_REGION(first + bytes, begin_ + inside_ - first - bytes);
  }
  // Filled with values that nobody may write to.
  template <class U>
  Guarded(const std::vector<U>& values, Place place)
      : Guarded(int64_t(values.size()), place.end, sizeof(T), place.odd * sizeof(T)) {
    std::copy(values.begin(), values.end(), data_);
    if (data_) mprotect(begin_, inside_, PROT_READ);
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() {
    if (!data_) return;
    ASAN_UNPOISON_MEMORY_REGION(begin_, inside_);
    const char* const first = reinterpret_cast<char*>(data_);
    if (!untouched(begin_, first) || !untouched(first + n_ * sizeof(T), begin_ + inside_)) {
      std::puts("something was written beside a tensor");
      std::exit(1);
    }
    const int64_t page = sysconf(_SC_PAGESIZE);
    munmap(begin_ - page, inside_ + 2 * page);
  }

  T* data() const { return data_; }
  int64_t size() const { return n_; }

 private:
  static bool untouched(const char* from, const char* to) {
    return std::all_of(from, to, [](char byte) { return byte == char(0xff); });
  }

  int64_t n_, inside_ = 0;
  char* begin_ = nullptr;
  T* data_ = nullptr;
};
