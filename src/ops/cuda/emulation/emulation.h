// Just enough of CUDA for the kernels of this folder's neighbour, in plain C++: every thread of a block is a fiber, a
// barrier switches to the next fiber, blocks run one after another. Of what lanes of a warp do together there is what
// tensor_core.h has.
//
// Between two barriers fibers run in an order that the caller chooses. A kernel whose threads race gives different
// results in different orders, which the tests look for.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)

struct Dim {
    unsigned x, y;
};
// Aligned as a GPU wants it: the sanitizer sees a load that is not.
struct alignas(16) float4 {
    float x, y, z, w;
};
extern Dim threadIdx, blockIdx, blockDim, gridDim;
extern float* shared_memory;

void __syncthreads();

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
