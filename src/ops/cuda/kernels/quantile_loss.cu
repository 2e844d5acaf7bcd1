// The quantile loss and its gradient; src/ops/quantile_loss.rs is the twin.
#include "tile.cuh"

// What a forecast costs and how it counts. Weights (per step) and lengths (per sample) are null where all count alike.
struct QuantileLoss {
    const float* forecast;
    const float* target;
    const float* weights;
    const unsigned* lengths;
    const float* quantiles;
    int horizon, n_quantiles;

    // 0 beyond a sample's length, whatever stands there.
    __device__ bool is_valid(int step) const {
        return !lengths || step % horizon < (int)lengths[step / horizon];
    }
    __device__ float weight(int step) const { return weights ? weights[step] : 1.0f; }

    __device__ float cost(int i) const {
        float error = target[i / n_quantiles] - forecast[i], quantile = quantiles[i % n_quantiles];
        return fmaxf(error * quantile, error * (quantile - 1.0f));
    }

    // By the forecast; at an error of 0 it lies half way between those on either side.
    __device__ float slope(int i) const {
        float error = target[i / n_quantiles] - forecast[i], quantile = quantiles[i % n_quantiles];
        return error > 0.0f ? -quantile : error < 0.0f ? 1.0f - quantile : error == 0.0f ? 0.5f - quantile : error;
    }
};

// Sums over the n forecasts, a pair per block: the weighted costs, and the weights of the steps.
extern "C" __global__ void __launch_bounds__(THREADS) quantile_loss_parts(
    const float* forecast, const float* target, const float* weights, const unsigned* lengths, const float* quantiles,
    int n, int horizon, int n_quantiles, float* parts) {
    QuantileLoss loss = {forecast, target, weights, lengths, quantiles, horizon, n_quantiles};
    float costs = 0.0f, counted = 0.0f;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) {
        int step = i / n_quantiles;
        if (!loss.is_valid(step)) continue;
        costs += loss.weight(step) * loss.cost(i);
        if (i % n_quantiles == 0) counted += loss.weight(step);
    }
    float* all_counted = shared_memory + THREADS;
    shared_memory[threadIdx.x] = costs;
    all_counted[threadIdx.x] = counted;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) {
            shared_memory[threadIdx.x] += shared_memory[threadIdx.x + half];
            all_counted[threadIdx.x] += all_counted[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = shared_memory[0];
        parts[2 * blockIdx.x + 1] = all_counted[0];
    }
}

// The loss, and what the slope of a cost is multiplied by. Divides by n_steps or, if that is 0, by the sum of the weights
// (by 1 where that is 0).
extern "C" __global__ void
quantile_loss_sum(const float* parts, int n_parts, float factor, float n_steps, float* loss, float* scale) {
    float costs = 0.0f, counted = 0.0f;
    for (int part = 0; part < n_parts; part++) {
        costs += parts[2 * part];
        counted += parts[2 * part + 1];
    }
    float divisor = n_steps > 0.0f ? n_steps : counted == 0.0f ? 1.0f : counted;
    loss[0] = costs * factor / divisor;
    scale[0] = factor / divisor;
}

extern "C" __global__ void __launch_bounds__(THREADS) quantile_loss_backward(
    const float* forecast, const float* target, const float* weights, const unsigned* lengths, const float* quantiles,
    int n, int horizon, int n_quantiles, const float* scale, const float* d_loss, float* d_forecast) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    QuantileLoss loss = {forecast, target, weights, lengths, quantiles, horizon, n_quantiles};
    int step = i / n_quantiles;
    d_forecast[i] = loss.is_valid(step) ? d_loss[0] * scale[0] * loss.weight(step) * loss.slope(i) : 0.0f;
}
