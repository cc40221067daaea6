// How threads share the rows of arrays, and wide words of memory.
#pragma once
#include "limpid.cuh"

// As many numbers as one access of a thread reads or writes at most.
template <class T> struct alignas(16) Pack {
    static constexpr int COUNT = 16 / sizeof(T);
    T of[COUNT];
};

#ifdef __CUDACC__

// Whether an array begins where packs do.
__device__ __forceinline__ bool is_aligned(const void *at) { return (size_t)at % 16 == 0; }

// Division with 32 bits where these are enough: that with 64 takes several times as long.
__device__ __forceinline__ size_t quotient(size_t a, size_t b) {
    return (a | b) >> 32 ? a / b : (unsigned)a / (unsigned)b;
}
__device__ __forceinline__ size_t remainder(size_t a, size_t b) { return a - quotient(a, b) * b; }

// The plane that element `i` of an image is of, among all of a batch. Channels that lie last are told by their number,
// else it is 0, and `plane` elements follow each other.
__device__ __forceinline__ size_t plane_of(size_t i, size_t plane, size_t channels) {
    if (channels == 0) return quotient(i, plane);
    return quotient(i, plane * channels) * channels + remainder(i, channels);
}

// Calls `f(row, from, to, step)` for parts of `rows` rows of `width` elements. The thread takes the elements
// `from`, `from + step` and so on, at most STEPS of them: up to 32 threads go along a row side by side, so that
// each finds out only once where the row is. A grid with a thread for each element is large enough.
template <int STEPS, class F> __device__ __forceinline__ void each_row(size_t rows, size_t width, F f) {
    int log = width > 16 ? 5 : width > 8 ? 4 : width > 4 ? 3 : width > 2 ? 2 : width > 1 ? 1 : 0;
    size_t part = (size_t)STEPS << log, parts = (width + part - 1) / part;
    EACH(i, (rows * parts) << log) {
        size_t strip = i >> log, row = parts == 1 ? strip : strip / parts;
        size_t start = (strip - row * parts) * part, end = start + part;
        f(row, start + (i & ((1 << log) - 1)), end < width ? end : width, (size_t)1 << log);
    }
}

// `f(i, x[i], y[i])` to `out[i]`, a pack at a time where the arrays begin where packs do.
template <class T, class F>
__device__ __forceinline__ void each_pair(const T *x, const T *y, T *out, size_t count, F f) {
    constexpr size_t N = Pack<T>::COUNT;
    size_t packs = is_aligned(x) && is_aligned(y) && is_aligned(out) ? count / N : 0;
    EACH(i, packs + (count - packs * N)) {
        if (i < packs) {
            Pack<T> a = ((const Pack<T> *)x)[i], b = ((const Pack<T> *)y)[i];
#pragma unroll
            for (int k = 0; k < N; k++) narrow(f(i * N + k, wide(a.of[k]), wide(b.of[k])), a.of + k);
            ((Pack<T> *)out)[i] = a;
        } else {
            size_t at = packs * N + (i - packs);
            narrow(f(at, wide(x[at]), wide(y[at])), out + at);
        }
    }
}

// `f(i, x[i])` to `out[i]`, likewise.
template <class T, class F>
__device__ __forceinline__ void each_number(const T *x, T *out, size_t count, F f) {
    constexpr size_t N = Pack<T>::COUNT;
    size_t packs = is_aligned(x) && is_aligned(out) ? count / N : 0;
    EACH(i, packs + (count - packs * N)) {
        if (i < packs) {
            Pack<T> a = ((const Pack<T> *)x)[i];
#pragma unroll
            for (int k = 0; k < N; k++) narrow(f(i * N + k, wide(a.of[k])), a.of + k);
            ((Pack<T> *)out)[i] = a;
        } else {
            size_t at = packs * N + (i - packs);
            narrow(f(at, wide(x[at])), out + at);
        }
    }
}

#endif
