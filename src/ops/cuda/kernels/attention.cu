// The core of interpretable multi-head attention; src/ops/attention_fused.rs is the twin and says what is kept.
//
// A lane is a query (a key, where the gradients of keys are made) and holds its vectors in registers; the warps of a
// block share out what it looks at, and what they found is put together in their order. Scores are in powers of two.
//
// D is the width of a head, rounded up to what there is a kernel for.
#include <float.h>

#include "tile.cuh"

constexpr int SHARES = 4;
constexpr float LN_2 = 0.6931471805599453f;

// What does not change from query to query. Lengths are null where all samples see everything; without lengths of the
// future a query sees the steps before its own.
struct Attention {
    const unsigned* history_lengths;
    const unsigned* future_lengths;
    int history, horizon, n_heads, width;
    float scale, fill;

    __device__ int n_keys() const { return history + horizon; }
    __device__ int joined() const { return n_heads * width; }

    __device__ bool is_hidden(int sample, int query, int key) const {
        if (key < history) return history_lengths && key >= (int)history_lengths[sample];
        return key - history >= (future_lengths ? (int)future_lengths[sample] : query);
    }
};

template <int D>
__device__ __forceinline__ void load_vector(const float* from, int width, float scale, bool exists, float* to) {
#pragma unroll
    for (int i = 0; i < D; i++) to[i] = exists && i < width ? from[i] * scale : 0.0f;
}

template <int D>
__device__ __forceinline__ float dot(const float* registers, const float* memory, int width) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < width) sum = fmaf(registers[i], memory[i], sum);
    return sum;
}

template <int D>
__device__ __forceinline__ void add_scaled(float scale, const float* memory, int width, float* registers) {
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < width) registers[i] = fmaf(scale, memory[i], registers[i]);
}

// The sum over the warps, in their order; the first warp has it.
template <int D>
__device__ __forceinline__ void sum_over_warps(float* registers) {
    float* mine = shared_memory + warp() * D * 32 + lane();
#pragma unroll
    for (int i = 0; i < D; i++) mine[i * 32] = registers[i];
    __syncthreads();
    for (int other = 1; warp() == 0 && other < SHARES; other++)
#pragma unroll
        for (int i = 0; i < D; i++) registers[i] += shared_memory[(other * D + i) * 32 + lane()];
    __syncthreads();
}

// Blocks: (sample and head, tile of queries). Keeps of each query its largest score, one over the sum of its weights, and
// what the head saw: [B, A, H, 2 + d].
template <int D>
__device__ __forceinline__ void attend(
    const Attention& at, const float* queries, const float* keys, const float* values, float* kept) {
    int sample = blockIdx.x / at.n_heads, head = blockIdx.x % at.n_heads, width = at.width;
    int query = 32 * blockIdx.y + lane();
    bool exists = query < at.horizon;
    float own[D], seen[D];
    size_t row = (size_t)sample * at.horizon + (exists ? query : 0);
    load_vector<D>(queries + row * at.joined() + head * width, width, at.scale, exists, own);
#pragma unroll
    for (int i = 0; i < D; i++) seen[i] = 0.0f;
    float largest = -FLT_MAX, sum = 0.0f;
    const float* sample_keys = keys + (size_t)sample * at.n_keys() * at.joined() + head * width;
    const float* sample_values = values + (size_t)sample * at.n_keys() * width;
    for (int key = warp(); key < at.n_keys(); key += SHARES) {
        bool hidden = at.is_hidden(sample, query, key);
        float score = hidden ? at.fill : dot<D>(own, sample_keys + (size_t)key * at.joined(), width);
        float now = fmaxf(largest, score);
        if (now > largest) {
            float shrink = exp2f(largest - now);
            sum *= shrink;
#pragma unroll
            for (int i = 0; i < D; i++) seen[i] *= shrink;
            largest = now;
        }
        float weight = exp2f(score - now);
        sum += weight;
        // What stands where nobody looks is not looked at, not even if it is not a number.
        if (!hidden || weight != 0.0f) add_scaled<D>(weight, sample_values + (size_t)key * width, width, seen);
    }
    // [SHARES][2 + D][32]: what each warp found.
    float* mine = shared_memory + warp() * (2 + D) * 32 + lane();
    mine[0] = largest;
    mine[32] = sum;
#pragma unroll
    for (int i = 0; i < D; i++) mine[(2 + i) * 32] = seen[i];
    __syncthreads();
    if (warp() > 0 || !exists) return;
    for (int other = 1; other < SHARES; other++) {
        const float* theirs = shared_memory + other * (2 + D) * 32 + lane();
        float now = fmaxf(largest, theirs[0]);
        float shrink = exp2f(largest - now), other_shrink = exp2f(theirs[0] - now);
        sum = sum * shrink + theirs[32] * other_shrink;
#pragma unroll
        for (int i = 0; i < D; i++) seen[i] = seen[i] * shrink + theirs[(2 + i) * 32] * other_shrink;
        largest = now;
    }
    float inverse = 1.0f / sum;
    float* result = kept + ((size_t)blockIdx.x * at.horizon + query) * (2 + width);
    result[0] = largest;
    result[1] = inverse;
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < width) result[2 + i] = seen[i] * inverse;
}

