// The gated residual network over rows of vectors; src/ops/grn_fused.rs is the twin, and packs the parameters.
//
// The context is that of a row's sample. Where widths differ the skip is stretched row by row, where the twin multiplies
// by a matrix.
#include "grn_tile.cuh"
#include "stretch.cuh"

struct Grn {
    int n_in, hidden, n_out, first, first_bias;
    Tail tail;

    // A stretched skip's mask and norm lie in front of everything else.
    __device__ Grn(int n_in, int hidden, int n_out) : n_in(n_in), hidden(hidden), n_out(n_out) {
        first = n_in == n_out ? 0 : 3 * n_out;
        first_bias = first + hidden * n_in;
        tail = tail_at(first_bias + hidden, hidden, n_out, n_in == n_out ? -1 : n_out);
    }

    __device__ Stretch stretch() const { return {n_in, n_out}; }

    // u and the raw skip of a tile of rows, whose inputs are left in `x_tile`.
    __device__ void enter(
        const float* x, const float* context, const float* values, int first, int n, int per_sample, float* x_tile,
        GrnTile& tile) const {
        load_rows(x + (size_t)first * n_in, n_in, n, n_in, x_tile);
        product(values + this->first, n_in, hidden, n_in, x_tile, from_bias(values + first_bias), tile.first);
        if (context && lane() < n) {
            const float* own = context + (size_t)((first + lane()) / per_sample) * hidden;
            for (int i = warp(); i < hidden; i += WARPS) tile.first[i * STRIDE + lane()] += own[i];
        }
        if (tail.skip_norm >= 0)
            stretch_rows(stretch(), values, x_tile, tile.skip);
        else
            copy_tile(x_tile, n_out, tile.skip);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) grn_forward(
    const float* x, const float* context, const float* values, int n_rows, int per_sample, int n_in, int hidden,
    int n_out, const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale, float* spill, float* y) {
    Grn grn(n_in, hidden, n_out);
    Mask mask = mask_of(key_at, key, keep_below, scale);
    float* x_tile = workspace(shared_memory, spill, n_in * STRIDE + GrnTile::forward_len(hidden, n_out));
    GrnTile tile(x_tile + n_in * STRIDE, hidden, n_out);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        grn.enter(x, context, values, first, n, per_sample, x_tile, tile);
        // Forward only, the values of the gated layer are not needed any more once they are summed up.
        tile.forward(grn.tail, values, mask, first, tile.linear);
        store_rows(tile.linear, n, n_out, y + (size_t)first * n_out, n_out);
    }
}

// From dy to d_x, to the gradients of u (d_first, null without a context) and to parts of those of the parameters.
extern "C" __global__ void __launch_bounds__(THREADS) grn_backward(
    const float* x, const float* context, const float* values, const float* dy, int n_rows, int per_sample, int n_in,
    int hidden, int n_out, const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale, float* spill, int grads_at,
    float* parts, int n_values, float* d_x, float* d_first) {
    Grn grn(n_in, hidden, n_out);
    Mask mask = mask_of(key_at, key, keep_below, scale);
    float* x_tile = workspace(shared_memory, spill, 2 * n_in * STRIDE + GrnTile::backward_len(hidden, n_out));
    float* d_x_tile = x_tile + n_in * STRIDE;
    GrnTile tile(d_x_tile + n_in * STRIDE, hidden, n_out);
    Gradients grads(shared_memory, grads_at, parts, n_values);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int n = min(ROWS, n_rows - first);
        grn.enter(x, context, values, first, n, per_sample, x_tile, tile);
        tile.forward(grn.tail, values, mask, first, nullptr);
        load_rows(dy + (size_t)first * n_out, n_out, n, n_out, tile.d_y);
        tile.backward(grn.tail, values, mask, first, grads.own);
        outer(tile.d_first, hidden, x_tile, n_in, grads.own + grn.first, n_in);
        add_row_sums(tile.d_first, hidden, grads.own + grn.first_bias);
        if (d_first) store_rows(tile.d_first, n, hidden, d_first + (size_t)first * hidden, hidden);
        product_back(values + grn.first, n_in, n_in, hidden, tile.d_first, from_zero(), d_x_tile);
        if (n_in != n_out)
            stretch_backward(grn.stretch(), values, x_tile, tile.d_skip, d_x_tile, grads.own);
        else
            add_tile(tile.d_skip, n_in, d_x_tile);
        store_rows(d_x_tile, n, n_in, d_x + (size_t)first * n_in, n_in);
    }
    grads.finish();
}
