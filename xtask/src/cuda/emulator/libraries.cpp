// cuBLAS, cuDNN and cuRAND, as far as Limpid calls them, by their definitions. Sums are taken in double.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "emulator.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define API extern "C" __attribute__((visibility("default"))) int

static int a_handle;

API curandCreateGenerator(void **out, int) { *out = &a_handle; return 0; }
API curandDestroyGenerator(void *) { return 0; }
API curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API curandSetStream(void *, void *) { return 0; }

API cublasCreate_v2(void **out) { *out = &a_handle; return 0; }
API cublasDestroy_v2(void *) { return 0; }
API cublasSetStream_v2(void *, void *) { return 0; }
API cublasSetMathMode(void *, int) { return 0; }
API cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }

// Numbers as the libraries name them: cuBLAS and cuDNN differ.
enum class Type { F32, F64, F16, Bf16 };

static double load(Type type, const void *at, int64_t i) {
    switch (type) {
    case Type::F32: return ((const float *)at)[i];
    case Type::F64: return ((const double *)at)[i];
    case Type::F16: return __half2float(((const __half *)at)[i]);
    case Type::Bf16: return __bfloat162float(((const __nv_bfloat16 *)at)[i]);
    }
    abort();
}

static void store(Type type, void *at, int64_t i, double value) {
    switch (type) {
    case Type::F32: ((float *)at)[i] = (float)value; return;
    case Type::F64: ((double *)at)[i] = value; return;
    case Type::F16: ((__half *)at)[i] = __float2half((float)value); return;
    case Type::Bf16: ((__nv_bfloat16 *)at)[i] = __float2bfloat16((float)value); return;
    }
    abort();
}

static size_t size_of(Type type) { return type == Type::F64 ? 8 : type == Type::F32 ? 4 : 2; }

static Type of_blas(int type) {
    switch (type) {
    case 0: return Type::F32;
    case 1: return Type::F64;
    case 2: return Type::F16;
    case 14: return Type::Bf16;
    }
    abort();
}

static Type of_dnn(int type) {
    switch (type) {
    case 0: return Type::F32;
    case 1: return Type::F64;
    case 2: return Type::F16;
    case 9: return Type::Bf16;
    }
    abort();
}

// The scale factors have the type of the sums.
static double factor(bool is_double, const void *at) { return is_double ? *(const double *)at : *(const float *)at; }

static void *at(void *p, Type type, int64_t i) { return (char *)p + size_of(type) * i; }
static const void *at(const void *p, Type type, int64_t i) { return (const char *)p + size_of(type) * i; }

API cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                               int a_type, int lda, long long a_stride, const void *b, int b_type, int ldb,
                               long long b_stride, const void *beta, void *c, int c_type, int ldc,
                               long long c_stride, int batch, int compute, int) {
    bool is_double = compute == 70 || compute == 71;
    Type at_ = of_blas(a_type), bt = of_blas(b_type), ct = of_blas(c_type);
    double x = factor(is_double, alpha), y = factor(is_double, beta);
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;
    return emulator::queue([=] {
        for (int i = 0; i < batch; i++) {
            const void *ai = at(a, at_, i * a_stride), *bi = at(b, bt, i * b_stride);
            void *ci = at(c, ct, i * c_stride);
            for (int col = 0; col < n; col++)
                for (int row = 0; row < m; row++) {
                    double sum = 0;
                    for (int j = 0; j < k; j++)
                        sum += load(at_, ai, ta ? (int64_t)row * lda + j : (int64_t)j * lda + row) *
                               load(bt, bi, tb ? (int64_t)j * ldb + col : (int64_t)col * ldb + j);
                    int64_t to = (int64_t)col * ldc + row;
                    store(ct, ci, to, x * sum + (y == 0 ? 0 : y * load(ct, ci, to)));
                }
        }
        return 0;
    });
}

API cublasGemmEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda,
                 const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int compute,
                 int algo) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c,
                                      c_type, ldc, 0, 1, compute, algo);
}

struct Tensor {
    Type type;
    std::vector<int> dims, strides;
};
struct Filter {
    Type type;
    std::vector<int> dims;
    bool last;
};
struct Convolution {
    std::vector<int> pad, stride, dilation;
    int mode, groups = 1, math = 0;
};

API cudnnCreate(void **out) { *out = &a_handle; return 0; }
API cudnnDestroy(void *) { return 0; }
API cudnnSetStream(void *, void *) { return 0; }
extern "C" __attribute__((visibility("default"))) size_t cudnnGetVersion() { return 91000; }
extern "C" __attribute__((visibility("default"))) const char *cudnnGetErrorString(int) { return "an error"; }
API cudnnCreateTensorDescriptor(Tensor **out) { *out = new Tensor(); return 0; }
API cudnnDestroyTensorDescriptor(Tensor *t) { delete t; return 0; }
API cudnnSetTensorNdDescriptor(Tensor *t, int type, int rank, const int *dims, const int *strides) {
    if (rank < 4 || rank > 5) return 9;
    *t = {of_dnn(type), {dims, dims + rank}, {strides, strides + rank}};
    return 0;
}
API cudnnCreateFilterDescriptor(Filter **out) { *out = new Filter(); return 0; }
API cudnnDestroyFilterDescriptor(Filter *f) { delete f; return 0; }
API cudnnSetFilterNdDescriptor(Filter *f, int type, int format, int rank, const int *dims) {
    if (rank < 4 || rank > 5) return 9;
    *f = {of_dnn(type), {dims, dims + rank}, format == 1};
    return 0;
}
API cudnnCreateConvolutionDescriptor(Convolution **out) { *out = new Convolution(); return 0; }
API cudnnDestroyConvolutionDescriptor(Convolution *c) { delete c; return 0; }
API cudnnSetConvolutionNdDescriptor(Convolution *c, int rank, const int *pad, const int *stride, const int *dilation,
                                    int mode, int) {
    if (rank < 2 || rank > 3) return 9;
    *c = {{pad, pad + rank}, {stride, stride + rank}, {dilation, dilation + rank}, mode, 1, 0};
    return 0;
}
API cudnnSetConvolutionGroupCount(Convolution *c, int groups) { c->groups = groups; return 0; }
API cudnnSetConvolutionMathType(Convolution *c, int math) { return c->math = math, 0; }

// Every product of a convolution: `each(x, w, y)` gets the places of its three numbers.
template <class Each>
static int convolve(const Tensor &x, const Filter &w, const Convolution &c, const Tensor &y, Each each) {
    size_t rank = c.pad.size();
    int groups = c.groups, in = w.dims[1], out = w.dims[0] / groups;
    if (x.dims.size() != rank + 2 || w.dims.size() != rank + 2 || y.dims.size() != rank + 2) return 3;
    if (x.dims[1] != in * groups || y.dims[1] != w.dims[0] || x.dims[0] != y.dims[0]) return 3;
    int64_t taps = 1, places = 1;
    for (size_t d = 0; d < rank; d++) {
        taps *= w.dims[2 + d];
        places *= y.dims[2 + d];
        int reach = c.dilation[d] * (w.dims[2 + d] - 1) + 1;
        if ((x.dims[2 + d] + 2 * c.pad[d] - reach) / c.stride[d] + 1 != y.dims[2 + d]) return 3;
    }
    for (int b = 0; b < y.dims[0]; b++)
        for (int64_t place = 0; place < places; place++)
            for (int64_t tap = 0; tap < taps; tap++) {
                int64_t p = place, t = tap, x_at = (int64_t)b * x.strides[0], y_at = (int64_t)b * y.strides[0], flat = 0, step = 1;
                bool inside = true;
                for (size_t d = rank; d-- > 0;) {
                    int i = (int)(p % y.dims[2 + d]), j = (int)(t % w.dims[2 + d]);
                    p /= y.dims[2 + d];
                    t /= w.dims[2 + d];
                    int k = c.mode == 1 ? j : w.dims[2 + d] - 1 - j;
                    int from = i * c.stride[d] - c.pad[d] + k * c.dilation[d];
                    inside &= from >= 0 && from < x.dims[2 + d];
                    x_at += (int64_t)from * x.strides[2 + d];
                    y_at += (int64_t)i * y.strides[2 + d];
                    flat += j * step;
                    step *= w.dims[2 + d];
                }
                if (!inside) continue;
                for (int o = 0; o < w.dims[0]; o++)
                    for (int i = 0; i < in; i++) {
                        int64_t w_at = w.last ? (o * taps + flat) * in + i : ((int64_t)o * in + i) * taps + flat;
                        each(x_at + (int64_t)(o / out * in + i) * x.strides[1], w_at, y_at + (int64_t)o * y.strides[1]);
                    }
            }
    return 0;
}

