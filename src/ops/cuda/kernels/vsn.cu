// Variable selection with the embeddings multiplied out; src/ops/vsn is the twin, its `collapse` lays out the values.
//
// Forward, a block takes a tile of rows through all variables. Back, each variable has blocks of its own, which leave the
// gradients of its weight at every row; from those the joint network goes back.
#include "grn_tile.cuh"

// What is known of a variable, as vsn.rs writes it into a table.
struct Real {
    unsigned start, number, column, hidden, has_skip_norm, key_low, key_high;

    // Its values from `start` on: slope, offset, slope and offset of the skip, then the block behind the first layer.
    __device__ Tail tail(int out) const {
        Tail plain = tail_at(2 * hidden + 2 * out, hidden, out, -1);
        return tail_at(plain.second, hidden, out, has_skip_norm ? plain.norm + 2 * out : -1);
    }
    __device__ uint64_t key() const { return (uint64_t)key_high << 32 | key_low; }
};

// Its values from `start` on, and in the gradients of the joint network from `scattered` on: see the tables below. A row of
// its values belongs to a code, or (by_step) to a step.
struct Categorical {
    unsigned start, number, column, n_codes, by_step, scattered;
};

struct Vsn {
    const float* reals;
    const unsigned* codes;
    const float* context;  // [groups, joint hidden]
    const float* values;
    const unsigned* table;
    int n_rows, per_group, n_columns, n_code_columns, n_reals, n_categoricals;
    int out, joint_hidden, joint_start, joint_has_skip_norm;
    const uint64_t* key_at;
    uint64_t joint_key;
    unsigned keep_below;
    float scale;

    __device__ int n() const { return n_reals + n_categoricals; }
    __device__ const Real& real(int r) const { return ((const Real*)table)[r]; }
    __device__ const Categorical& categorical(int c) const { return ((const Categorical*)(&real(n_reals)))[c]; }
    __device__ Mask mask(uint64_t key) const { return mask_of(key_at, key, keep_below, scale); }

    // The joint network's values from joint_start on.
    __device__ const float* joint() const { return values + joint_start; }
    __device__ int offset() const { return joint_hidden * n_reals; }
    __device__ int skip_slopes() const { return offset() + joint_hidden; }
    __device__ int skip_offset() const { return skip_slopes() + n() * n_reals; }
    __device__ Tail joint_tail() const {
        Tail plain = tail_at(skip_offset() + n(), joint_hidden, n(), -1);
        return tail_at(plain.second, joint_hidden, n(), joint_has_skip_norm ? plain.norm + 2 * n() : -1);
    }

    // Which row of a categorical's values belongs to a row; 0 behind the last one, and for a code beyond the table.
    __device__ unsigned code(const Categorical& variable, int row) const {
        if (row >= n_rows) return 0;
        if (variable.by_step) return row;
        unsigned own = codes[(size_t)row * n_code_columns + variable.column];
        return own < variable.n_codes ? own : 0;
    }

    // Whether a row has a code beyond its table. Nobody can tell on the host without waiting, so such a row is no number.
    __device__ bool is_unknown(const Categorical& variable, int row) const {
        return row < n_rows && !variable.by_step &&
               codes[(size_t)row * n_code_columns + variable.column] >= variable.n_codes;
    }

    // The reals of a tile, in the order of the variables.
    __device__ void load_reals(int first, float* x) const {
        for (int at = threadIdx.x; at < ROWS * n_reals; at += THREADS) {
            int row = first + at / n_reals, r = at % n_reals;
            x[r * STRIDE + at / n_reals] = row < n_rows ? reals[(size_t)row * n_columns + real(r).column] : 0.0f;
        }
        __syncthreads();
    }

