// A block's work on a tile of 32 rows, as src/ops/simd does it on the CPU.
//
// All threads of the block call these functions together. Each function ends with a barrier: what it wrote, the next one
// may read.
#pragma once

#include "product.cuh"

constexpr float EPSILON = 1e-5f;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// ---- randomness: src/ops/random.rs and dropout.rs, to the bit

__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

__device__ __forceinline__ uint64_t random_bits(uint64_t key, uint64_t index) {
    return mix(key + (index + 1) * 0x9E3779B97F4A7C15ull);
}

// A dropout mask; keep_below of 65536 keeps everything.
struct Mask {
    uint64_t key;
    unsigned keep_below;
    float scale;

    __device__ bool drops() const { return keep_below < 65536; }

    __device__ float factor(uint64_t row, int width, int feature) const {
        uint64_t n_hashes = (width + 3) / 4;
        uint64_t bits = random_bits(key, row * n_hashes + feature / 4);
        unsigned own = (unsigned)(bits >> (16 * (feature % 4))) & 0xFFFF;
        return own < keep_below ? scale : 0.0f;
    }
};

// The mask of a stream; or, if the step's key lies at key_at, of the site number `key` of that step. So launches need not
// know the step.
__device__ __forceinline__ Mask mask_of(const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale) {
    return {key_at ? mix(*key_at ^ mix(key + 0x9E3779B97F4A7C15ull)) : key, keep_below, scale};
}

// Multiplies a tile of `width` features by the mask's factors; its first row is `first_row` of all.
COLLECTIVE void drop(const Mask& mask, uint64_t first_row, int width, float* tile) {
    if (mask.drops()) {
        int n_groups = (width + 3) / 4;
        for (int group = warp(); group < n_groups; group += WARPS) {
            uint64_t bits = random_bits(mask.key, (first_row + lane()) * n_groups + group);
            for (int i = 4 * group; i < min(width, 4 * group + 4); i++) {
                unsigned own = (unsigned)(bits >> (16 * (i % 4))) & 0xFFFF;
                tile[i * STRIDE + lane()] *= own < mask.keep_below ? mask.scale : 0.0f;
            }
        }
    }
    __syncthreads();
}

// ---- rows and tiles

// `n` rows, `stride` numbers apart, into a tile; the rows that are missing are zero.
COLLECTIVE void load_rows(const float* rows, size_t stride, int n, int width, float* tile) {
    for (int at = threadIdx.x; at < ROWS * width; at += THREADS) {
        int row = at / width, i = at % width;
        tile[i * STRIDE + row] = row < n ? rows[row * stride + i] : 0.0f;
    }
    __syncthreads();
}

COLLECTIVE void store_rows(const float* tile, int n, int width, float* rows, size_t stride) {
    for (int at = threadIdx.x; at < n * width; at += THREADS) {
        int row = at / width, i = at % width;
        rows[row * stride + i] = tile[i * STRIDE + row];
    }
    __syncthreads();
}

COLLECTIVE void copy_tile(const float* from, int n, float* to) {
    for (int i = warp(); i < n; i += WARPS) to[i * STRIDE + lane()] = from[i * STRIDE + lane()];
    __syncthreads();
}

COLLECTIVE void clear(float* values, int n) {
    for (int at = threadIdx.x; at < n; at += THREADS) values[at] = 0.0f;
    __syncthreads();
}

// ---- sums over the rows of a tile, for gradients of weights; each number belongs to one thread, whatever the tile

// sums[i] += sum over the rows of a[i] * b[i * b_stride]; a null `b` counts as ones. With a `b_stride` of 0 all features
// are multiplied by the same one.
COLLECTIVE void add_row_dots(const float* a, const float* b, int b_stride, int n, float* sums) {
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float sum = 0.0f;
        for (int row = 0; row < ROWS; row++)
            sum = fmaf(a[i * STRIDE + row], b ? b[i * b_stride + row] : 1.0f, sum);
        sums[i] += sum;
    }
    __syncthreads();
}

__device__ __forceinline__ void add_row_sums(const float* a, int n, float* sums) {
    add_row_dots(a, nullptr, 0, n, sums);
}

// ---- what is done to each number

COLLECTIVE void add_tile(const float* x, int n, float* y) {
    for (int i = warp(); i < n; i += WARPS) y[i * STRIDE + lane()] += x[i * STRIDE + lane()];
    __syncthreads();
}

