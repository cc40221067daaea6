// Numbers of other types, [n][rows][columns] to [n][columns][rows] on the way; see rounded.rs.
#include "limpid.cuh"

template <class From, class To>
__device__ __forceinline__ void rounded(const From *x, To *out, size_t count) {
    EACH(i, count) narrow(wide(x[i]), out + i);
}

constexpr int SIDE = 32;

// A block moves squares of SIDE by SIDE through its shared memory, so that both sides are read and written in rows.
template <class From, class To>
__device__ __forceinline__ void turned(const From *x, To *out, size_t n, size_t rows, size_t columns) {
    __shared__ From square[SIDE][SIDE + 1];
    size_t down = (rows + SIDE - 1) / SIDE, across = (columns + SIDE - 1) / SIDE;
    int lane = threadIdx.x % SIDE, first = threadIdx.x / SIDE;
    for (size_t job = blockIdx.x; job < n * down * across; job += gridDim.x) {
        size_t item = job / (down * across), row = job / across % down * SIDE, column = job % across * SIDE;
        const From *from = x + item * rows * columns;
        To *to = out + item * rows * columns;
        for (int i = first; i < SIDE; i += THREADS / SIDE)
            if (row + i < rows && column + lane < columns)
                square[i][lane] = from[(row + i) * columns + column + lane];
        __syncthreads();
        for (int i = first; i < SIDE; i += THREADS / SIDE)
            if (column + i < columns && row + lane < rows)
                narrow(wide(square[lane][i]), to + (column + i) * rows + row + lane);
        __syncthreads();
    }
}

#define OF_HALF(name, Half)                                                                                  \
    extern "C" __global__ void rounded_to_##name(const float *x, Half *out, size_t count) { rounded(x, out, count); } \
    extern "C" __global__ void turned_to_##name(const float *x, Half *out, size_t n, size_t rows, size_t columns) { \
        turned(x, out, n, rows, columns);                                                                    \
    }                                                                                                        \
    extern "C" __global__ void turned_from_##name(const Half *x, float *out, size_t n, size_t rows,          \
                                                  size_t columns) {                                          \
        turned(x, out, n, rows, columns);                                                                    \
    }                                                                                                        \
    extern "C" __global__ void turned_##name(const Half *x, Half *out, size_t n, size_t rows, size_t columns) { \
        turned(x, out, n, rows, columns);                                                                    \
    }
OF_HALF(bf16, __nv_bfloat16)
OF_HALF(f16, __half)
