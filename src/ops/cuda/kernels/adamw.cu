// A step of AdamW over all weights at once, where they lie; src/ops/adamw.rs is the twin.
#include "tile.cuh"

// Weights that lie together: where they begin among all, and where they and their means (null: there are none) are.
struct Block {
    uint64_t start;
    float* weights;
    float* means;
};

// clip: what the gradient is shortened by; new1, new2, new_share: one less beta1, beta2 and kept; rate: the learning rate over the first moment's correction; decay: learning
// rate times weight decay, for weights whose `decays` is 1; kept: the share of itself that a mean keeps.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    const unsigned* table, int n_blocks, float* first, float* second, const float* gradient, const float* decays,
    int n, float clip, float beta1, float new1, float beta2, float new2, float rate, float correction2,
    float epsilon, float decay, float kept, float new_share) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const Block* block = (const Block*)table;
    for (int next = 1; next < n_blocks && block[1].start <= (uint64_t)i; next++) block++;
    int at = i - (int)block->start;
    float slope = gradient[i] * clip;
    float mean = first[i] * beta1 + slope * new1;
    float square = second[i] * beta2 + slope * slope * new2;
    first[i] = mean;
    second[i] = square;
    float weight = block->weights[at] * (1.0f - decays[i] * decay) - rate * mean / (sqrtf(square / correction2) + epsilon);
    block->weights[at] = weight;
    if (block->means) block->means[at] = block->means[at] * kept + weight * new_share;
}
