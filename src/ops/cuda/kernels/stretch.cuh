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

    // Calls each(i, weight) for the outputs that input k counts in.
    template <class F>
    __device__ void for_outputs(int k, F each) const {
        // Those that lie within one of it; a margin on either side for rounding.
        float step = ratio();
        int first = step > 0.0f ? max(0, (int)((k - 1) / step) - 1) : 0;
        int last = step > 0.0f ? min(to - 1, (int)((k + 1) / step) + 2) : to - 1;
        for (int i = first; i <= last; i++) {
            float share;
            int at = below(i, &share);
            float weight = (at == k ? 1.0f - share : 0.0f) + (above(at) == k ? share : 0.0f);
            if (weight != 0.0f) each(i, weight);
        }
    }
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
    for (int k = warp(); k < stretch.from; k += WARPS) {
        float sum = dx[k * STRIDE + lane()];
        stretch.for_outputs(k, [&](int i, float weight) {
            sum = fmaf(weight * gate_of(mask[i]), dy[i * STRIDE + lane()], sum);
        });
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
