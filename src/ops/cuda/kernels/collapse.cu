// The embeddings of a selection multiplied out, and the way back for gradients; src/ops/vsn/collapse.rs is the twin.
//
// A thread makes one number. What it is made of stands in a table that collapse.rs writes: a header, the variables, and
// sections, each a stretch of numbers that are made alike. Places count through the selection's own parameters first and
// then through the common ones.
#include "stretch.cuh"

constexpr unsigned NOWHERE = 0xFFFFFFFF;

struct CollapseHeader {
    unsigned n_own, n_common, n_values, n_reals, n_categoricals, out, joint_hidden, n, width, joint_first, joint_mask,
        joint_at, n_columns, n_made, n_taken;
};

// A line of `width` numbers, twice, that starts at `start` of the concatenation; its network's first layer, the mask of its
// skip or NOWHERE, and where its collapsed values begin.
struct CollapsedReal {
    unsigned start, line, width, hidden, first, mask, at;
};

// A table of n_codes rows; of its n_rows collapsed ones each is made of its number's code, or (by_step) of its step's.
struct CollapsedCategorical {
    unsigned start, table, n_codes, width, resample, n_rows, by_step, column, at, padded, moments_at;
};

struct Section {
    unsigned start, kind, a, b;
};

// Kinds of sections, as collapse.rs numbers them.
enum {
    ZERO, COPY,
    SLOPE, OFFSET, SKIP, VECTORS, ROW_FIRST, ROW_SKIP, JOINT_SLOPES, JOINT_OFFSET, JOINT_SKIP_SLOPES, JOINT_SKIP_OFFSET,
    D_FIRST, D_MASK, D_LINE, D_JOINT_FIRST, D_JOINT_MASK, D_ROW_MASK, D_ROW_WEIGHT, D_ROW_BIAS, D_TABLE
};

// Of a collapsed row before its norm: mean and one over the deviation; of its gradient: mean and moment of the slopes.
struct RowMoments {
    float mean, inverse, d_mean, d_moment;
};

__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
    float sum = 0.0f;
    for (int k = 0; k < n; k++) sum = fmaf(a[k], b[k], sum);
    return sum;
}

__device__ __forceinline__ float between(const Stretch& stretch, int i, const float* x) {
    float share;
    int at = stretch.below(i, &share);
    return fmaf(share, x[stretch.above(at)], (1.0f - share) * x[at]);
}

struct Collapse {
    const float *own, *common;
    const unsigned *table, *codes;

    __device__ const CollapseHeader& head() const { return *(const CollapseHeader*)table; }
    __device__ const CollapsedReal& real(int r) const { return ((const CollapsedReal*)(&head() + 1))[r]; }
    __device__ const CollapsedCategorical& categorical(int c) const {
        return ((const CollapsedCategorical*)(&real(head().n_reals)))[c];
    }
    __device__ const Section* sections() const { return (const Section*)(&categorical(head().n_categoricals)); }

    // Parameters that lie together, from a place on.
    __device__ const float* from(unsigned place) const {
        return place < head().n_own ? own + place : common + (place - head().n_own);
    }

    __device__ float gate(unsigned mask, int i) const { return mask == NOWHERE ? 1.0f : gate_of(from(mask)[i]); }
    __device__ float gate_slope(unsigned mask, int i) const {
        if (mask == NOWHERE) return 0.0f;
        float share = sigmoid(from(mask)[i]);
        return 2.0f * share * (1.0f - share);
    }

    // The joint network's values from joint_at on, as in vsn.cu.
    __device__ unsigned joint_offset() const { return head().joint_at + head().joint_hidden * head().n_reals; }
    __device__ unsigned joint_skip_slopes() const { return joint_offset() + head().joint_hidden; }
    __device__ unsigned joint_skip_offset() const { return joint_skip_slopes() + head().n * head().n_reals; }

