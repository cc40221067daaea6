// What all kernels share. The bodies of functions are also compiled for the CPU, to be tested there.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define ANYWHERE __host__ __device__ __forceinline__
#else
#include <cmath>
#include <cstddef>
#define ANYWHERE inline
#endif

#ifdef __CUDACC__

// The elements that a thread of a grid of any size computes.
#define EACH(i, count)                                                                                       \
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (count); i += (size_t)gridDim.x * blockDim.x)

// The kernels `name_f32` and `name_f64` of a template over numbers.
#define BOTH(name, PARAMETERS, ARGUMENTS)                                                                    \
    extern "C" __global__ void name##_f32 PARAMETERS(float) { name ARGUMENTS; }                              \
    extern "C" __global__ void name##_f64 PARAMETERS(double) { name ARGUMENTS; }

// `name_bf16` and `name_f16`.
#define HALVES(name, PARAMETERS, ARGUMENTS)                                                                  \
    extern "C" __global__ void name##_bf16 PARAMETERS(__nv_bfloat16) { name ARGUMENTS; }                     \
    extern "C" __global__ void name##_f16 PARAMETERS(__half) { name ARGUMENTS; }

// All four.
#define EVERY(name, PARAMETERS, ARGUMENTS)                                                                   \
    BOTH(name, PARAMETERS, ARGUMENTS)                                                                        \
    HALVES(name, PARAMETERS, ARGUMENTS)

// What is computed with: numbers of 16 bits are only stored.
template <class T> struct WideOf {
    using Type = T;
};
template <> struct WideOf<__nv_bfloat16> {
    using Type = float;
};
template <> struct WideOf<__half> {
    using Type = float;
};
template <class T> using Wide = typename WideOf<T>::Type;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ double wide(double x) { return x; }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }

__device__ __forceinline__ void narrow(float x, float *to) { *to = x; }
__device__ __forceinline__ void narrow(double x, double *to) { *to = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16 *to) { *to = __float2bfloat16(x); }
__device__ __forceinline__ void narrow(float x, __half *to) { *to = __float2half(x); }

constexpr int THREADS = 256;

// The sum over a block of THREADS threads in a fixed tree, in thread 0.
__device__ __forceinline__ double block_sum(double value) {
    __shared__ double parts[THREADS / 32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0;
    if (threadIdx.x == 0)
        for (int i = 0; i < THREADS / 32; i++) total += parts[i];
    __syncthreads();
    return total;
}

#endif
