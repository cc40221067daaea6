// Tensor cores: every thread of a warp has the whole of what the warp has together.
#pragma once

#include "device.h"

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "the shape that is emulated");
    float x[256];
};

inline void check(const void *at, unsigned distance, size_t size) {
    if ((size_t)at % 32 || distance * size % 16) {
        fprintf(stderr, "emulator: a matrix of tensor cores is not aligned\n");
        abort();
    }
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout> &f, const T *at, unsigned distance) {
    check(at, distance, sizeof(T));
    constexpr bool by_rows = std::is_same<Layout, row_major>::value;
    for (unsigned r = 0; r < 16; r++)
        for (unsigned c = 0; c < 16; c++)
            f.x[16 * r + c] = (float)(by_rows ? at[r * distance + c] : at[c * distance + r]);
}

template <class F> void fill_fragment(F &f, float value) {
    for (float &x : f.x) x = value;
}

template <class D, class A, class B, class C> void mma_sync(D &d, const A &a, const B &b, const C &c) {
    float sums[256];
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 16; j++) {
            float sum = c.x[16 * i + j];
            for (unsigned k = 0; k < 16; k++) sum += a.x[16 * i + k] * b.x[16 * k + j];
            sums[16 * i + j] = sum;
        }
    memcpy(d.x, sums, sizeof sums);
}

template <class F> void store_matrix_sync(float *at, const F &f, unsigned distance, layout_t) {
    check(at, distance, sizeof(float));
    for (unsigned r = 0; r < 16; r++)
        for (unsigned c = 0; c < 16; c++) at[r * distance + c] = f.x[16 * r + c];
}

} // namespace wmma
} // namespace nvcuda
