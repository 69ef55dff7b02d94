#include "cluster.cuh"
#include "host.cuh"

namespace lf::micro {

namespace {

constexpr int kRounds = 2000;
constexpr size_t kMostShared = 200 << 10;  // one block to a multiprocessor, as weights fill it

// How many clusters of this launch run at once.
template <class P>
int co_resident(void (*kernel)(P), unsigned cluster, unsigned threads, size_t shared) {
  dev::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
             "shared memory");
  dev::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
             "cluster");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = 64 * cluster;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  dev::check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "occupancy");
  return clusters;
}

template <unsigned kCluster, unsigned kTileBytes>
void measure_exchange(const Gpu& gpu) {
  constexpr unsigned kThreads = 256;
  const auto kernel = cluster_exchange<kCluster, kTileBytes>;
  const std::string size =
      "." + std::to_string(kCluster) + "." + std::to_string(kTileBytes >> 10) + "KB";
  const auto measure = [&](const std::string& name, unsigned clusters, size_t shared) {
    const dev::Grid grid{
        .blocks = clusters * kCluster, .threads = kThreads, .shared = shared, .cluster = kCluster};
    const Samples samples = repeat<ClusterRounds>(gpu, kernel, grid, {.rounds = kRounds});
    put_time(name, samples, kRounds, {{"bytes", kTileBytes}, {"clusters", clusters}});
  };
  const std::string one = "cluster_exchange" + size, all = "cluster_exchange_all" + size;
  attempt(one, [&] { measure(one, 1, 2 * kTileBytes + 16); });
  attempt(all, [&] {
    const int clusters = co_resident(kernel, kCluster, kThreads, kMostShared);
    measure(all, unsigned(clusters), kMostShared);
  });
}

template <unsigned kCluster>
void measure_size(const Gpu& gpu) {
  const std::string size = "." + std::to_string(kCluster);
  attempt("co_resident_clusters" + size, [&] {
    const int clusters = co_resident(cluster_barrier, kCluster, 256, kMostShared);
    put("co_resident_clusters" + size, "clusters", {double(clusters)},
        {{"shared_bytes", double(kMostShared)}, {"blocks", double(clusters) * kCluster}});
  });
  attempt("cluster_barrier" + size, [&] {
    const dev::Grid grid{.blocks = kCluster, .threads = 256, .cluster = kCluster};
    const Samples samples = repeat<ClusterRounds>(gpu, cluster_barrier, grid, {.rounds = kRounds});
    put_time("cluster_barrier" + size, samples, kRounds, {{"threads", 256}});
  });
  attempt("cluster_round_trip" + size, [&] {
    const dev::Grid grid{.blocks = kCluster, .threads = 32, .shared = 32, .cluster = kCluster};
    const Samples samples =
        repeat<ClusterRounds>(gpu, cluster_round_trip<kCluster>, grid, {.rounds = kRounds});
    put_time("cluster_round_trip" + size, samples, kRounds, {{"bytes", 16}});
  });
  measure_exchange<kCluster, 4 << 10>(gpu);   // H 256, 8 rows of bfloat16
  measure_exchange<kCluster, 16 << 10>(gpu);  // H 512, 16 rows
}

}  // namespace

void measure_clusters(const Gpu& gpu) {
  measure_size<8>(gpu);
  measure_size<16>(gpu);
  measure_size<4>(gpu);
  measure_size<2>(gpu);
}

}  // namespace lf::micro
