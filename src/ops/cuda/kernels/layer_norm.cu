// Layer normalisation over rows; src/ops/layer_norm_fused.rs is the twin.
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_forward(
    const float* x, const float* weight, const float* bias, int n_rows, int width, float* spill, float* y) {
    float* tile = workspace(shared_memory, spill, (width + 1) * STRIDE);
    float* inverse = tile + width * STRIDE;
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        load_rows(x + (size_t)first * width, width, n, width, tile);
        layer_norm(tile, width, weight, bias, inverse, tile, false);
        store_rows(tile, n, width, y + (size_t)first * width, width);
    }
}

// Gradients of weight and bias in parts, one after the other.
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_back(
    const float* x, const float* weight, const float* dy, int n_rows, int width, float* spill, int grads_at,
    float* parts, float* d_x) {
    float* tile = workspace(shared_memory, spill, (2 * width + 1) * STRIDE);
    float* d_tile = tile + width * STRIDE;
    float* inverse = d_tile + width * STRIDE;
    Gradients grads(shared_memory, grads_at, parts, 2 * width);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        load_rows(x + (size_t)first * width, width, n, width, tile);
        load_rows(dy + (size_t)first * width, width, n, width, d_tile);
        layer_norm(tile, width, nullptr, nullptr, inverse, nullptr, false);
        layer_norm_backward(
            d_tile, tile, width, weight, inverse, grads.own, grads.own + width, d_tile);
        store_rows(d_tile, n, width, d_x + (size_t)first * width, width);
    }
    grads.finish();
}