COLLECTIVE void elu(float* x, int n) {
    for (int i = warp(); i < n; i += WARPS) {
        float value = x[i * STRIDE + lane()];
        x[i * STRIDE + lane()] = value > 0.0f ? value : expm1f(value);
    }
    __syncthreads();
}

// Below zero the slope is e^x, that is y + 1.
COLLECTIVE void elu_backward(const float* y, float* dy, int n) {
    for (int i = warp(); i < n; i += WARPS) {
        float value = y[i * STRIDE + lane()];
        dy[i * STRIDE + lane()] *= value > 0.0f ? 1.0f : value + 1.0f;
    }
    __syncthreads();
}

// y = value * sigmoid(gate); the gates are replaced by their sigmoids.
COLLECTIVE void glu(float* linear, int n, float* y) {
    for (int i = warp(); i < n; i += WARPS) {
        int at = i * STRIDE + lane();
        float opened = sigmoid(linear[n * STRIDE + at]);
        linear[n * STRIDE + at] = opened;
        y[at] = linear[at] * opened;
    }
    __syncthreads();
}

// The gradients of values and gates in their place.
COLLECTIVE void glu_backward(const float* dy, float* linear, int n) {
    for (int i = warp(); i < n; i += WARPS) {
        int at = i * STRIDE + lane();
        float value = linear[at], opened = linear[n * STRIDE + at];
        float through = dy[at] * opened;
        linear[at] = through;
        linear[n * STRIDE + at] = through * value * (1.0f - opened);
    }
    __syncthreads();
}

// ---- what runs over the features of each row

// Leaves the normalised values in x and one over the deviation in `inverse`; y (null if nobody wants it) gets, or with
// `is_sum` is added, the weighted result.
COLLECTIVE void layer_norm(
    float* x, int n, const float* weight, const float* bias, float* inverse, float* y, bool is_sum) {
    float sum = 0.0f, squares = 0.0f;
    for (int i = 0; i < n; i++) sum += x[i * STRIDE + lane()];
    float mean = sum / n;
    for (int i = 0; i < n; i++) {
        float centred = x[i * STRIDE + lane()] - mean;
        squares = fmaf(centred, centred, squares);
    }
    float inverted = 1.0f / sqrtf(squares / n + EPSILON);
    __syncthreads();
    for (int i = warp(); i < n; i += WARPS) {
        int at = i * STRIDE + lane();
        float normal = (x[at] - mean) * inverted;
        x[at] = normal;
        if (y) y[at] = fmaf(normal, weight[i], bias[i]) + (is_sum ? y[at] : 0.0f);
    }
    if (warp() == 0) inverse[lane()] = inverted;
    __syncthreads();
}

// From dy to dx, which may be the same, and the gradients of weight and bias.
COLLECTIVE void layer_norm_backward(
    const float* dy, const float* normal, int n, const float* weight, const float* inverse, float* d_weight,
    float* d_bias, float* dx) {
    add_row_dots(dy, normal, STRIDE, n, d_weight);
    add_row_sums(dy, n, d_bias);
    float sum = 0.0f, dot = 0.0f;
    for (int i = 0; i < n; i++) {
        float slope = dy[i * STRIDE + lane()] * weight[i];
        sum += slope;
        dot = fmaf(slope, normal[i * STRIDE + lane()], dot);
    }
    float mean = sum / n, moment = dot / n;
    __syncthreads();
    for (int i = warp(); i < n; i += WARPS) {
        int at = i * STRIDE + lane();
        dx[at] = (dy[at] * weight[i] - mean - normal[at] * moment) * inverse[lane()];
    }
    __syncthreads();
}

// ---- where a block keeps things

// A block's working memory: shared if the launch gave any, else its part of `spill`.
__device__ __forceinline__ float* workspace(float* shared, float* spill, int length) {
    return spill ? spill + (size_t)blockIdx.y * gridDim.x * length + (size_t)blockIdx.x * length : shared;
}

// Where a block adds up its gradients: in shared memory if the launch made room there (`at` is not negative), else in
// its part of `parts`, [blocks, length]. `finish` leaves them in the parts either way.
struct Gradients {
    float* own;
    float* part;
    int length;

    __device__ Gradients(float* shared, int at, float* parts, int length)
        : part(parts + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * length), length(length) {
        own = at < 0 ? part : shared + at;
        clear(own, length);
    }

    __device__ void finish() {
        if (own != part)
            for (int i = threadIdx.x; i < length; i += THREADS) part[i] = own[i];
    }
};