    // The joint network's u and raw skip.
    __device__ void enter_joint(int first, const float* x, GrnTile& tile) const {
        product(joint(), n_reals, joint_hidden, n_reals, x, from_bias(joint() + offset()), tile.first);
        product(joint() + skip_slopes(), n_reals, n(), n_reals, x, from_bias(joint() + skip_offset()), tile.skip);
        int row = first + lane();
        const float* own = context + (size_t)(min(row, n_rows - 1) / per_group) * joint_hidden;
        for (int i = warp(); i < joint_hidden; i += WARPS) {
            float sum = tile.first[i * STRIDE + lane()] + own[i];
            for (int c = 0; c < n_categoricals; c++) {
                const float* rows = values + categorical(c).start + categorical(c).n_codes * out;
                sum += is_unknown(categorical(c), row) ? NAN : rows[code(categorical(c), row) * joint_hidden + i];
            }
            tile.first[i * STRIDE + lane()] = sum;
        }
        for (int i = warp(); i < n(); i += WARPS) {
            float sum = tile.skip[i * STRIDE + lane()];
            for (int c = 0; c < n_categoricals; c++) {
                const float* rows = values + categorical(c).start + categorical(c).n_codes * (out + joint_hidden);
                sum += rows[code(categorical(c), row) * n() + i];
            }
            tile.skip[i * STRIDE + lane()] = sum;
        }
        __syncthreads();
    }

    // A real variable's u and raw skip, of its column x.
    __device__ void enter_real(const Real& variable, const float* x, GrnTile& tile) const {
        const float* own = values + variable.start;
        int hidden = variable.hidden;
        product(own, 1, hidden, 1, x, from_bias(own + hidden), tile.first);
        product(own + 2 * hidden, 1, out, 1, x, from_bias(own + 2 * hidden + out), tile.skip);
    }
};

COLLECTIVE void softmax(float* x, int n) {
    float largest = x[lane()], sum = 0.0f;
    for (int i = 1; i < n; i++) largest = fmaxf(largest, x[i * STRIDE + lane()]);
    for (int i = 0; i < n; i++) sum += expf(x[i * STRIDE + lane()] - largest);
    __syncthreads();
    for (int i = warp(); i < n; i += WARPS)
        x[i * STRIDE + lane()] = expf(x[i * STRIDE + lane()] - largest) / sum;
    __syncthreads();
}

// From dy in place to the gradient in front of a softmax that put out y.
COLLECTIVE void softmax_backward(const float* y, float* dy, int n) {
    float mean = 0.0f;
    for (int i = 0; i < n; i++) mean = fmaf(y[i * STRIDE + lane()], dy[i * STRIDE + lane()], mean);
    __syncthreads();
    for (int i = warp(); i < n; i += WARPS)
        dy[i * STRIDE + lane()] = y[i * STRIDE + lane()] * (dy[i * STRIDE + lane()] - mean);
    __syncthreads();
}

// y += x * share, a share per row.
COLLECTIVE void add_shared(const float* x, const float* share, int n, float* y) {
    for (int i = warp(); i < n; i += WARPS)
        y[i * STRIDE + lane()] = fmaf(x[i * STRIDE + lane()], share[lane()], y[i * STRIDE + lane()]);
    __syncthreads();
}

// Adds each row of a tile of `width` features to the row of its code in `rows`: a feature's sums are one thread's.
COLLECTIVE void scatter(
    const Vsn& vsn, const Categorical& variable, int first, int n, const float* tile, int width, float* rows) {
    for (int i = threadIdx.x; i < width; i += THREADS)
        for (int row = 0; row < n; row++)
            rows[(size_t)vsn.code(variable, first + row) * width + i] += tile[i * STRIDE + row];
    __syncthreads();
}

// What all kernels of a selection begin with.
#define VSN_PARAMETERS                                                                                              \
    const float *reals, const unsigned *codes, const float *context, const float *values, const unsigned *table,   \
        int n_rows, int per_group, int n_columns, int n_code_columns, int n_reals, int n_categoricals, int out,    \
        int joint_hidden, int joint_start, int joint_has_skip_norm, const uint64_t *key_at, uint64_t joint_key,     \
        unsigned keep_below, float scale, float *spill
#define VSN                                                                                                         \
    { reals, codes, context, values, table, n_rows, per_group, n_columns, n_code_columns, n_reals, n_categoricals, \
      out, joint_hidden, joint_start, joint_has_skip_norm, key_at, joint_key, keep_below, scale }

