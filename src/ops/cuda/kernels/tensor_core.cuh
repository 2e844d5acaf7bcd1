// Products of a warp on tensor cores, and how operands are rounded for them.
//
// Who compiles chooses the PRECISION of all kernels: 0 float32 (no tensor cores), 1 tf32, 2 bf16. Operands are rounded to the
// nearest number of 10 (tf32; ties away from zero, as the instruction has it) or 7 bits behind the leading one (bf16; ties to
// even); both keep float32's exponents. What is added up stays float32.
//
// The instructions of PTX are the one thing here that runs over the lanes of a warp. The emulation has them in the layout of
// the PTX manual.
#pragma once

#include "layout.cuh"

constexpr int FLOAT32 = 0, TF32 = 1, BF16 = 2;
#ifndef PRECISION
#define PRECISION FLOAT32
#endif

// Lines and depths of the blocks of a matrix that a warp multiplies.
constexpr int BLOCK = 16;

// What a lane holds of a block of 16 lines, 16 deep: [h][i] is line lane / 4 + 8 h at depth 4 (lane % 4) + i.
struct Slice {
    float at[2][4];
};

// What a lane holds of the products of 16 lines with 16 others: [j][h][e] is line lane / 4 + 8 h of the first with line
// 8 j + 2 (lane % 4) + e of the second.
struct Sums {
    float at[2][2][2];
};

#ifdef __CUDACC__
__device__ __forceinline__ unsigned tf32_of(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ void mma_tf32(float (&c)[2][2], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[1][0]), "+f"(c[1][1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float (&c)[2][2], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[1][0]), "+f"(c[1][1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
#include "../emulation/tensor_core.h"
#endif

// Adds the products of two blocks' lines. An instruction's depths are a lane's own in another order, the same for both
// blocks, which no sum over them can tell.
__device__ __forceinline__ void multiply(const Slice& first, const Slice& second, Sums& sums) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float(&own)[2][4] = first.at;
        const float(&other)[4] = second.at[j];
        if constexpr (PRECISION == BF16) {
            unsigned a[4] = {
                bf16_pair(own[0][0], own[0][1]), bf16_pair(own[1][0], own[1][1]), bf16_pair(own[0][2], own[0][3]),
                bf16_pair(own[1][2], own[1][3])};
            unsigned b[2] = {bf16_pair(other[0], other[1]), bf16_pair(other[2], other[3])};
            mma_bf16(sums.at[j], a, b);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                unsigned a[4] = {tf32_of(own[0][i]), tf32_of(own[1][i]), tf32_of(own[0][i + 1]), tf32_of(own[1][i + 1])};
                unsigned b[2] = {tf32_of(other[i]), tf32_of(other[i + 1])};
                mma_tf32(sums.at[j], a, b);
            }
        }
    }
}
