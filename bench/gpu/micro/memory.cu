#include "host.cuh"
#include "memory.cuh"

namespace lf::micro {

namespace {

// warm: every walk takes the whole chain, as the one before it did. Cold: it goes on where the last
// one ended, where nobody has been.
void measure_chain(const Gpu& gpu, const std::string& name, uint32_t count, uint32_t pitch_bytes,
                   bool warm) {
  constexpr int kHops = 4096;
  const Memory nodes(size_t(count) * pitch_bytes);
  const Chain chain{nodes.at<uint32_t>(), count, pitch_bytes / 4};
  dev::launch(gpu.context, {unsigned(4 * gpu.multiprocessors), 256}, link, chain);
  uint32_t start = 0;
  const Samples samples = repeat<Chase>(
      gpu, chase, {1, 1}, {.chain = chain, .start = 0, .hops = kHops}, [&](Chase& p, int) {
        p.start = start;
        for (int hop = 0; !warm && hop < kHops; ++hop) start = Chain::next(start, count);
      });
  put_time(name, samples, kHops, {{"bytes", double(count) * pitch_bytes}});
}

}  // namespace

void measure_memory(const Gpu& gpu) {
  // 512 KB, which L2 holds and the kernel's first walk brings there.
  attempt("latency.l2", [&] { measure_chain(gpu, "latency.l2", 4096, 128, true); });
  // 1 GB, of which an L2 of 50 MB holds a twentieth.
  attempt("latency.hbm", [&] { measure_chain(gpu, "latency.hbm", 1 << 22, 256, false); });
}

}  // namespace lf::micro
