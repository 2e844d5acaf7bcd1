// The recurrence of an LSTM layer; src/ops/lstm_tile.rs and simd/lstm.rs are the twins.
//
// One block owns S sequences for all their steps, so that a step costs two barriers and no launch. What does not depend
// on the step before is done for all steps at once, before and after, by the linear kernels.
//
// A record of a step has 6 D numbers: the gates input, forget, fresh (the candidate) and output, then the cell and the
// hidden state before the step. Before the forward its gates hold what the inputs contribute. The backward makes the
// gradients of the gates before their activation, [B, T, 4 D], zero beyond a sample's length.
//
// A thread has at most one gate j of 4 D, and one state (feature, sample) of D S: hence S <= 4 and D <= 256.
#include "tile.cuh"

constexpr int RECORD = 6;

// For the way forward the recurrent weights [4 D, D] turned to [D, 4 D], and behind them the sum of both biases. The layer
// has weights [4 D, width] and [4 D, D], then the biases.
extern "C" __global__ void __launch_bounds__(THREADS)
    lstm_weights(const float* layer, int width, int hidden, float* weights) {
    int n_gates = 4 * hidden, n_recurrent = n_gates * hidden;
    int at = blockIdx.x * THREADS + threadIdx.x;
    const float* recurrent = layer + (size_t)n_gates * width;
    const float* biases = recurrent + n_recurrent;
    if (at < n_recurrent)
        weights[at] = recurrent[(at % n_gates) * hidden + at / n_gates];
    else if (at < n_recurrent + n_gates)
        weights[at] = biases[at - n_recurrent] + biases[at - n_recurrent + n_gates];
}

// Where weights are read: a copy in shared memory if there is room, else where they are.
__device__ __forceinline__ const float* nearest(const float* weights, int n, int is_shared, float* shared) {
    if (!is_shared) return weights;
    for (int i = threadIdx.x; i < n; i += blockDim.x) shared[i] = weights[i];
    return shared;
}

// Steps of a sample; 0 for samples that do not exist.
__device__ __forceinline__ int length_of(const unsigned* lengths, int n_steps, int batch, int sample) {
    if (sample >= batch) return 0;
    return lengths ? (int)lengths[sample] : n_steps;
}

template <int S>
__device__ __forceinline__ void forward_steps(
    const float* weights, int weights_shared, const float* start, const unsigned* lengths, int batch, int n_steps,
    int hidden, float* record, float* sequence, float* ends) {
    int n_gates = 4 * hidden, n_states = hidden * S, thread = threadIdx.x, first = blockIdx.x * S;
    float* states = shared_memory;
    float* gates = states + n_states;
    weights = nearest(weights, n_gates * hidden, weights_shared, gates + S * n_gates);
    int sample = first + thread / hidden, feature = thread % hidden;
    bool has_state = thread < n_states && sample < batch, has_gate = thread < n_gates;
    int length = has_state ? length_of(lengths, n_steps, batch, sample) : 0;
    float state = 0.0f, cell = 0.0f;
    if (has_state) {
        state = start[(size_t)sample * hidden + feature];
        cell = start[((size_t)batch + sample) * hidden + feature];
    }
    // States are kept as [D][S]: the samples of a feature side by side.
    if (thread < n_states) states[feature * S + thread / hidden] = state;
    int longest = 0, lens[S];
    float ahead[S];
#pragma unroll
    for (int s = 0; s < S; s++) {
        lens[s] = length_of(lengths, n_steps, batch, first + s);
        longest = max(longest, lens[s]);
        ahead[s] = 0.0f;
        if (has_gate && lens[s] > 0) ahead[s] = record[((size_t)(first + s) * n_steps) * RECORD * hidden + thread];
    }
    __syncthreads();
    for (int step = 0; step < longest; step++) {
        if (has_gate) {
            float sums[S];
#pragma unroll
            for (int s = 0; s < S; s++) {
                sums[s] = ahead[s];
                // What the next step starts from is fetched while this one is computed.
                if (step + 1 < lens[s])
                    ahead[s] = record[((size_t)(first + s) * n_steps + step + 1) * RECORD * hidden + thread];
            }
            for (int k = 0; k < hidden; k++) {
                float weight = weights[k * n_gates + thread];
#pragma unroll
                for (int s = 0; s < S; s++) sums[s] = fmaf(weight, states[k * S + s], sums[s]);
            }
            bool is_fresh = thread / hidden == 2;
#pragma unroll
            for (int s = 0; s < S; s++) {
                float gate = is_fresh ? tanhf(sums[s]) : sigmoid(sums[s]);
                gates[s * n_gates + thread] = gate;
                if (step < lens[s])
                    record[((size_t)(first + s) * n_steps + step) * RECORD * hidden + thread] = gate;
            }
        }
        __syncthreads();
        if (has_state && step < length) {
            const float* own = gates + (thread / hidden) * n_gates + feature;
            float* before = record + ((size_t)sample * n_steps + step) * RECORD * hidden + n_gates + feature;
            before[0] = cell;
            before[hidden] = state;
            cell = fmaf(own[hidden], cell, own[0] * own[2 * hidden]);
            state = own[3 * hidden] * tanhf(cell);
            states[feature * S + thread / hidden] = state;
            sequence[((size_t)sample * n_steps + step) * hidden + feature] = state;
        }
        __syncthreads();
    }
    if (has_state) {
        for (int step = length; step < n_steps; step++)
            sequence[((size_t)sample * n_steps + step) * hidden + feature] = 0.0f;
        ends[(size_t)sample * hidden + feature] = state;
        ends[((size_t)batch + sample) * hidden + feature] = cell;
    }
}

