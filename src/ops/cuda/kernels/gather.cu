// Batches out of a window that lies on the device; src/dataset/batch.rs is the twin, to the bit.
//
// A row of the window's statistics and codes belongs to a server as it is known, or as a stranger of its profile: row
// 2 * server + is_stranger.
#include "tile.cuh"

constexpr float LARGEST = 3.402823466e+38f;

// Sizes, as gather.rs writes them; behind them the place of each metric among the window's columns, then the place of each
// target among the metrics.
struct Window {
    unsigned n_samples, history, horizon, n_steps, n_columns, n_metrics, n_targets, n_static, calendar, relative, metrics,
        missing, n_reals, n_codes, max_gap, scaled_limit_bits;

    __device__ unsigned metric(unsigned i) const { return ((const unsigned*)(this + 1))[i]; }
    __device__ unsigned target(unsigned i) const { return metric(n_metrics + i); }
    __device__ unsigned length() const { return history + horizon; }
    __device__ float limit() const { return *(const float*)&scaled_limit_bits; }
};

// A sample: its row of statistics, and the first step that it does not know.
struct Sample {
    unsigned row, cutoff;
    __device__ unsigned server() const { return row / 2; }
};

// A number that a thread makes: a column of a step of a sample, whose steps are those of the past, then those ahead.
struct Place {
    unsigned number, i, column;
    bool is_past;
    Sample sample;
    unsigned step;  // of the window

    __device__ Place(const Window& window, const unsigned* samples, unsigned at, unsigned width)
        : number(at / (window.length() * width)), i(at / width % window.length()), column(at % width),
          is_past(i < window.history), sample(((const Sample*)samples)[number]),
          step(sample.cutoff - window.history + i) {}

    // Into history [samples, history, width] or future [samples, horizon, width].
    template <class T>
    __device__ void store(const Window& window, unsigned width, T value, T* history, T* future) const {
        if (is_past)
            history[((size_t)number * window.history + i) * width + column] = value;
        else
            future[((size_t)number * window.horizon + i - window.history) * width + column] = value;
    }
};

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= LARGEST; }

// `stats`: centres, then scales of all metrics.
__device__ __forceinline__ float scaled(const Window& window, const float* stats, unsigned metric, float value) {
    float x = (value - stats[metric]) / stats[window.n_metrics + metric];
    return x < -window.limit() ? -window.limit() : x > window.limit() ? window.limit() : x;
}

__device__ __forceinline__ float observed(
    const Window& window, const float* values, unsigned server, unsigned step, unsigned metric) {
    return values[((size_t)server * window.n_steps + step) * window.n_columns + window.metric(metric)];
}

// The last observed value at or before `step`, if it is at most max_gap steps old, else 0.
__device__ __forceinline__ float filled(
    const Window& window, const float* values, const float* stats, unsigned server, unsigned step, unsigned metric) {
    for (unsigned age = 0; age <= window.max_gap && age <= step; age++) {
        float value = observed(window, values, server, step - age, metric);
        if (is_finite(value)) return scaled(window, stats, metric, value);
    }
    return 0.0f;
}

// The reals of history [samples, history, reals] and future [samples, horizon, reals]: a thread per number.
extern "C" __global__ void __launch_bounds__(THREADS) gather_reals(
    const float* values, const float* calendar, const float* stats, const float* statics, const unsigned* table,
    const unsigned* samples, float* history, float* future) {
    const Window& window = *(const Window*)table;
    unsigned at = blockIdx.x * THREADS + threadIdx.x, n_reals = window.n_reals;
    if (at >= window.n_samples * window.length() * n_reals) return;
    Place place(window, samples, at, n_reals);
    const Sample& sample = place.sample;
    unsigned column = place.column, step = place.step;
    const float* own = stats + (size_t)sample.row * 2 * window.n_metrics;
    float value = 0.0f;
    if (column < window.n_static) {
        value = statics[(size_t)sample.row * window.n_static + column];
    } else if (column < window.relative) {
        unsigned n_calendar = window.relative - window.calendar;
        value = calendar[(size_t)step * n_calendar + column - window.calendar];
    } else if (column == window.relative) {
        value = ((float)step - (float)sample.cutoff) / (float)window.history;
    } else if (place.is_past && column < window.missing) {
        value = filled(window, values, own, sample.server(), step, column - window.metrics);
    } else if (place.is_past) {
        float part = 1.0f / (float)window.n_metrics;
        for (unsigned metric = 0; metric < window.n_metrics; metric++)
            value += is_finite(observed(window, values, sample.server(), step, metric)) ? 0.0f : part;
    }
    place.store(window, n_reals, value, history, future);
}

// The codes of history and future: server and profile at every step, and where there is a third the status of the past.
extern "C" __global__ void __launch_bounds__(THREADS) gather_codes(
    const unsigned* statuses, const unsigned* codes, const unsigned* table, const unsigned* samples, unsigned* history,
    unsigned* future) {
    const Window& window = *(const Window*)table;
    unsigned at = blockIdx.x * THREADS + threadIdx.x, n_codes = window.n_codes;
    if (at >= window.n_samples * window.length() * n_codes) return;
    Place place(window, samples, at, n_codes);
    unsigned code = 0;
    if (place.column < 2)
        code = codes[2 * place.sample.row + place.column];
    else if (place.is_past)
        code = statuses[(size_t)place.sample.server() * window.n_steps + place.step];
    place.store(window, n_codes, code, history, future);
}

// Per target the truths [targets, samples, horizon] and their weights (0 where nothing was observed), and the scale that
// each sample is seen through, [targets, samples].
extern "C" __global__ void __launch_bounds__(THREADS) gather_truths(
    const float* values, const float* stats, const unsigned* table, const unsigned* samples, float* truths,
    float* weights, float* units) {
    const Window& window = *(const Window*)table;
    unsigned at = blockIdx.x * THREADS + threadIdx.x, n_samples = window.n_samples;
    if (at >= window.n_targets * n_samples * window.horizon) return;
    unsigned target = at / (n_samples * window.horizon), number = at / window.horizon % n_samples;
    unsigned h = at % window.horizon;
    Sample sample = ((const Sample*)samples)[number];
    unsigned metric = window.target(target), step = sample.cutoff + h;
    const float* own = stats + (size_t)sample.row * 2 * window.n_metrics;
    float value = step < window.n_steps ? observed(window, values, sample.server(), step, metric) : NAN;
    bool is_observed = is_finite(value);
    truths[at] = is_observed ? scaled(window, own, metric, value) : 0.0f;
    weights[at] = is_observed ? 1.0f : 0.0f;
    if (h == 0) units[(size_t)target * n_samples + number] = own[window.n_metrics + metric];
}
