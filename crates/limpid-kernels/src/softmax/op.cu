// Softmax of rows of `length` numbers that lie `inner` apart. A block of threads has several rows at a time,
// each of which has as many threads (`lanes`). The first numbers of a thread stay in registers; those of longer
// rows are read again.
#include "limpid.cuh"

constexpr unsigned KEPT = 8; // numbers of a thread in registers

// A thread's part of a row.
struct Part {
    size_t first, step, count; // where its numbers lie
    unsigned lane, lanes;      // of the threads of the row
    unsigned apart;            // from a thread of the row to the next
};

// Neighbouring threads have what lies next to each other: parts of one row, or of different rows.
__device__ __forceinline__ Part part_of(size_t row, size_t rows, size_t length, size_t inner, unsigned lanes) {
    unsigned in_block = THREADS / lanes;
    bool along = inner == 1;
    unsigned lane = along ? threadIdx.x % lanes : threadIdx.x / in_block;
    row += along ? threadIdx.x / lanes : threadIdx.x % in_block;
    size_t count = row < rows && lane < length ? (length - lane - 1) / lanes + 1 : 0;
    size_t first = row / inner * inner * length + row % inner + lane * inner;
    return {first, lanes * inner, count, lane, lanes, along ? 1 : in_block};
}

struct Sum {
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};

// NaN never is the largest.
struct Largest {
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return b > a ? b : a; }
};

// One number from those of the threads of a row, in a fixed tree; all threads of the block come here.
template <class How, class T> __device__ __forceinline__ T over_row(T value, const Part &part, T *shared) {
    if (part.lanes == 1) return value;
    T *own = shared + threadIdx.x;
    *own = value;
    for (unsigned step = part.lanes / 2; step > 0; step /= 2) {
        __syncthreads();
        if (part.lane < step) *own = How::of(*own, own[step * part.apart]);
    }
    __syncthreads();
    value = *(own - part.lane * part.apart);
    __syncthreads();
    return value;
}

template <class V, class Load>
__device__ __forceinline__ void keep(V (&kept)[KEPT], const Part &part, Load load) {
#pragma unroll
    for (unsigned n = 0; n < KEPT; n++)
        if (n < part.count) kept[n] = load(part.first + n * part.step);
}

// Calls `use(i, value)` for all numbers of a thread.
template <class V, class Load, class Use>
__device__ __forceinline__ void each(const V (&kept)[KEPT], const Part &part, Load load, Use use) {
#pragma unroll
    for (unsigned n = 0; n < KEPT; n++)
        if (n < part.count) use(part.first + n * part.step, kept[n]);
    for (size_t n = KEPT; n < part.count; n++) {
        size_t i = part.first + n * part.step;
        use(i, load(i));
    }
}

template <bool LOG, class T>
__device__ __forceinline__ void forward(const T *x, T *out, size_t rows, size_t length, size_t inner,
                                        int lanes) {
    using W = Wide<T>;
    __shared__ W shared[THREADS];
    size_t in_block = THREADS / lanes;
    for (size_t row = blockIdx.x * in_block; row < rows; row += gridDim.x * in_block) {
        Part part = part_of(row, rows, length, inner, lanes);
        auto load = [&](size_t i) { return wide(x[i]); };
        W kept[KEPT], largest = (W)-INFINITY, sum = 0;
        keep(kept, part, load);
        each(kept, part, load, [&](size_t, W v) { largest = Largest::of(largest, v); });
        largest = over_row<Largest>(largest, part, shared);
        each(kept, part, load, [&](size_t, W v) { sum += exp(v - largest); });
        sum = over_row<Sum>(sum, part, shared);
        W last = LOG ? log(sum) : 1 / sum;
        each(kept, part, load, [&](size_t i, W v) {
            narrow(LOG ? v - largest - last : exp(v - largest) * last, out + i);
        });
    }
}

template <class W> struct Pair {
    W y, g;
};

// `y (g - sum(g y))`, or `g - exp(y) sum(g)` for the logarithm.
template <bool LOG, class T>
__device__ __forceinline__ void backward(const T *y, const T *g, T *out, size_t rows, size_t length,
                                         size_t inner, int lanes) {
    using W = Wide<T>;
    __shared__ W shared[THREADS];
    size_t in_block = THREADS / lanes;
    for (size_t row = blockIdx.x * in_block; row < rows; row += gridDim.x * in_block) {
        Part part = part_of(row, rows, length, inner, lanes);
        auto load = [&](size_t i) { return Pair<W>{wide(y[i]), wide(g[i])}; };
        Pair<W> kept[KEPT];
        keep(kept, part, load);
        W sum = 0;
        each(kept, part, load, [&](size_t, const Pair<W> &v) { sum += LOG ? v.g : v.g * v.y; });
        sum = over_row<Sum>(sum, part, shared);
        each(kept, part, load, [&](size_t i, const Pair<W> &v) {
            narrow(LOG ? v.g - exp(v.y) * sum : v.y * (v.g - sum), out + i);
        });
    }
}

template <class T, class... A> __device__ __forceinline__ void softmax_value(const T *x, A... rest) {
    forward<false>(x, rest...);
}
template <class T, class... A> __device__ __forceinline__ void log_softmax_value(const T *x, A... rest) {
    forward<true>(x, rest...);
}
template <class T, class... A> __device__ __forceinline__ void softmax_gradient(const T *y, A... rest) {
    backward<false>(y, rest...);
}
template <class T, class... A> __device__ __forceinline__ void log_softmax_gradient(const T *y, A... rest) {
    backward<true>(y, rest...);
}

#define FORWARD(T) (const T *x, T *out, size_t rows, size_t length, size_t inner, int lanes)
#define BACKWARD(T) (const T *y, const T *g, T *out, size_t rows, size_t length, size_t inner, int lanes)
EVERY(softmax_value, FORWARD, (x, out, rows, length, inner, lanes))
EVERY(log_softmax_value, FORWARD, (x, out, rows, length, inner, lanes))
EVERY(softmax_gradient, BACKWARD, (y, g, out, rows, length, inner, lanes))
EVERY(log_softmax_gradient, BACKWARD, (y, g, out, rows, length, inner, lanes))
