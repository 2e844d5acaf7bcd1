// A step of AdamW over all weights at once, where they lie; src/ops/adamw.rs is the twin.
#include "tile.cuh"

// Weights that lie together: where they begin among all, and where they and their means (null: there are none) are.
struct Block {
    uint64_t start;
    float* weights;
    float* means;
};

// The numbers of a step. is_taken: 0 if nothing is to move; clip: what the gradient is shortened by; new1, new2, new_share:
// one less beta1, beta2 and kept; rate: the learning rate over the first moment's correction; decay: learning rate times
// weight decay, for weights whose `decays` is 1; kept: the share of itself that a mean keeps.
struct StepNumbers {
    float is_taken, clip, beta1, new1, beta2, new2, rate, correction2, epsilon, decay, kept, new_share;
};

// What the host says of a step, in double precision like its own arithmetic.
struct StepPlan {
    double beta1, beta2, epsilon, weight_decay, clip, learning_rate, mean_decay;
};

// The squares of the gradient, a sum per block.
extern "C" __global__ void __launch_bounds__(THREADS) square_parts(const float* gradient, int n, float* parts) {
    float* sums = shared_memory;
    float sum = 0.0f;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < (size_t)n; i += (size_t)gridDim.x * THREADS)
        sum = fmaf(gradient[i], gradient[i], sum);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = sums[0];
}

// One thread decides: nothing moves along a loss or gradient that is not finite. counts: the steps behind the moments and
// behind the means, counted on if the step is taken. told: the loss and the square of the gradient's norm.
extern "C" __global__ void decide_step(
    const float* parts, int n_parts, const float* loss, const unsigned* plan, float* counts, float* step, float* told) {
    double squares = 0.0;
    for (int i = 0; i < n_parts; i++) squares += parts[i];
    told[0] = loss[0];
    told[1] = (float)squares;
    StepNumbers& numbers = *(StepNumbers*)step;
    // Comparisons with what is not a number are false.
    constexpr float LARGEST_FLOAT = 3.402823466e+38f;
    bool is_finite = fabsf(told[0]) <= LARGEST_FLOAT && told[1] <= LARGEST_FLOAT;
    numbers.is_taken = is_finite ? 1.0f : 0.0f;
    if (!is_finite) return;
    const StepPlan& rule = *(const StepPlan*)plan;
    double t = counts[0] + 1.0, n_mean = counts[1];
    double kept = (1.0 + n_mean) / (10.0 + n_mean);
    if (kept > rule.mean_decay) kept = rule.mean_decay;
    // PyTorch's clip_grad_norm_, epsilon included.
    double shortened = rule.clip / (sqrt((double)told[1]) + 1e-6);
    numbers.clip = (float)(shortened < 1.0 ? shortened : 1.0);
    numbers.beta1 = (float)rule.beta1;
    numbers.new1 = (float)(1.0 - rule.beta1);
    numbers.beta2 = (float)rule.beta2;
    numbers.new2 = (float)(1.0 - rule.beta2);
    numbers.rate = (float)(rule.learning_rate / (1.0 - pow(rule.beta1, t)));
    numbers.correction2 = (float)(1.0 - pow(rule.beta2, t));
    numbers.epsilon = (float)rule.epsilon;
    numbers.decay = (float)(rule.learning_rate * rule.weight_decay);
    numbers.kept = (float)kept;
    numbers.new_share = (float)(1.0 - kept);
    counts[0] += 1.0f;
    counts[1] += 1.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    const unsigned* table, int n_blocks, float* first, float* second, const float* gradient, const float* decays,
    int n, const float* step) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    StepNumbers numbers = *(const StepNumbers*)step;
    if (i >= n || numbers.is_taken == 0.0f) return;
    const Block* block = (const Block*)table;
    for (int next = 1; next < n_blocks && block[1].start <= (uint64_t)i; next++) block++;
    int at = i - (int)block->start;
    float slope = gradient[i] * numbers.clip;
    float mean = first[i] * numbers.beta1 + slope * numbers.new1;
    float square = second[i] * numbers.beta2 + slope * slope * numbers.new2;
    first[i] = mean;
    second[i] = square;
    float update = numbers.rate * mean / (sqrtf(square / numbers.correction2) + numbers.epsilon);
    float weight = block->weights[at] * (1.0f - decays[i] * numbers.decay) - update;
    block->weights[at] = weight;
    if (block->means) block->means[at] = block->means[at] * numbers.kept + weight * numbers.new_share;
}