// The selection [rows, out] and the weights [rows, n]. `widest`: the most hidden features of a variable's network.
extern "C" __global__ void __launch_bounds__(THREADS)
    vsn_forward(VSN_PARAMETERS, int widest, float* selected, float* shares) {
    Vsn vsn = VSN;
    int n = vsn.n(), networks = max(GrnTile::forward_len(joint_hidden, n), GrnTile::forward_len(widest, out));
    float* x = workspace(shared_memory, spill, (n_reals + n + out) * STRIDE + networks);
    float* share_tile = x + n_reals * STRIDE;
    float* sums = share_tile + n * STRIDE;
    GrnTile joint(sums + out * STRIDE, joint_hidden, n);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int here = min(ROWS, n_rows - first);
        vsn.load_reals(first, x);
        vsn.enter_joint(first, x, joint);
        joint.forward(vsn.joint_tail(), vsn.joint(), vsn.mask(joint_key), first, share_tile);
        softmax(share_tile, n);
        store_rows(share_tile, here, n, shares + (size_t)first * n, n);
        clear(sums, out * STRIDE);
        for (int c = 0; c < n_categoricals; c++) {
            const Categorical& variable = vsn.categorical(c);
            const float* row = values + variable.start + (size_t)vsn.code(variable, first + lane()) * out;
            float share = share_tile[variable.number * STRIDE + lane()];
            for (int i = warp(); i < out; i += WARPS)
                sums[i * STRIDE + lane()] = fmaf(row[i], share, sums[i * STRIDE + lane()]);
            __syncthreads();
        }
        for (int r = 0; r < n_reals; r++) {
            const Real& variable = vsn.real(r);
            GrnTile tile(sums + out * STRIDE, variable.hidden, out);
            vsn.enter_real(variable, x + r * STRIDE, tile);
            tile.forward(
                variable.tail(out), values + variable.start, vsn.mask(variable.key()), first, tile.linear);
            add_shared(tile.linear, share_tile + variable.number * STRIDE, out, sums);
        }
        store_rows(sums, here, out, selected + (size_t)first * out, out);
    }
}

// Blocks: (tiles, real variable). The gradients of its weight at every row, in d_shares [rows, n], and in parts those of
// its values.
extern "C" __global__ void __launch_bounds__(THREADS) vsn_backward_reals(
    VSN_PARAMETERS, int widest, const float* shares, const float* d_selected, int grads_at, float* parts,
    int grads_len, float* d_shares) {
    Vsn vsn = VSN;
    const Real& variable = vsn.real(blockIdx.y);
    int n = vsn.n(), hidden = variable.hidden;
    float* x = workspace(shared_memory, spill, (2 + 2 * out) * STRIDE + GrnTile::backward_len(widest, out));
    float* share = x + STRIDE;
    float* d_tile = share + STRIDE;
    float* vector = d_tile + out * STRIDE;
    GrnTile tile(vector + out * STRIDE, hidden, out);
    Gradients grads(shared_memory, grads_at, parts, grads_len);
    Mask mask = vsn.mask(variable.key());
    Tail tail = variable.tail(out);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int here = min(ROWS, n_rows - first);
        load_rows(reals + (size_t)first * n_columns + variable.column, n_columns, here, 1, x);
        load_rows(shares + (size_t)first * n + variable.number, n, here, 1, share);
        load_rows(d_selected + (size_t)first * out, out, here, out, d_tile);
        vsn.enter_real(variable, x, tile);
        tile.forward(tail, values + variable.start, mask, first, vector);
        if (warp() == 0 && lane() < here) {
            float sum = 0.0f;
            for (int i = 0; i < out; i++)
                sum = fmaf(d_tile[i * STRIDE + lane()], vector[i * STRIDE + lane()], sum);
            d_shares[(size_t)(first + lane()) * n + variable.number] = sum;
        }
        for (int i = warp(); i < out; i += WARPS)
            tile.d_y[i * STRIDE + lane()] = d_tile[i * STRIDE + lane()] * share[lane()];
        __syncthreads();
        tile.backward(tail, values + variable.start, mask, first, grads.own);
        add_row_dots(tile.d_first, x, 0, hidden, grads.own);
        add_row_sums(tile.d_first, hidden, grads.own + hidden);
        add_row_dots(tile.d_skip, x, 0, out, grads.own + 2 * hidden);
        add_row_sums(tile.d_skip, out, grads.own + 2 * hidden + out);
    }
    grads.finish();
}

