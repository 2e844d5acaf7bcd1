// How a block's threads and the numbers of a tile are laid out.
//
// A tile of n features lies feature by feature: row r of feature i at [i * STRIDE + r]. A lane is a row: the 32 threads
// of a warp read 32 neighbours, and weights are the same for all of them. The odd stride lets neighbouring threads read
// neighbouring features as well without waiting for each other.
#pragma once

#include "platform.cuh"

constexpr int ROWS = 32;
constexpr int STRIDE = ROWS + 1;
constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }
