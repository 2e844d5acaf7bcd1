// Adds up what the blocks of another kernel left, in the order of the blocks.
#include "tile.cuh"

// The first `length` numbers of n_parts that lie `part_stride` apart -> to[(i / width) * stride + i % width].
extern "C" __global__ void __launch_bounds__(THREADS) sum_parts(
    const float* parts, int n_parts, int part_stride, int length, int width, int stride, float* to) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= length) return;
    float sum = 0.0f;
    for (int part = 0; part < n_parts; part++) sum += parts[(size_t)part * part_stride + i];
    to[(size_t)(i / width) * stride + i % width] = sum;
}

// rows [n_samples, per_sample, width] -> the sum over the rows of each sample, [n_samples, width].
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_samples(const float* rows, int n_samples, int per_sample, int width, float* to) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_samples * width) return;
    const float* own = rows + (size_t)(i / width) * per_sample * width + i % width;
    float sum = 0.0f;
    for (int row = 0; row < per_sample; row++) sum += own[(size_t)row * width];
    to[i] = sum;
}