    // The weights of output j of the joint network's first layer from feature `start` of the concatenation on.
    __device__ const float* joint_row(int j, unsigned start) const {
        return from(head().joint_first) + (size_t)j * head().width + start;
    }
    __device__ Stretch joint_stretch() const { return {(int)head().width, (int)head().n}; }

    // The share in output j of the joint network's skip of `width` features x that start at `start`, before its gate.
    __device__ float joint_skip(int j, unsigned start, const float* x, unsigned width) const {
        float share;
        Stretch stretch = joint_stretch();
        unsigned at = stretch.below(j, &share), next = stretch.above(at);
        float sum = 0.0f;
        if (at - start < width) sum += (1.0f - share) * x[at - start];
        if (next - start < width) sum += share * x[next - start];
        return sum;
    }

    __device__ unsigned code(const CollapsedCategorical& one, unsigned row) const {
        return one.by_step ? codes[(size_t)row * head().n_columns + one.column] : row;
    }
    // A row of the table; null for a code beyond it.
    __device__ const float* row_of(const CollapsedCategorical& one, unsigned row) const {
        unsigned own_code = code(one, row);
        return own_code < one.n_codes ? from(one.table) + (size_t)own_code * one.width : nullptr;
    }

    __device__ float raw(const CollapsedCategorical& one, const float* row, int i) const {
        Stretch stretch = {(int)one.width, (int)head().out};
        return between(stretch, i, row) * gate(one.resample, i);
    }

    __device__ RowMoments moments(const CollapsedCategorical& one, const float* row) const {
        int out = head().out;
        float sum = 0.0f, squares = 0.0f;
        for (int i = 0; i < out; i++) sum += raw(one, row, i);
        float mean = sum / out;
        for (int i = 0; i < out; i++) {
            float centred = raw(one, row, i) - mean;
            squares = fmaf(centred, centred, squares);
        }
        return {mean, 1.0f / sqrtf(squares / out + EPSILON), 0.0f, 0.0f};
    }

    // The section of number i of so many: the last that begins at or before it.
    __device__ const Section& section(const Section* all, unsigned n, unsigned i) const {
        unsigned low = 0, high = n;
        while (high - low > 1) {
            unsigned middle = (low + high) / 2;
            if (all[middle].start <= i)
                low = middle;
            else
                high = middle;
        }
        return all[low];
    }
};

