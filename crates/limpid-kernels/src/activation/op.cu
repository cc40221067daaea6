// The functions of functions.rs, element by element.
#include "functions.cuh"
#include "rows.cuh"

#ifdef __CUDACC__

#define KERNELS_OF(name, Function, T, suffix)                                                                \
    extern "C" __global__ void name##_value_##suffix(const T *x, T *out, size_t count, Wide<T> p, Wide<T> q) { \
        each_number(x, out, count, [=](size_t, Wide<T> x) { return Function::value(x, p, q); });             \
    }                                                                                                        \
    extern "C" __global__ void name##_first_##suffix(const T *x, const T *g, T *out, size_t count, Wide<T> p, \
                                                     Wide<T> q) {                                            \
        each_pair(x, g, out, count,                                                                          \
                  [=](size_t, Wide<T> x, Wide<T> g) { return Function::first(x, p, q) * g; });               \
    }                                                                                                        \
    extern "C" __global__ void name##_second_##suffix(const T *x, const T *g, T *out, size_t count, Wide<T> p, \
                                                      Wide<T> q) {                                           \
        each_pair(x, g, out, count,                                                                          \
                  [=](size_t, Wide<T> x, Wide<T> g) { return Function::second(x, p, q) * g; });              \
    }
#define KERNELS(name, Function)                                                                              \
    KERNELS_OF(name, Function, float, f32)                                                                   \
    KERNELS_OF(name, Function, double, f64)                                                                  \
    KERNELS_OF(name, Function, __nv_bfloat16, bf16)                                                          \
    KERNELS_OF(name, Function, __half, f16)
FUNCTIONS(KERNELS)

// ReLU with a learned slope (prelu.rs): planes take `slopes` slopes in turn; see `plane_of`.

template <class T>
__device__ __forceinline__ void prelu(const T *x, const Wide<T> *w, T *out, size_t count, size_t plane,
                                      size_t channels, size_t slopes) {
    each_number(x, out, count, [=](size_t i, Wide<T> x) {
        return x > 0 ? x : x * w[remainder(plane_of(i, plane, channels), slopes)];
    });
}

// A block for each of `parts` parts of a slope's elements: their gradients, and one summand of the slope's.
template <class T>
__device__ __forceinline__ void prelu_gradients(const T *x, const Wide<T> *w, const T *g, T *dx, double *sums,
                                                size_t count, size_t plane, size_t channels, size_t slopes,
                                                size_t parts, size_t part) {
    size_t elements = count / slopes;
    for (size_t b = blockIdx.x; b < slopes * parts; b += gridDim.x) {
        size_t c = b / parts, start = (b - c * parts) * part;
        size_t end = start + part < elements ? start + part : elements;
        Wide<T> slope = w[c];
        double sum = 0;
        for (size_t i = start + threadIdx.x; i < end; i += THREADS) {
            size_t n = i / plane, at = channels ? i * channels + c : ((n * slopes + c) - n) * plane + i;
            Wide<T> value = wide(x[at]), grad = wide(g[at]);
            narrow(value > 0 ? grad : grad * slope, dx + at);
            if (!(value > 0)) sum += (double)value * (double)grad;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[b] = sum;
    }
}

// A block for each slope.
template <class T>
__device__ __forceinline__ void prelu_sums(const double *sums, T *dw, size_t slopes, size_t parts) {
    for (size_t c = blockIdx.x; c < slopes; c += gridDim.x) {
        double sum = 0;
        for (size_t i = threadIdx.x; i < parts; i += THREADS) sum += sums[c * parts + i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) dw[c] = (T)sum;
    }
}

#define PRELU(T)                                                                                             \
    (const T *x, const Wide<T> *w, T *out, size_t count, size_t plane, size_t channels, size_t slopes)
#define PRELU_GRADIENTS(T)                                                                                   \
    (const T *x, const Wide<T> *w, const T *g, T *dx, double *sums, size_t count, size_t plane, size_t channels, \
     size_t slopes, size_t parts, size_t part)
#define PRELU_SUMS(T) (const double *sums, T *dw, size_t slopes, size_t parts)
EVERY(prelu, PRELU, (x, w, out, count, plane, channels, slopes))
EVERY(prelu_gradients, PRELU_GRADIENTS, (x, w, g, dx, sums, count, plane, channels, slopes, parts, part))
BOTH(prelu_sums, PRELU_SUMS, (sums, dw, slopes, parts))

#endif
