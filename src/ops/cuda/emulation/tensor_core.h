// The instructions of tensor cores as the PTX manual has them: which lane holds which number of a fragment, and how
// operands are rounded. What a GPU does besides (the order in which products are added up, and how) is not known here.
#pragma once

#include <string.h>

#include "emulation.h"

// Behind this barrier of a warp, what its 32 lanes have left.
const unsigned* exchange(const unsigned* own, int n);

static inline unsigned bits_of(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// 10 bits behind the leading one, ties away from zero; `cvt.rna.tf32.f32`.
static inline unsigned tf32_of(float x) { return isfinite(x) ? (bits_of(x) + 0x1000) & ~0x1FFFu : bits_of(x); }

// 7 bits, ties to even.
static inline unsigned bf16_of(float x) {
    unsigned bits = bits_of(x);
    if (x != x) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// `cvt.rn.bf16x2.f32`
static inline unsigned bf16_pair(float low, float high) { return bf16_of(high) << 16 | bf16_of(low); }

// C += A B with A of 16 lines, B of 8, where a register has PER numbers: lane 4 g + t holds lines g and g + 8 of A and line
// g of B at depths t PER to t PER + PER - 1 and as much behind 4 PER; of C lines g and g + 8 at 2 t and 2 t + 1.
template <int PER, class F>
void mma(float (&c)[2][2], const unsigned (&a)[4], const unsigned (&b)[2], F number) {
    const unsigned own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned* all = exchange(own, 6);
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int h = 0; h < 2; h++)
        for (int e = 0; e < 2; e++)
            for (int k = 0; k < 8 * PER; k++) {
                int behind = k / (4 * PER), lane = k % (4 * PER) / PER, i = k % PER;
                unsigned of_a = all[6 * (4 * g + lane) + h + 2 * behind];
                unsigned of_b = all[6 * (4 * (2 * t + e) + lane) + 4 + behind];
                c[h][e] = fmaf(number(of_a, i), number(of_b, i), c[h][e]);
            }
}

// The tensor cores look at no more bits than these.
static inline void mma_tf32(float (&c)[2][2], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma<1>(c, a, b, [](unsigned bits, int) { return float_of(bits & ~0x1FFFu); });
}

static inline void mma_bf16(float (&c)[2][2], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma<2>(c, a, b, [](unsigned bits, int i) { return float_of(i == 0 ? bits << 16 : bits & 0xFFFF0000u); });
}
