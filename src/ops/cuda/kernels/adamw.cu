// A step of AdamW over all weights at once; src/train/optimizer.rs has the formula.
#include "tile.cuh"

// clip: what the gradient is shortened by; rate: the learning rate over the first moment's correction; decay: learning
// rate times weight decay, for weights whose `decays` is 1.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    const float* weights, const float* first, const float* second, const float* gradient, const float* decays, int n,
    float clip, float beta1, float beta2, float rate, float correction2, float epsilon, float decay,
    float* new_weights, float* new_first, float* new_second) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float slope = gradient[i] * clip;
    float mean = first[i] * beta1 + slope * (1.0f - beta1);
    float square = second[i] * beta2 + slope * slope * (1.0f - beta2);
    new_first[i] = mean;
    new_second[i] = square;
    float kept = weights[i] * (1.0f - decays[i] * decay);
    new_weights[i] = kept - rate * mean / (sqrtf(square / correction2) + epsilon);
}