// Blocks as in `attend`: the gradients of the queries. slopes [B, A, H, 1 + d]: see attention_slopes.
template <int D>
__device__ __forceinline__ void look_back(
    const Attention& at, const float* queries, const float* keys, const float* values, const float* kept,
    const float* slopes, float* d_queries) {
    int sample = blockIdx.x / at.n_heads, head = blockIdx.x % at.n_heads, width = at.width;
    int query = 32 * blockIdx.y + lane();
    bool exists = query < at.horizon;
    size_t row = (size_t)sample * at.horizon + (exists ? query : 0);
    size_t head_row = (size_t)blockIdx.x * at.horizon + (exists ? query : 0);
    float own[D], slope[D], d_own[D];
    load_vector<D>(queries + row * at.joined() + head * width, width, at.scale, exists, own);
    load_vector<D>(slopes + head_row * (1 + width) + 1, width, 1.0f, exists, slope);
#pragma unroll
    for (int i = 0; i < D; i++) d_own[i] = 0.0f;
    float largest = kept[head_row * (2 + width)], mean = slopes[head_row * (1 + width)];
    const float* sample_keys = keys + (size_t)sample * at.n_keys() * at.joined() + head * width;
    const float* sample_values = values + (size_t)sample * at.n_keys() * width;
    for (int key = warp(); key < at.n_keys(); key += SHARES) {
        if (!exists || at.is_hidden(sample, query, key)) continue;
        const float* own_key = sample_keys + (size_t)key * at.joined();
        float weight = exp2f(dot<D>(own, own_key, width) - largest);
        float d_score = weight * (dot<D>(slope, sample_values + (size_t)key * width, width) - mean);
        add_scaled<D>(d_score, own_key, width, d_own);
    }
    sum_over_warps<D>(d_own);
    if (warp() > 0 || !exists) return;
    float* result = d_queries + row * at.joined() + head * width;
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < width) result[i] = d_own[i] * at.scale * LN_2;
}

// Blocks: (sample, tile of keys). The gradients of the keys, head by head, and of the values, which all heads share.
template <int D>
__device__ __forceinline__ void be_seen(
    const Attention& at, const float* queries, const float* keys, const float* values, const float* kept,
    const float* slopes, float* d_keys, float* d_values) {
    int sample = blockIdx.x, width = at.width, key = 32 * blockIdx.y + lane();
    bool exists = key < at.n_keys();
    size_t row = (size_t)sample * at.n_keys() + (exists ? key : 0);
    float own[D], value[D], d_own[D], d_value[D];
    load_vector<D>(values + row * width, width, 1.0f, exists, value);
#pragma unroll
    for (int i = 0; i < D; i++) d_value[i] = 0.0f;
    for (int head = 0; head < at.n_heads; head++) {
        load_vector<D>(keys + row * at.joined() + head * width, width, at.scale, exists, own);
#pragma unroll
        for (int i = 0; i < D; i++) d_own[i] = 0.0f;
        for (int query = warp(); query < at.horizon; query += SHARES) {
            const float* theirs = queries + ((size_t)sample * at.horizon + query) * at.joined() + head * width;
            size_t head_row = ((size_t)sample * at.n_heads + head) * at.horizon + query;
            const float* slope = slopes + head_row * (1 + width);
            bool hidden = !exists || at.is_hidden(sample, query, key);
            float score = hidden ? at.fill : dot<D>(own, theirs, width);
            float weight = exists ? exp2f(score - kept[head_row * (2 + width)]) : 0.0f;
            if (hidden && weight == 0.0f) continue;
            add_scaled<D>(weight, slope + 1, width, d_value);
            if (hidden) continue;
            add_scaled<D>(weight * (dot<D>(value, slope + 1, width) - slope[0]), theirs, width, d_own);
        }
        sum_over_warps<D>(d_own);
        if (warp() == 0 && exists) {
            float* result = d_keys + row * at.joined() + head * width;
#pragma unroll
            for (int i = 0; i < D; i++)
                if (i < width) result[i] = d_own[i] * at.scale * LN_2;
        }
    }
    sum_over_warps<D>(d_value);
    if (warp() > 0 || !exists) return;
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < width) d_values[row * width + i] = d_value[i];
}

