// All kernels as one module.
#include "attention.cu"
#include "dropout.cu"
#include "gate.cu"
#include "grn.cu"
#include "layer_norm.cu"
#include "linear.cu"
#include "lstm.cu"
#include "sums.cu"
