// What kernels are written in. With nvcc that is CUDA; with another C++ compiler the emulation that the tests run.
//
// Kernels use blocks, threads and barriers, no atomics, and of warps nothing but the products of tensor_core.cuh: no shuffles,
// no votes. So a sum has one order on every machine, and the emulation leaves nothing out.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
// As much of it as a launch asks for.
extern __shared__ __align__(16) float shared_memory[];
#else
#include "../emulation/emulation.h"
#endif

// What all threads of a block call together: a call, because the driver compiles the PTX when a program first uses it, and
// with every call written out that takes twice as long.
#define COLLECTIVE static __device__ __noinline__
