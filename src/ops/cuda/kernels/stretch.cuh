// Linear interpolation of features, end points kept; src/ops/stretch.rs is the twin.
#pragma once

#include "tile.cuh"

struct Stretch {
    int from, to;

    __device__ float ratio() const { return to > 1 ? (float)(from - 1) / (float)(to - 1) : 0.0f; }

    // The input at or before output i; `share` belongs to the one behind it, the rest to this one.
    __device__ int below(int i, float* share) const {
        float position = i * ratio();
        int at = min((int)position, from - 1);
        *share = position - at;
        return at;
    }

    __device__ int above(int below) const { return min(below + 1, from - 1); }
};

__device__ __forceinline__ float gate_of(float mask) { return 2.0f * sigmoid(mask); }

// y[i] = gate(mask[i]) * (x interpolated at i).
COLLECTIVE void stretch_rows(const Stretch& stretch, const float* mask, const float* x, float* y) {
    for (int i = warp(); i < stretch.to; i += WARPS) {
        float share;
        int at = stretch.below(i, &share);
        float between = fmaf(
            share, x[stretch.above(at) * STRIDE + lane()], (1.0f - share) * x[at * STRIDE + lane()]);
        y[i * STRIDE + lane()] = gate_of(mask[i]) * between;
    }
    __syncthreads();
}

// From the gradient behind to that of x, added to dx, and of the mask.
COLLECTIVE void stretch_backward(
    const Stretch& stretch, const float* mask, const float* x, const float* dy, float* dx, float* d_mask) {
    // Each input looks for the outputs that lie within one of it; a margin on either side for rounding.
    float ratio = stretch.ratio();
    for (int k = warp(); k < stretch.from; k += WARPS) {
        int first = ratio > 0.0f ? max(0, (int)((k - 1) / ratio) - 1) : 0;
        int last = ratio > 0.0f ? min(stretch.to - 1, (int)((k + 1) / ratio) + 2) : stretch.to - 1;
        float sum = dx[k * STRIDE + lane()];
        for (int i = first; i <= last; i++) {
            float share;
            int at = stretch.below(i, &share);
            float weight = (at == k ? 1.0f - share : 0.0f) + (stretch.above(at) == k ? share : 0.0f);
            if (weight != 0.0f) sum = fmaf(weight * gate_of(mask[i]), dy[i * STRIDE + lane()], sum);
        }
        dx[k * STRIDE + lane()] = sum;
    }
    for (int i = threadIdx.x; i < stretch.to; i += THREADS) {
        float share, sum = 0.0f;
        int at = stretch.below(i, &share), next = stretch.above(at);
        for (int row = 0; row < ROWS; row++) {
            float between = fmaf(share, x[next * STRIDE + row], (1.0f - share) * x[at * STRIDE + row]);
            sum = fmaf(between, dy[i * STRIDE + row], sum);
        }
        float opened = sigmoid(mask[i]);
        d_mask[i] += sum * 2.0f * opened * (1.0f - opened);
    }
    __syncthreads();
}
