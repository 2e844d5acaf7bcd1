// Adds up what the blocks of another kernel left, in the order of the blocks.
#include "tile.cuh"

// Numbers that lie together: the first of all that are asked for, where it lies in the first part, and where its sum goes.
struct SumStretch {
    unsigned start, from, to;
};

// The sums over n_parts, part_stride apart, of n numbers in stretches.
extern "C" __global__ void __launch_bounds__(THREADS) sum_parts(
    const float* parts, int n_parts, int part_stride, const unsigned* table, int n_stretches, int n, float* to) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const SumStretch* stretch = (const SumStretch*)table;
    for (int next = 1; next < n_stretches && stretch[1].start <= (unsigned)i; next++) stretch++;
    const float* own = parts + stretch->from + (i - stretch->start);
    float sum = 0.0f;
    for (int part = 0; part < n_parts; part++) sum += own[(size_t)part * part_stride];
    to[stretch->to + (i - stretch->start)] = sum;
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
