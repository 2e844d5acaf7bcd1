// The gated skip connection, LN(GLU(dropout(x)) + skip); src/ops/gate_fused.rs is the twin, and packs the parameters.
#include "tile.cuh"

// The tiles of a block: what both ways need, then what the way back needs.
struct GateTile {
    float *x, *linear, *sum, *inverse, *d_y, *d_x;

    __device__ static int len(int n_in, int n_out) { return (2 * n_in + 4 * n_out + 1) * STRIDE; }

    __device__ GateTile(float* memory, int n_in, int n_out) {
        x = memory;
        linear = x + n_in * STRIDE;
        sum = linear + 2 * n_out * STRIDE;
        inverse = sum + n_out * STRIDE;
        d_y = inverse + STRIDE;
        d_x = d_y + n_out * STRIDE;
    }

    // Leaves the result in `y`, if that is not null; the skip passes through `d_y`.
    __device__ void forward(
        const float* all_x, const float* all_skip, const float* values, const Mask& mask, int first, int n, int n_in,
        int n_out, float* y) {
        const float* norm = values + 2 * n_out * n_in + 2 * n_out;
        load_rows(all_x + (size_t)first * n_in, n_in, n, n_in, x);
        load_rows(all_skip + (size_t)first * n_out, n_out, n, n_out, d_y);
        drop(mask, first, n_in, x);
        product(values, n_in, 2 * n_out, n_in, x, from_bias(values + 2 * n_out * n_in), linear);
        glu(linear, n_out, sum);
        add_tile(d_y, n_out, sum);
        layer_norm(sum, n_out, norm, norm + n_out, inverse, y, false);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) gate_forward(
    const float* x, const float* skip, const float* values, int n_rows, int n_in, int n_out, const uint64_t* key_at, uint64_t key,
    unsigned keep_below, float scale, float* spill, float* y) {
    Mask mask = mask_of(key_at, key, keep_below, scale);
    GateTile tile(workspace(shared_memory, spill, GateTile::len(n_in, n_out)), n_in, n_out);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        tile.forward(x, skip, values, mask, first, n, n_in, n_out, tile.linear);
        store_rows(tile.linear, n, n_out, y + (size_t)first * n_out, n_out);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) gate_backward(
    const float* x, const float* skip, const float* values, const float* dy, int n_rows, int n_in, int n_out,
    const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale, float* spill, int grads_at, float* parts, float* d_x,
    float* d_skip) {
    Mask mask = mask_of(key_at, key, keep_below, scale);
    GateTile tile(workspace(shared_memory, spill, GateTile::len(n_in, n_out)), n_in, n_out);
    int bias = 2 * n_out * n_in, norm = bias + 2 * n_out;
    Gradients grads(shared_memory, grads_at, parts, norm + 2 * n_out);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        tile.forward(x, skip, values, mask, first, n, n_in, n_out, nullptr);
        load_rows(dy + (size_t)first * n_out, n_out, n, n_out, tile.d_y);
        layer_norm_backward(
            tile.d_y, tile.sum, n_out, values + norm, tile.inverse, grads.own + norm, grads.own + norm + n_out,
            tile.d_y);
        store_rows(tile.d_y, n, n_out, d_skip + (size_t)first * n_out, n_out);
        glu_backward(tile.d_y, tile.linear, n_out);
        outer(tile.linear, 2 * n_out, tile.x, n_in, grads.own, n_in);
        add_row_sums(tile.linear, 2 * n_out, grads.own + bias);
        product_back(values, n_in, n_in, 2 * n_out, tile.linear, from_zero(), tile.d_x);
        drop(mask, first, n_in, tile.d_x);
        store_rows(tile.d_x, n, n_in, d_x + (size_t)first * n_in, n_in);
    }
    grads.finish();
}