// The mean over the heads of what they saw, with dropout: kept [B, A, H, 2 + d] -> y [B, H, d].
extern "C" __global__ void __launch_bounds__(THREADS) attention_mean(
    const float* kept, int n, int n_heads, int horizon, int width, const uint64_t* key_at, uint64_t key, unsigned keep_below, float scale,
    float* y) {
    int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= n) return;
    Mask mask = mask_of(key_at, key, keep_below, scale);
    int i = at % width, query = at / width % horizon, sample = at / width / horizon;
    float sum = 0.0f;
    for (int head = 0; head < n_heads; head++) {
        size_t row = ((size_t)sample * n_heads + head) * horizon + query;
        float seen = kept[row * (2 + width) + 2 + i];
        sum += mask.drops() ? seen * mask.factor(row, width, i) : seen;
    }
    y[at] = sum / n_heads;
}

// The gradient of what each head saw, over the sum of its weights, and in front of it its product with what was seen,
// the mean of the weights' gradients: [B, A, H, 1 + d].
extern "C" __global__ void __launch_bounds__(THREADS) attention_slopes(
    const float* kept, const float* dy, int n_rows, int n_heads, int horizon, int width, const uint64_t* key_at, uint64_t key,
    unsigned keep_below, float scale, float* slopes) {
    int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= n_rows) return;
    Mask mask = mask_of(key_at, key, keep_below, scale);
    int query = row % horizon, sample = row / horizon / n_heads;
    const float* own = kept + (size_t)row * (2 + width);
    const float* behind = dy + ((size_t)sample * horizon + query) * width;
    float* result = slopes + (size_t)row * (1 + width);
    float share = own[1] / n_heads, mean = 0.0f;
    for (int i = 0; i < width; i++) {
        float slope = behind[i] * share * (mask.drops() ? mask.factor(row, width, i) : 1.0f);
        result[1 + i] = slope;
        mean = fmaf(slope, own[2 + i], mean);
    }
    result[0] = mean;
}

#define ATTENTION(D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(32 * SHARES) attention_forward_##D(                                \
        const float* queries, const float* keys, const float* values, const unsigned* history_lengths,             \
        const unsigned* future_lengths, int history, int horizon, int n_heads, int width, float scale, float fill, \
        float* kept) {                                                                                              \
        Attention at = {history_lengths, future_lengths, history, horizon, n_heads, width, scale, fill};           \
        attend<D>(at, queries, keys, values, kept);                                                                 \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(32 * SHARES) attention_queries_##D(                                \
        const float* queries, const float* keys, const float* values, const unsigned* history_lengths,             \
        const unsigned* future_lengths, int history, int horizon, int n_heads, int width, float scale, float fill, \
        const float* kept, const float* slopes, float* d_queries) {                                                 \
        Attention at = {history_lengths, future_lengths, history, horizon, n_heads, width, scale, fill};           \
        look_back<D>(at, queries, keys, values, kept, slopes, d_queries);                                           \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(32 * SHARES) attention_keys_##D(                                   \
        const float* queries, const float* keys, const float* values, const unsigned* history_lengths,             \
        const unsigned* future_lengths, int history, int horizon, int n_heads, int width, float scale, float fill, \
        const float* kept, const float* slopes, float* d_keys, float* d_values) {                                   \
        Attention at = {history_lengths, future_lengths, history, horizon, n_heads, width, scale, fill};           \
        be_seen<D>(at, queries, keys, values, kept, slopes, d_keys, d_values);                                      \
    }

ATTENTION(4)
ATTENTION(8)
ATTENTION(16)
ATTENTION(32)
ATTENTION(64)
#undef ATTENTION