// One collapsed value.
__device__ __forceinline__ float collapsed_value(const Collapse& c, const Section& section, unsigned k) {
    const CollapseHeader& head = c.head();
    switch (section.kind) {
        case COPY: return c.from(section.a)[k];
        case SLOPE:
        case OFFSET: {
            const CollapsedReal& real = c.real(section.a);
            const float* line = c.from(real.line);
            const float* weights = c.from(real.first) + k * real.width;
            if (section.kind == SLOPE) return dot(weights, line, real.width);
            float bias = c.from(real.first)[real.hidden * real.width + k];
            return dot(weights, line + real.width, real.width) + bias;
        }
        case SKIP: {
            const CollapsedReal& real = c.real(section.a);
            const float* line = c.from(real.line) + section.b * real.width;
            if (real.mask == NOWHERE) return line[k];
            Stretch stretch = {(int)real.width, (int)head.out};
            return between(stretch, k, line) * c.gate(real.mask, k);
        }
        case VECTORS: {
            const CollapsedCategorical& one = c.categorical(section.a);
            const float* row = c.row_of(one, k / head.out);
            if (!row) return NAN;
            unsigned i = k % head.out;
            RowMoments moments = c.moments(one, row);
            const float* norm = c.from(one.resample) + head.out;
            return fmaf((c.raw(one, row, i) - moments.mean) * moments.inverse, norm[i], norm[head.out + i]);
        }
        case ROW_FIRST: {
            const CollapsedCategorical& one = c.categorical(section.a);
            const float* row = c.row_of(one, k / head.joint_hidden);
            return row ? dot(c.joint_row(k % head.joint_hidden, one.start), row, one.width) : NAN;
        }
        case ROW_SKIP: {
            const CollapsedCategorical& one = c.categorical(section.a);
            const float* row = c.row_of(one, k / head.n);
            unsigned j = k % head.n;
            return row ? c.joint_skip(j, one.start, row, one.width) * c.gate(head.joint_mask, j) : NAN;
        }
        case JOINT_SLOPES: {
            const CollapsedReal& real = c.real(k % head.n_reals);
            return dot(c.joint_row(k / head.n_reals, real.start), c.from(real.line), real.width);
        }
        case JOINT_OFFSET: {
            float sum = c.from(head.joint_first)[head.joint_hidden * head.width + k];
            for (unsigned r = 0; r < head.n_reals; r++) {
                const CollapsedReal& real = c.real(r);
                sum += dot(c.joint_row(k, real.start), c.from(real.line) + real.width, real.width);
            }
            return sum;
        }
        case JOINT_SKIP_SLOPES: {
            const CollapsedReal& real = c.real(k % head.n_reals);
            unsigned j = k / head.n_reals;
            return c.joint_skip(j, real.start, c.from(real.line), real.width) * c.gate(head.joint_mask, j);
        }
        case JOINT_SKIP_OFFSET: {
            float sum = 0.0f;
            for (unsigned r = 0; r < head.n_reals; r++) {
                const CollapsedReal& real = c.real(r);
                sum += c.joint_skip(k, real.start, c.from(real.line) + real.width, real.width);
            }
            return sum * c.gate(head.joint_mask, k);
        }
    }
    return 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS) vsn_collapse(
    const float* own, const float* common, const unsigned* table, const unsigned* codes, float* values) {
    Collapse c = {own, common, table, codes};
    unsigned i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= c.head().n_values) return;
    const Section& section = c.section(c.sections(), c.head().n_made, i);
    values[i] = collapsed_value(c, section, i - section.start);
}

// A thread per collapsed row of all categoricals: what the gradients below need of its norm.
extern "C" __global__ void __launch_bounds__(THREADS) vsn_row_moments(
    const float* own, const float* common, const unsigned* table, const unsigned* codes, const float* d_values,
    int n_rows, float* moments) {
    Collapse c = {own, common, table, codes};
    int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_rows) return;
    unsigned number = 0;
    while (number + 1 < c.head().n_categoricals && c.categorical(number + 1).moments_at <= (unsigned)at) number++;
    const CollapsedCategorical& one = c.categorical(number);
    unsigned row_number = at - one.moments_at, out = c.head().out;
    const float* row = c.row_of(one, row_number);
    RowMoments found = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row) {
        found = c.moments(one, row);
        const float* weight = c.from(one.resample) + out;
        const float* dy = d_values + one.at + (size_t)row_number * out;
        float sum = 0.0f, dot = 0.0f;
        for (unsigned i = 0; i < out; i++) {
            float slope = dy[i] * weight[i];
            sum += slope;
            dot = fmaf(slope, (c.raw(one, row, i) - found.mean) * found.inverse, dot);
        }
        found.d_mean = sum / out;
        found.d_moment = dot / out;
    }
    ((RowMoments*)moments)[at] = found;
}

// What a gradient is made of: those of the collapsed values, and the moments of rows.
struct Expand {
    Collapse c;
    const float* grads;
    const RowMoments* moments;

    __device__ float normal(const CollapsedCategorical& one, unsigned row, const float* x, int i) const {
        const RowMoments& own = moments[one.moments_at + row];
        return (c.raw(one, x, i) - own.mean) * own.inverse;
    }
    // The gradient of a row in front of its norm.
    __device__ float d_raw(const CollapsedCategorical& one, unsigned row, const float* x, int i) const {
        const RowMoments& own = moments[one.moments_at + row];
        unsigned out = c.head().out;
        float slope = grads[one.at + (size_t)row * out + i] * c.from(one.resample)[out + i];
        return (slope - own.d_mean - normal(one, row, x, i) * own.d_moment) * own.inverse;
    }
    __device__ const float* d_first(const CollapsedCategorical& one, unsigned row) const {
        return grads + one.at + (size_t)one.n_rows * c.head().out + (size_t)row * c.head().joint_hidden;
    }
    __device__ const float* d_skip(const CollapsedCategorical& one, unsigned row) const {
        const float* first = d_first(one, one.n_rows);
        return first + (size_t)row * c.head().n;
    }