static int64_t span(const Tensor &t) {
    int64_t last = 0;
    for (size_t i = 0; i < t.dims.size(); i++) last += (int64_t)(t.dims[i] - 1) * t.strides[i];
    return last + 1;
}
static int64_t span(const Filter &f) {
    int64_t count = 1;
    for (int d : f.dims) count *= d;
    return count;
}

// result = alpha * sums + beta * result; only places that are written are in `sums` for contiguous results
struct Factors {
    double sums, before;
    Factors(Type type, const void *alpha, const void *beta)
        : sums(factor(type == Type::F64, alpha)), before(factor(type == Type::F64, beta)) {}
    void finish(Type type, void *out, const std::vector<double> &all) const {
        for (size_t i = 0; i < all.size(); i++)
            store(type, out, i, sums * all[i] + (before == 0 ? 0 : before * load(type, out, i)));
    }
};

// How an algorithm multiplies: as cuDNN does, with what a descriptor is told before it ranks and before it computes.
enum Math { DEFAULT = 0, TENSOR_OP = 1, FMA = 3 };
enum Algorithm { FAST = 0, SAME_EACH_TIME = 1, PLAIN = 2, WITHOUT_SPACE = 3 };
constexpr int NOT_SUPPORTED = 3000;

static bool is_half(Type type) { return type == Type::F16 || type == Type::Bf16; }

// What it computes with: enough space, numbers where tensor cores read, the way to multiply of the algorithm.
static int check(const void *space, size_t size, Type type, const Convolution &c, int algorithm, const void *x,
                 const void *w, const void *y) {
    bool cores = algorithm == FAST || algorithm == SAME_EACH_TIME;
    int wanted = cores ? TENSOR_OP : type == Type::F64 ? DEFAULT : FMA;
    if (algorithm == WITHOUT_SPACE || c.math != wanted) return NOT_SUPPORTED;
    bool aligned = (size_t)x % 16 == 0 && (size_t)w % 16 == 0 && (size_t)y % 16 == 0;
    if (cores && !aligned) return 2000;
    return size < 64 || !space ? 2000 : 0;
}

API cudnnConvolutionForward(void *, const void *alpha, Tensor *xd, const void *x, Filter *wd, const void *w,
                            Convolution *c, int algorithm, void *space, size_t size, const void *beta, Tensor *yd, void *y) {
    if (int error = check(space, size, xd->type, *c, algorithm, x, w, y)) return error;
    Factors factors(yd->type, alpha, beta);
    return emulator::queue([=] {
        std::vector<double> sums(span(*yd));
        int error = convolve(*xd, *wd, *c, *yd, [&](int64_t i, int64_t j, int64_t k) {
            sums[k] += load(xd->type, x, i) * load(wd->type, w, j);
        });
        if (!error) factors.finish(yd->type, y, sums);
        return error;
    });
}

