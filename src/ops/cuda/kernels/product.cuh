// Matrix products of tiles: forward and back through a layer, and for the gradients of its weights.
//
// This is the one place that multiplies matrices, and so the one that knows of a PRECISION: see tensor_core.cuh. All threads
// of the block call these functions together; each ends with a barrier.
#pragma once

#include "tensor_core.cuh"

// Features of the output that a warp works on at a time without tensor cores.
constexpr int GROUP = 4;

// What a product is added to: a bias per feature, what is there, or (neither) zero.
struct Init {
    const float* bias;
    bool is_output;
};
__device__ __forceinline__ Init from_bias(const float* bias) { return {bias, false}; }
__device__ __forceinline__ Init from_zero() { return {nullptr, false}; }
__device__ __forceinline__ Init from_output() { return {nullptr, true}; }

__device__ __forceinline__ bool is_aligned(const float* weights, int stride) {
    return (uintptr_t)weights % 16 == 0 && stride % 4 == 0;
}

__device__ __forceinline__ float start_of(const Init& init, int j, const float* y) {
    if (init.is_output) return y[j * STRIDE + lane()];
    return init.bias ? init.bias[j] : 0.0f;
}

// ---- the same on tensor cores: a warp takes 16 features and 16 rows, or 16 features and 16 others, at a time

// Whether a product goes there: where a matrix fills less than half a block, the plain loops are exact and no slower.
__device__ __forceinline__ bool takes_tensor_cores(int n_out, int n_in) {
    return PRECISION != FLOAT32 && n_out >= BLOCK / 2 && n_in >= BLOCK / 2;
}

// A matrix of weights, read along either axis: feature j of the output, feature k of the input at [j * out + k * in].
struct Matrix {
    const float* at;
    int out, in;

    // Features of the output from `first` on (those beyond the last are copies of it, which nobody reads), features of the
    // input from `deep` on (those beyond the last are zero).
    __device__ Slice slice(int first, int n_out, int deep, int n_in) const {
        Slice slice;
        int k = deep + 4 * (lane() % 4);
        bool at_once = in == 1 && is_aligned(at, out) && k + 4 <= n_in;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float* own = at + (size_t)min(first + lane() / 4 + 8 * h, n_out - 1) * out;
            float4 four = {0.0f, 0.0f, 0.0f, 0.0f};
            if (at_once) four = *(const float4*)(own + k);
            float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
                slice.at[h][i] = at_once || k + i >= n_in ? values[i] : own[(size_t)(k + i) * in];
        }
        return slice;
    }
};

// Rows of a tile in four groups of eight, such that eight of a group at four features, four apart, are 32 neighbours for
// the shared memory.
__device__ __forceinline__ int row_of(int group, int place) { return 16 * (place / 4) + place % 4 + 4 * group; }

// Rows of a tile as lines, the groups 2 * half and the next; features from `deep` on, beyond the last zero.
__device__ __forceinline__ Slice rows_slice(const float* tile, int half, int deep, int n) {
    Slice slice;
    int k = deep + 4 * (lane() % 4);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            slice.at[h][i] = k + i < n ? tile[(k + i) * STRIDE + row_of(2 * half + h, lane() / 4)] : 0.0f;
    return slice;
}

// Features of a tile as lines, from `first` on (those beyond the last are copies of it), half of the rows deep.
__device__ __forceinline__ Slice features_slice(const float* tile, int first, int n, int half) {
    Slice slice;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float* own = tile + min(first + lane() / 4 + 8 * h, n - 1) * STRIDE + 8 * (lane() % 4) + 4 * half;
#pragma unroll
        for (int i = 0; i < 4; i++) slice.at[h][i] = own[i];
    }
    return slice;
}

// Calls each(line of the first, line of the second, sum) for what a lane holds of a block of products.
template <class F>
__device__ __forceinline__ void for_sums(Sums& sums, F each) {
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int e = 0; e < 2; e++) each(lane() / 4 + 8 * h, 8 * j + 2 * (lane() % 4) + e, sums.at[j][h][e]);
}

COLLECTIVE void tensor_product(Matrix weights, int n_out, int n_in, const float* x, Init init, float* y) {
    int n_blocks = (n_out + BLOCK - 1) / BLOCK;
    for (int block = warp(); block < 2 * n_blocks; block += WARPS) {
        int first = BLOCK * (block / 2), half = block % 2;
        auto at = [&](int line, int other) {
            return (first + line) * STRIDE + row_of(2 * half + other / 8, other % 8);
        };
        Sums sums;
        for_sums(sums, [&](int line, int other, float& sum) {
            bool exists = first + line < n_out;
            if (init.is_output)
                sum = exists ? y[at(line, other)] : 0.0f;
            else
                sum = exists && init.bias ? init.bias[first + line] : 0.0f;
        });
        for (int deep = 0; deep < n_in; deep += BLOCK)
            multiply(weights.slice(first, n_out, deep, n_in), rows_slice(x, half, deep, n_in), sums);
        for_sums(sums, [&](int line, int other, float& sum) {
            if (first + line < n_out) y[at(line, other)] = sum;
        });
    }
    __syncthreads();
}