    // Number k of the line `which` (0: slopes, 1: offsets) of a real.
    __device__ float line(unsigned r, unsigned which, unsigned k) const {
        const CollapseHeader& head = c.head();
        const CollapsedReal& real = c.real(r);
        const float *weights = c.from(real.first), *d = grads + real.at + which * real.hidden;
        float sum = 0.0f;
        for (unsigned j = 0; j < real.hidden; j++) sum = fmaf(d[j], weights[j * real.width + k], sum);
        const float* d_out = grads + real.at + 2 * real.hidden + which * head.out;
        if (real.mask == NOWHERE) {
            sum += d_out[k];
        } else {
            Stretch stretch = {(int)real.width, (int)head.out};
            stretch.for_outputs(k, [&](int i, float weight) { sum = fmaf(weight * c.gate(real.mask, i), d_out[i], sum); });
        }
        return sum + through_joint(real.start + k, [&](unsigned j, bool is_skip) {
                   unsigned slopes = is_skip ? c.joint_skip_slopes() : head.joint_at;
                   unsigned offset = is_skip ? c.joint_skip_offset() : c.joint_offset();
                   return which ? grads[offset + j] : grads[slopes + j * head.n_reals + r];
               });
    }

    // What the joint network's first layer and skip send back to feature p of the concatenation; `d(j, is_skip)` is the
    // gradient of their output j.
    template <class D>
    __device__ float through_joint(unsigned p, D d) const {
        float sum = 0.0f;
        for (unsigned j = 0; j < c.head().joint_hidden; j++) sum = fmaf(d(j, false), c.joint_row(j, p)[0], sum);
        c.joint_stretch().for_outputs(p, [&](int j, float weight) {
            sum = fmaf(weight * c.gate(c.head().joint_mask, j), d(j, true), sum);
        });
        return sum;
    }

    // The sum over all rows of feature p of the concatenation times the gradient of output j of the joint network's first
    // layer, or of its skip.
    __device__ float against_feature(unsigned p, unsigned j, bool is_skip) const {
        const CollapseHeader& head = c.head();
        unsigned slopes = is_skip ? c.joint_skip_slopes() : head.joint_at;
        unsigned offset = is_skip ? c.joint_skip_offset() : c.joint_offset();
        for (unsigned r = 0; r < head.n_reals; r++) {
            const CollapsedReal& real = c.real(r);
            unsigned k = p - real.start;
            if (k >= real.width) continue;
            const float* line = c.from(real.line);
            return fmaf(grads[slopes + j * head.n_reals + r], line[k], grads[offset + j] * line[real.width + k]);
        }
        float sum = 0.0f;
        for (unsigned number = 0; number < head.n_categoricals; number++) {
            const CollapsedCategorical& one = c.categorical(number);
            unsigned k = p - one.start;
            if (k >= one.width) continue;
            for (unsigned row = 0; row < one.n_rows; row++) {
                const float* x = c.row_of(one, row);
                if (x) sum = fmaf((is_skip ? d_skip(one, row) : d_first(one, row))[j], x[k], sum);
            }
        }
        return sum;
    }

    // Feature q of what collapsed row `row` means for its row of the table.
    __device__ float table(const CollapsedCategorical& one, unsigned row, const float* x, unsigned q) const {
        Stretch stretch = {(int)one.width, (int)c.head().out};
        float sum = 0.0f;
        stretch.for_outputs(q, [&](int i, float weight) {
            sum = fmaf(weight * c.gate(one.resample, i), d_raw(one, row, x, i), sum);
        });
        const float *first = d_first(one, row), *skip = d_skip(one, row);
        return sum + through_joint(one.start + q, [&](unsigned j, bool is_skip) { return is_skip ? skip[j] : first[j]; });
    }

