// Linear layers over rows, and their way back; src/ops/linear_fused.rs is the twin.
//
// A row of a tensor may stand among others: strides say how far apart rows lie. `lengths` (null: all rows count) has the
// steps of each sample; what stands at later steps of its n_steps is not looked at.
#include "tile.cuh"

// Outputs that are worked on at a time. A last few, fewer than go to the tensor cores, are multiplied as they are.
constexpr int CHUNK = 64;

__device__ __forceinline__ bool is_live(const unsigned* lengths, int n_steps, int row) {
    return !lengths || row % n_steps < (int)lengths[row / n_steps];
}

// x [n_rows, n_in] through weight [n_out, n_in] (rows `weight_stride` apart) and bias (or null).
extern "C" __global__ void __launch_bounds__(THREADS) linear_forward(
    const float* x, const float* weight, int weight_stride, const float* bias, int n_rows, int n_in, int n_out,
    float* spill, float* y, int y_stride) {
    float* x_tile = workspace(shared_memory, spill, (n_in + CHUNK) * STRIDE);
    float* y_tile = x_tile + n_in * STRIDE;
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        load_rows(x + (size_t)first * n_in, n_in, n, n_in, x_tile);
        for (int chunk = 0; chunk < n_out; chunk += CHUNK) {
            int width = min(CHUNK, n_out - chunk);
            Init init = bias ? from_bias(bias + chunk) : from_zero();
            product(weight + (size_t)chunk * weight_stride, weight_stride, width, n_in, x_tile, init, y_tile);
            store_rows(y_tile, n, width, y + (size_t)first * y_stride + chunk, y_stride);
        }
    }
}

// From the gradient behind the layer to those of x (unless d_x is null), weight [n_out, n_in] and bias, the last two in
// parts of one length, one per block.
extern "C" __global__ void __launch_bounds__(THREADS) linear_backward(
    const float* x, int x_stride, const float* weight, int weight_stride, const float* dy, int dy_stride, int n_rows,
    int n_in, int n_out, const unsigned* lengths, int n_steps, float* spill, int grads_at, float* parts, float* d_x) {
    float* x_tile = workspace(shared_memory, spill, (n_in + n_out) * STRIDE);
    float* dy_tile = x_tile + n_in * STRIDE;
    Gradients grads(shared_memory, grads_at, parts, n_out * n_in + n_out);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        load_rows(dy + (size_t)first * dy_stride, dy_stride, n, n_out, dy_tile);
        for (int at = threadIdx.x; at < ROWS * n_in; at += THREADS) {
            int row = at / n_in, k = at % n_in;
            bool counts = row < n && is_live(lengths, n_steps, first + row);
            x_tile[k * STRIDE + row] = counts ? x[(size_t)(first + row) * x_stride + k] : 0.0f;
        }
        __syncthreads();
        outer(dy_tile, n_out, x_tile, n_in, grads.own, n_in);
        add_row_sums(dy_tile, n_out, grads.own + n_out * n_in);
        if (d_x) {
            product_back(weight, weight_stride, n_in, n_out, dy_tile, from_zero(), x_tile);
            store_rows(x_tile, n, n_in, d_x + (size_t)first * n_in, n_in);
        }
    }
    grads.finish();
}