// Blocks: (tiles, categorical variable). As for the reals; its values are the processed vector of each code.
extern "C" __global__ void __launch_bounds__(THREADS) vsn_backward_categoricals(
    VSN_PARAMETERS, const float* shares, const float* d_selected, int grads_at, float* parts, int grads_len,
    float* d_shares) {
    Vsn vsn = VSN;
    const Categorical& variable = vsn.categorical(blockIdx.y);
    int n = vsn.n();
    float* share = workspace(shared_memory, spill, (1 + out) * STRIDE);
    float* d_tile = share + STRIDE;
    Gradients grads(shared_memory, grads_at, parts, grads_len);
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int here = min(ROWS, n_rows - first);
        load_rows(shares + (size_t)first * n + variable.number, n, here, 1, share);
        load_rows(d_selected + (size_t)first * out, out, here, out, d_tile);
        if (warp() == 0 && lane() < here) {
            const float* vector = values + variable.start + (size_t)vsn.code(variable, first + lane()) * out;
            float sum = 0.0f;
            for (int i = 0; i < out; i++) sum = fmaf(d_tile[i * STRIDE + lane()], vector[i], sum);
            d_shares[(size_t)(first + lane()) * n + variable.number] = sum;
        }
        __syncthreads();
        for (int i = warp(); i < out; i += WARPS) d_tile[i * STRIDE + lane()] *= share[lane()];
        __syncthreads();
        scatter(vsn, variable, first, here, d_tile, out, grads.own);
    }
    grads.finish();
}

// The joint network back, from the gradients of the weights: parts of those of its values, followed by, per categorical,
// those of its codes' shares in the first layer and in the skip; and the gradients of u, [rows, joint hidden].
extern "C" __global__ void __launch_bounds__(THREADS) vsn_backward_joint(
    VSN_PARAMETERS, const float* d_shares, int grads_at, float* parts, int grads_len, float* d_first) {
    Vsn vsn = VSN;
    int n = vsn.n();
    float* x = workspace(shared_memory, spill, (n_reals + n) * STRIDE + GrnTile::backward_len(joint_hidden, n));
    float* share_tile = x + n_reals * STRIDE;
    GrnTile tile(share_tile + n * STRIDE, joint_hidden, n);
    Gradients grads(shared_memory, grads_at, parts, grads_len);
    Mask mask = vsn.mask(joint_key);
    Tail tail = vsn.joint_tail();
    for (int first = ROWS * blockIdx.x; first < n_rows; first += ROWS * gridDim.x) {
        int here = min(ROWS, n_rows - first);
        vsn.load_reals(first, x);
        vsn.enter_joint(first, x, tile);
        tile.forward(tail, vsn.joint(), mask, first, share_tile);
        softmax(share_tile, n);
        load_rows(d_shares + (size_t)first * n, n, here, n, tile.d_y);
        softmax_backward(share_tile, tile.d_y, n);
        tile.backward(tail, vsn.joint(), mask, first, grads.own);
        outer(tile.d_first, joint_hidden, x, n_reals, grads.own, n_reals);
        add_row_sums(tile.d_first, joint_hidden, grads.own + vsn.offset());
        outer(tile.d_skip, n, x, n_reals, grads.own + vsn.skip_slopes(), n_reals);
        add_row_sums(tile.d_skip, n, grads.own + vsn.skip_offset());
        for (int c = 0; c < n_categoricals; c++) {
            const Categorical& variable = vsn.categorical(c);
            float* rows = grads.own + variable.scattered;
            scatter(vsn, variable, first, here, tile.d_first, joint_hidden, rows);
            scatter(vsn, variable, first, here, tile.d_skip, n, rows + (size_t)variable.n_codes * joint_hidden);
        }
        store_rows(tile.d_first, here, joint_hidden, d_first + (size_t)first * joint_hidden, joint_hidden);
    }
    grads.finish();
}
#undef VSN_PARAMETERS
#undef VSN