API cudnnConvolutionBackwardData(void *, const void *alpha, Filter *wd, const void *w, Tensor *yd, const void *y,
                                 Convolution *c, int algorithm, void *space, size_t size, const void *beta, Tensor *xd, void *x) {
    if (int error = check(space, size, xd->type, *c, algorithm, x, w, y)) return error;
    Factors factors(xd->type, alpha, beta);
    return emulator::queue([=] {
        std::vector<double> sums(span(*xd));
        int error = convolve(*xd, *wd, *c, *yd, [&](int64_t i, int64_t j, int64_t k) {
            sums[i] += load(yd->type, y, k) * load(wd->type, w, j);
        });
        if (!error) factors.finish(xd->type, x, sums);
        return error;
    });
}

API cudnnConvolutionBackwardFilter(void *, const void *alpha, Tensor *xd, const void *x, Tensor *yd, const void *y,
                                   Convolution *c, int algorithm, void *space, size_t size, const void *beta, Filter *wd, void *w) {
    if (int error = check(space, size, xd->type, *c, algorithm, x, w, y)) return error;
    Factors factors(wd->type, alpha, beta);
    return emulator::queue([=] {
        std::vector<double> sums(span(*wd));
        int error = convolve(*xd, *wd, *c, *yd, [&](int64_t i, int64_t j, int64_t k) {
            sums[j] += load(xd->type, x, i) * load(yd->type, y, k);
        });
        if (!error) factors.finish(wd->type, w, sums);
        return error;
    });
}

struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

// Without tensor cores it has nothing for 16 bits, and with them nothing that is dilated by three, to have such a case.
static int answer(const Tensor *x, const Convolution *c, int most, int *count, Performance *found) {
    bool cores = c->math == TENSOR_OP && x->type != Type::F64;
    for (int dilation : c->dilation) cores &= !(is_half(x->type) && dilation == 3);
    std::vector<Performance> all = {{FAST, NOT_SUPPORTED, -1, 0, 1, TENSOR_OP, {}}};
    if (cores) {
        all.push_back({FAST, 0, 1, 64, 0, TENSOR_OP, {}});
        all.push_back({SAME_EACH_TIME, 0, 2, 64, 1, TENSOR_OP, {}});
    } else if (!is_half(x->type)) {
        all.push_back({WITHOUT_SPACE, 0, 1, 64, 1, c->math, {}});
        all.push_back({PLAIN, 0, 2, 64, 1, c->math, {}});
    }
    *count = std::min(most, (int)all.size());
    std::copy_n(all.begin(), *count, found);
    return 0;
}
static int space_of(int algorithm, size_t *size) {
    *size = 64;
    return algorithm == WITHOUT_SPACE ? NOT_SUPPORTED : 0;
}

API cudnnGetConvolutionForwardAlgorithm_v7(void *, Tensor *x, Filter *, Convolution *c, Tensor *, int most, int *count,
                                           Performance *found) {
    return answer(x, c, most, count, found);
}
API cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, Filter *, Tensor *y, Convolution *c, Tensor *, int most,
                                                int *count, Performance *found) {
    return answer(y, c, most, count, found);
}
API cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, Tensor *x, Tensor *, Convolution *c, Filter *, int most,
                                                  int *count, Performance *found) {
    return answer(x, c, most, count, found);
}
API cudnnGetConvolutionForwardWorkspaceSize(void *, Tensor *, Filter *, Convolution *, Tensor *, int algorithm,
                                            size_t *size) {
    return space_of(algorithm, size);
}
API cudnnGetConvolutionBackwardDataWorkspaceSize(void *, Filter *, Tensor *, Convolution *, Tensor *, int algorithm,
                                                 size_t *size) {
    return space_of(algorithm, size);
}
API cudnnGetConvolutionBackwardFilterWorkspaceSize(void *, Tensor *, Tensor *, Convolution *, Filter *, int algorithm,
                                                   size_t *size) {
    return space_of(algorithm, size);
}
