// Dropout by itself, forward and back alike; src/ops/dropout.rs is the twin, to the bit.
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    dropout(const float* x, int n, int width, const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale, float* y) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    Mask mask = mask_of(key_at, key, keep_below, scale);
    if (i < n) y[i] = x[i] * mask.factor(i / width, width, i % width);
}
