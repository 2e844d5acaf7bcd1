// The gated residual network on one tile, behind its first layer; src/ops/grn_tile.rs is the twin.
//
//     y = LN(GLU(dropout(W2 ELU(u) + b2)) + skip)
//
// u and the raw skip come from whoever knows the inputs; the skip has a norm of its own where the block changes the width.
#pragma once

#include "tile.cuh"

// Sizes of a block, and where its parameters (and their gradients, in another buffer) lie.
struct Tail {
    int hidden, out;
    int second, gate, norm, skip_norm;  // weight, then bias; skip_norm is -1 without one

    __device__ int second_bias() const { return second + hidden * hidden; }
    __device__ int gate_bias() const { return gate + 2 * out * hidden; }
    __device__ int norm_bias() const { return norm + out; }
    __device__ int skip_norm_bias() const { return skip_norm + out; }
};

// The order in which blocks are packed, from `start` on.
__device__ __forceinline__ Tail tail_at(int start, int hidden, int out, int skip_norm) {
    int gate = start + hidden * hidden + hidden;
    int norm = gate + 2 * out * hidden + 2 * out;
    return {hidden, out, start, gate, norm, skip_norm};
}

// The tiles of a block; `first` and `skip` are filled by the caller.
struct GrnTile {
    float *first, *skip, *second, *linear, *sum, *skip_inverse, *inverse;
    // On the way back. `d_y` holds the gradient behind the block, then that of the sum.
    float *d_first, *d_skip, *d_second, *d_y;

    // Working memory in numbers, as machine.rs counts it.
    __device__ static int forward_len(int hidden, int out) { return (2 * hidden + 4 * out + 2) * STRIDE; }
    __device__ static int backward_len(int hidden, int out) {
        return forward_len(hidden, out) + (2 * hidden + 2 * out) * STRIDE;
    }

    __device__ GrnTile(float* memory, int hidden, int out) {
        first = memory;
        second = first + hidden * STRIDE;
        skip = second + hidden * STRIDE;
        linear = skip + out * STRIDE;
        sum = linear + 2 * out * STRIDE;
        skip_inverse = sum + out * STRIDE;
        inverse = skip_inverse + STRIDE;
        d_first = inverse + STRIDE;
        d_second = d_first + hidden * STRIDE;
        d_skip = d_second + hidden * STRIDE;
        d_y = d_skip + out * STRIDE;
    }

    // From `first` (u) and `skip` to y, which may be null where only the way back is wanted.
    __device__ __noinline__ void forward(
        const Tail& at, const float* values, const Mask& mask, uint64_t first_row, float* y) {
        int hidden = at.hidden, out = at.out;
        elu(first, hidden);
        product(values + at.second, hidden, hidden, hidden, first, from_bias(values + at.second_bias()), second);
        drop(mask, first_row, hidden, second);
        product(values + at.gate, hidden, 2 * out, hidden, second, from_bias(values + at.gate_bias()), linear);
        glu(linear, out, sum);
        if (at.skip_norm >= 0)
            layer_norm(
                skip, out, values + at.skip_norm, values + at.skip_norm_bias(), skip_inverse, sum, true);
        else
            add_tile(skip, out, sum);
        layer_norm(sum, out, values + at.norm, values + at.norm_bias(), inverse, y, false);
    }

    // From `d_y` to `d_first` and `d_skip`, after a forward of the same tile that kept `linear`.
    __device__ __noinline__ void backward(
        const Tail& at, const float* values, const Mask& mask, uint64_t first_row, float* grads) {
        int hidden = at.hidden, out = at.out;
        layer_norm_backward(
            d_y, sum, out, values + at.norm, inverse, grads + at.norm, grads + at.norm_bias(), d_y);
        if (at.skip_norm >= 0)
            layer_norm_backward(
                d_y, skip, out, values + at.skip_norm, skip_inverse, grads + at.skip_norm,
                grads + at.skip_norm_bias(), d_skip);
        else
            copy_tile(d_y, out, d_skip);
        glu_backward(d_y, linear, out);
        add_row_sums(linear, 2 * out, grads + at.gate_bias());
        outer(linear, 2 * out, second, hidden, grads + at.gate, hidden);
        product_back(values + at.gate, hidden, hidden, 2 * out, linear, from_zero(), d_second);
        drop(mask, first_row, hidden, d_second);
        add_row_sums(d_second, hidden, grads + at.second_bias());
        outer(d_second, hidden, first, hidden, grads + at.second, hidden);
        product_back(values + at.second, hidden, hidden, hidden, d_second, from_zero(), d_first);
        elu_backward(first, d_first, hidden);
    }
};
