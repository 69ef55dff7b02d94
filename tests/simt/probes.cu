// The probes for a GPU: compiled by nvcc in CI, so that all of ptx.cuh is.
#include "probes.cuh"