COLLECTIVE void tensor_outer(const float* d, int n_out, const float* x, int n_in, float* grads, int stride) {
    int n_rows = (n_out + BLOCK - 1) / BLOCK, n_blocks = (n_in + BLOCK - 1) / BLOCK;
    for (int block = warp(); block < n_rows * n_blocks; block += WARPS) {
        int first_out = BLOCK * (block / n_blocks), first_in = BLOCK * (block % n_blocks);
        Sums sums = {};
#pragma unroll
        for (int half = 0; half < 2; half++)
            multiply(features_slice(x, first_in, n_in, half), features_slice(d, first_out, n_out, half), sums);
        for_sums(sums, [&](int line, int other, float& sum) {
            int j = first_out + other, k = first_in + line;
            if (j < n_out && k < n_in) grads[(size_t)j * stride + k] += sum;
        });
    }
    __syncthreads();
}

// ---- what the rest calls

// y[j] = init + sum over k of weights[j * stride + k] * x[k]: rows of weights are features of the output.
COLLECTIVE void product(
    const float* weights, int stride, int n_out, int n_in, const float* x, Init init, float* y) {
    if (takes_tensor_cores(n_out, n_in)) return tensor_product({weights, stride, 1}, n_out, n_in, x, init, y);
    bool aligned = is_aligned(weights, stride);
    for (int first = GROUP * warp(); first < n_out; first += GROUP * WARPS) {
        const float* rows[GROUP];
        float sums[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            int j = min(first + i, n_out - 1);
            rows[i] = weights + (size_t)j * stride;
            sums[i] = start_of(init, j, y);
        }
        int k = 0;
        for (; aligned && k + 4 <= n_in; k += 4) {
            const float* at = x + k * STRIDE + lane();
            float x0 = at[0], x1 = at[STRIDE], x2 = at[2 * STRIDE], x3 = at[3 * STRIDE];
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                float4 w = *(const float4*)(rows[i] + k);
                sums[i] = fmaf(w.w, x3, fmaf(w.z, x2, fmaf(w.y, x1, fmaf(w.x, x0, sums[i]))));
            }
        }
        for (; k < n_in; k++) {
            float value = x[k * STRIDE + lane()];
#pragma unroll
            for (int i = 0; i < GROUP; i++) sums[i] = fmaf(rows[i][k], value, sums[i]);
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            if (first + i < n_out) y[(first + i) * STRIDE + lane()] = sums[i];
    }
    __syncthreads();
}

// y[k] = init + sum over j of weights[j * stride + k] * x[j]: the way back through the same weights.
COLLECTIVE void product_back(
    const float* weights, int stride, int n_out, int n_in, const float* x, Init init, float* y) {
    if (takes_tensor_cores(n_out, n_in)) return tensor_product({weights, 1, stride}, n_out, n_in, x, init, y);
    bool aligned = is_aligned(weights, stride);
    for (int first = GROUP * warp(); first < n_out; first += GROUP * WARPS) {
        float sums[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP; i++) sums[i] = start_of(init, min(first + i, n_out - 1), y);
        if (aligned && first + GROUP <= n_out) {
            for (int j = 0; j < n_in; j++) {
                float value = x[j * STRIDE + lane()];
                float4 w = *(const float4*)(weights + (size_t)j * stride + first);
                sums[0] = fmaf(w.x, value, sums[0]);
                sums[1] = fmaf(w.y, value, sums[1]);
                sums[2] = fmaf(w.z, value, sums[2]);
                sums[3] = fmaf(w.w, value, sums[3]);
            }
        } else {
            for (int j = 0; j < n_in; j++) {
                float value = x[j * STRIDE + lane()];
#pragma unroll
                for (int i = 0; i < GROUP; i++)
                    sums[i] = fmaf(weights[(size_t)j * stride + min(first + i, n_out - 1)], value, sums[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            if (first + i < n_out) y[(first + i) * STRIDE + lane()] = sums[i];
    }
    __syncthreads();
}

// grads[j * stride + k] += sum over the rows of d[j] * x[k].
COLLECTIVE void outer(const float* d, int n_out, const float* x, int n_in, float* grads, int stride) {
    if (takes_tensor_cores(n_out, n_in)) return tensor_outer(d, n_out, x, n_in, grads, stride);
    for (int first = GROUP * warp(); first < n_out; first += GROUP * WARPS) {
        const float* own[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP; i++) own[i] = d + min(first + i, n_out - 1) * STRIDE;
        for (int k = lane(); k < n_in; k += 32) {
            float sums[GROUP] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (int row = 0; row < ROWS; row++) {
                float value = x[k * STRIDE + row];
#pragma unroll
                for (int i = 0; i < GROUP; i++) sums[i] = fmaf(own[i][row], value, sums[i]);
            }
#pragma unroll
            for (int i = 0; i < GROUP; i++)
                if (first + i < n_out) grads[(size_t)(first + i) * stride + k] += sums[i];
        }
    }
    __syncthreads();
}
