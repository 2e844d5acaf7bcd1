// All kernels as one module.
#include "linear.cu"
#include "lstm.cu"
#include "sums.cu"