// What a state's thread reads of a step on the way back.
struct Step {
    float input, forget, fresh, output, before, d_output;
};

__device__ __forceinline__ Step read_step(
    const float* record, const float* d_sequence, int hidden, size_t row, int feature) {
    const float* own = record + row * RECORD * hidden + feature;
    return {own[0], own[hidden], own[2 * hidden], own[3 * hidden], own[4 * hidden],
            d_sequence ? d_sequence[row * hidden + feature] : 0.0f};
}

template <int S>
__device__ __forceinline__ void backward_steps(
    const float* weights, int weights_shared, const unsigned* lengths, int batch, int n_steps, int hidden,
    const float* record, const float* d_sequence, const float* d_ends, float* slopes, float* d_start) {
    int n_gates = 4 * hidden, n_states = hidden * S, thread = threadIdx.x, first = blockIdx.x * S;
    // The gradients of the gates as [4 D][S], and what each gate contributes to those of the states.
    float* d_gates = shared_memory;
    float* shares = d_gates + S * n_gates;
    weights = nearest(weights, n_gates * hidden, weights_shared, shares + S * n_gates);
    int sample = first + thread / hidden, feature = thread % hidden, own_sample = thread / hidden;
    bool has_state = thread < n_states, has_gate = thread < n_gates;
    int length = has_state ? length_of(lengths, n_steps, batch, sample) : 0;
    float d_state = 0.0f, d_cell = 0.0f;
    if (has_state && sample < batch) {
        d_state = d_ends[(size_t)sample * hidden + feature];
        d_cell = d_ends[((size_t)batch + sample) * hidden + feature];
    }
    int longest = 0;
#pragma unroll
    for (int s = 0; s < S; s++) longest = max(longest, length_of(lengths, n_steps, batch, first + s));
    if (has_state && sample < batch) {
        for (int step = length; step < n_steps; step++)
            for (int gate = 0; gate < 4; gate++)
                slopes[((size_t)sample * n_steps + step) * n_gates + gate * hidden + feature] = 0.0f;
    }
    Step ahead = {};
    if (longest > 0 && longest <= length)
        ahead = read_step(record, d_sequence, hidden, (size_t)sample * n_steps + longest - 1, feature);
    __syncthreads();
    for (int step = longest - 1; step >= 0; step--) {
        bool is_live = step < length;
        if (has_state) {
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (is_live) {
                Step at = ahead;
                float squashed = tanhf(fmaf(at.forget, at.before, at.input * at.fresh));
                float through = (d_state + at.d_output) * at.output;
                float d_after = fmaf(through, 1.0f - squashed * squashed, d_cell);
                d_cell = d_after * at.forget;
                // The slope of a sigmoid s is s (1 - s), that of a tanh t is 1 - t^2.
                d[0] = d_after * at.fresh * at.input * (1.0f - at.input);
                d[1] = d_after * at.before * at.forget * (1.0f - at.forget);
                d[2] = d_after * at.input * (1.0f - at.fresh * at.fresh);
                d[3] = through * squashed * (1.0f - at.output);
            }
            float* own = slopes + ((size_t)sample * n_steps + step) * n_gates + feature;
#pragma unroll
            for (int gate = 0; gate < 4; gate++) {
                d_gates[(gate * hidden + feature) * S + own_sample] = d[gate];
                if (is_live) own[gate * hidden] = d[gate];
            }
            if (step > 0 && step - 1 < length)
                ahead = read_step(record, d_sequence, hidden, (size_t)sample * n_steps + step - 1, feature);
        }
        __syncthreads();
        if (has_gate) {
            // Thread (gate, k) adds up what this gate's D rows of weights send back to state k.
            int gate = thread / hidden, k = thread % hidden;
            float sums[S];
#pragma unroll
            for (int s = 0; s < S; s++) sums[s] = 0.0f;
            for (int j = 0; j < hidden; j++) {
                int row = gate * hidden + j;
                float weight = weights[row * hidden + k];
#pragma unroll
                for (int s = 0; s < S; s++) sums[s] = fmaf(weight, d_gates[row * S + s], sums[s]);
            }
#pragma unroll
            for (int s = 0; s < S; s++) shares[s * n_gates + thread] = sums[s];
        }
        __syncthreads();
        if (has_state && is_live) {
            const float* own = shares + own_sample * n_gates + feature;
            d_state = own[0] + own[hidden] + own[2 * hidden] + own[3 * hidden];
        }
    }
    if (has_state && sample < batch) {
        d_start[(size_t)sample * hidden + feature] = d_state;
        d_start[((size_t)batch + sample) * hidden + feature] = d_cell;
    }
}

#define LSTM(S)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(1024) lstm_forward_##S(                                            \
        const float* weights, int weights_shared, const float* start, const unsigned* lengths, int batch,          \
        int n_steps, int hidden, float* record, float* sequence, float* ends) {                                     \
        forward_steps<S>(                                                                                           \
            weights, weights_shared, start, lengths, batch, n_steps, hidden, record, sequence, ends);              \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(1024) lstm_backward_##S(                                           \
        const float* weights, int weights_shared, const unsigned* lengths, int batch, int n_steps, int hidden,     \
        const float* record, const float* d_sequence, const float* d_ends, float* slopes, float* d_start) {        \
        backward_steps<S>(                                                                                          \
            weights, weights_shared, lengths, batch, n_steps, hidden, record, d_sequence, d_ends, slopes, d_start); \
    }

LSTM(1)
LSTM(2)
LSTM(4)
#undef LSTM
