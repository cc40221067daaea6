// What kernels see when they are compiled for the CPU: threads of a block are fibers that are run in a random
// order between barriers, so that a missing barrier shows as a wrong result.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "emulator.h"

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cuda/std/limits>

// the headers above were read as the host's; what follows asks what it is compiled for
#define __CUDACC__
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#undef __global__
#undef __shared__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __restrict__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#ifdef LIMPID_LIST_KERNELS
#define __global__ LIMPID_KERNEL
#else
#define __global__
#endif
// one block at a time runs on a thread of the host
#define __shared__ static thread_local

namespace emulator {

template <class... A, size_t... I> void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A> *>(args[I])...);
}
template <class... A> void call(void (*kernel)(A...), void **args) {
    call(kernel, args, std::index_sequence_for<A...>{});
}
template <class... A> std::vector<size_t> sizes(void (*)(A...)) { return {sizeof(A)...}; }

template <class T> T shuffle(T value, unsigned from) {
    exchange(&value, sizeof value, from);
    return value;
}

} // namespace emulator

#define LIMPID_ADD(name)                                                                                     \
    static const bool added_##name =                                                                         \
        emulator::add(#name, [](void **args) { emulator::call(name, args); }, emulator::sizes(name));

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define gridDim (emulator::current->blocks)
#define blockDim (emulator::current->threads)
constexpr int warpSize = 32;

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { emulator::warp_barrier(); }
inline void __threadfence() {}
#define LANE (emulator::current->number % 32)
template <class T> T __shfl_sync(unsigned, T value, int from, int width = 32) {
    return emulator::shuffle(value, LANE / width * width + from % width);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    return emulator::shuffle(value, LANE ^ mask);
}
template <class T> T __shfl_down_sync(unsigned, T value, unsigned by, int width = 32) {
    unsigned from = LANE + by;
    return emulator::shuffle(value, from / width == LANE / width ? from : LANE);
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned by, int width = 32) {
    return emulator::shuffle(value, LANE % width >= by ? LANE - by : LANE);
}
inline int __any_sync(unsigned, bool value) { return emulator::vote(value) != 0; }
inline unsigned __ballot_sync(unsigned, bool value) { return emulator::vote(value); }

// one thread of the host runs a launch
template <class T, class U> T atomicAdd(T *at, U value) { T old = *at; *at = old + value; return old; }
template <class T, class U> T atomicMax(T *at, U value) { T old = *at; if ((T)value > old) *at = value; return old; }
template <class T, class U> T atomicMin(T *at, U value) { T old = *at; if ((T)value < old) *at = value; return old; }
template <class T, class U> T atomicOr(T *at, U value) { T old = *at; *at = old | value; return old; }
template <class T, class U> T atomicExch(T *at, U value) { T old = *at; *at = value; return old; }
template <class T, class U, class V> T atomicCAS(T *at, U expected, V value) {
    T old = *at;
    if (old == (T)expected) *at = value;
    return old;
}

template <class To, class From> To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
template <class T> T __ldg(const T *at) { return *at; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }

// functions of half precision that the headers have for devices alone
#define LIMPID_HALF(name, function)                                                                          \
    inline __half name(__half x) { return __float2half(function(__half2float(x))); }                         \
    inline __nv_bfloat16 name(__nv_bfloat16 x) { return __float2bfloat16(function(__bfloat162float(x))); }
LIMPID_HALF(hsqrt, sqrtf)
LIMPID_HALF(hcos, cosf)
LIMPID_HALF(hsin, sinf)
LIMPID_HALF(hlog, logf)
LIMPID_HALF(hexp, expf)
LIMPID_HALF(hceil, ceilf)
LIMPID_HALF(hfloor, floorf)
LIMPID_HALF(hrint, rintf)
LIMPID_HALF(hrcp, 1 / )