    // Number i of the mask of a categorical's skip, and of weight and bias of its norm.
    __device__ float resample(const CollapsedCategorical& one, unsigned kind, unsigned i) const {
        unsigned out = c.head().out;
        Stretch stretch = {(int)one.width, (int)out};
        float sum = 0.0f;
        for (unsigned row = 0; row < one.n_rows; row++) {
            const float* x = c.row_of(one, row);
            if (!x) continue;
            float dy = grads[one.at + (size_t)row * out + i];
            if (kind == D_ROW_BIAS)
                sum += dy;
            else if (kind == D_ROW_WEIGHT)
                sum = fmaf(dy, normal(one, row, x, i), sum);
            else
                sum = fmaf(d_raw(one, row, x, i), between(stretch, i, x), sum);
        }
        return kind == D_ROW_MASK ? sum * c.gate_slope(one.resample, i) : sum;
    }

    __device__ float gradient(const Section& section, unsigned k) const {
        const CollapseHeader& head = c.head();
        switch (section.kind) {
            case COPY: return grads[section.a + k];
            case D_FIRST: {
                const CollapsedReal& real = c.real(section.a);
                unsigned j = k / real.width, q = k % real.width;
                const float *line = c.from(real.line), *d = grads + real.at;
                return fmaf(d[j], line[q], d[real.hidden + j] * line[real.width + q]);
            }
            case D_MASK: {
                const CollapsedReal& real = c.real(section.a);
                Stretch stretch = {(int)real.width, (int)head.out};
                const float *line = c.from(real.line), *d = grads + real.at + 2 * real.hidden;
                float sum = d[k] * between(stretch, k, line);
                sum = fmaf(d[head.out + k], between(stretch, k, line + real.width), sum);
                return sum * c.gate_slope(real.mask, k);
            }
            case D_LINE: return line(section.a, section.b, k);
            case D_JOINT_FIRST: return against_feature(k % head.width, k / head.width, false);
            case D_JOINT_MASK: {
                float share;
                Stretch stretch = c.joint_stretch();
                int at = stretch.below(k, &share), next = stretch.above(at);
                float sum = (1.0f - share) * against_feature(at, k, true);
                return fmaf(share, against_feature(next, k, true), sum) * c.gate_slope(head.joint_mask, k);
            }
            case D_ROW_MASK:
            case D_ROW_WEIGHT:
            case D_ROW_BIAS: return resample(c.categorical(section.a), section.kind, k);
            case D_TABLE: {
                const CollapsedCategorical& one = c.categorical(section.a);
                unsigned own = k / one.width, q = k % one.width;
                if (one.padded && own == 0) return 0.0f;
                const float* x = c.from(one.table) + (size_t)own * one.width;
                if (!one.by_step) return table(one, own, x, q);
                float sum = 0.0f;
                for (unsigned row = 0; row < one.n_rows; row++)
                    if (c.code(one, row) == own) sum += table(one, row, x, q);
                return sum;
            }
        }
        return 0.0f;
    }
};

// From the gradients of the collapsed values to those of the parameters.
extern "C" __global__ void __launch_bounds__(THREADS) vsn_expand(
    const float* own, const float* common, const unsigned* table, const unsigned* codes, const float* d_values,
    const float* moments, float* d_own, float* d_common) {
    Expand expand = {{own, common, table, codes}, d_values, (const RowMoments*)moments};
    const CollapseHeader& head = expand.c.head();
    unsigned place = blockIdx.x * THREADS + threadIdx.x;
    if (place >= head.n_own + head.n_common) return;
    const Section& section = expand.c.section(expand.c.sections() + head.n_made, head.n_taken, place);
    float gradient = expand.gradient(section, place - section.start);
    if (place < head.n_own)
        d_own[place] = gradient;
    else
        d_common[place - head.n_own] = gradient;
}
