// What the losses of limpid-losses need of a GPU: means of functions of elements, correlations, spectra and
// structural similarity. All arithmetic is in double, as theirs is.
#include "limpid.cuh"

// Elements of a sample that a block adds up.
constexpr size_t PIECE = 8192;

// The functions: `x` is one element of each tensor, `p` and `q` are parameters. They return the value and write
// the derivatives by each element to `d`; kinks are those of limpid-losses.
#define AT static __device__ __forceinline__ double at(const double *x, double p, double q, double *d)

// 0 stays 0 and NaN stays NaN.
__device__ __forceinline__ double sign(double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : x * 0.0; }
__device__ __forceinline__ double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }
__device__ __forceinline__ double sigmoid(double x) {
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

struct Identity {
    static constexpr int N = 1;
    AT { d[0] = 1; return x[0]; }
};
struct Negated {
    static constexpr int N = 1;
    AT { d[0] = -1; return -x[0]; }
};
struct Square {
    static constexpr int N = 1;
    AT { d[0] = 2 * x[0]; return x[0] * x[0]; }
};
struct Magnitude {
    static constexpr int N = 1;
    AT { d[0] = sign(x[0]); return fabs(x[0]); }
};
struct Root {
    static constexpr int N = 1;
    AT {
        double root = sqrt(x[0]);
        d[0] = root == 0 ? 0 : 0.5 / root;
        return root;
    }
};
struct RootOfSum {
    static constexpr int N = 1;
    AT {
        double root = sqrt(x[0] + p);
        d[0] = 0.5 / root;
        return root;
    }
};
struct Vanilla {
    static constexpr int N = 1;
    AT { d[0] = sigmoid(x[0]) - p; return softplus(x[0]) - p * x[0]; }
};
struct LeastSquares {
    static constexpr int N = 1;
    AT {
        double e = x[0] - p;
        d[0] = 2 * e;
        return e * e;
    }
};
struct HingeReal {
    static constexpr int N = 1;
    AT {
        double m = 1 - x[0];
        d[0] = m <= 0 ? 0 : -1;
        return m <= 0 ? 0 : m;
    }
};
struct HingeFake {
    static constexpr int N = 1;
    AT {
        double m = 1 + x[0];
        d[0] = m <= 0 ? 0 : 1;
        return m <= 0 ? 0 : m;
    }
};
struct SoftplusNegated {
    static constexpr int N = 1;
    AT { d[0] = -sigmoid(-x[0]); return softplus(-x[0]); }
};
struct PatchHingeReal {
    static constexpr int N = 1;
    AT {
        double t = tanh(x[0]);
        d[0] = t * t - 1;
        return 1 - t;
    }
};
struct PatchHingeFake {
    static constexpr int N = 1;
    AT {
        double t = tanh(x[0]);
        d[0] = 1 - t * t;
        return 1 + t;
    }
};
struct PatchLeastSquares {
    static constexpr int N = 1;
    AT {
        double leak = x[0] > 0 ? 1 : q, e = x[0] * leak - p;
        d[0] = 2 * e * leak;
        return e * e;
    }
};
struct L1 {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1];
        d[0] = sign(e);
        d[1] = -d[0];
        return fabs(e);
    }
};
struct L2 {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1];
        d[0] = 2 * e;
        d[1] = -2 * e;
        return e * e;
    }
};
struct Charbonnier {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1], root = sqrt(e * e + p * p);
        d[0] = e / root;
        d[1] = -d[0];
        return root;
    }
};
struct Huber {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1];
        d[0] = e < -p ? -p : e > p ? p : e;
        d[1] = -d[0];
        return fabs(e) < p ? 0.5 * e * e : p * (fabs(e) - 0.5 * p);
    }
};
struct LogCosh {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1];
        d[0] = tanh(e);
        d[1] = -d[0];
        return fabs(e) + log1p(exp(-2 * fabs(e))) - 0.69314718055994530942;
    }
};
struct Pinball {
    static constexpr int N = 2;
    AT {
        double e = x[0] - x[1];
        d[0] = e > 0 ? 1 - p : e < 0 ? -p : e * 0.0;
        d[1] = -d[0];
        return d[0] * e;
    }
};
struct Poisson {
    static constexpr int N = 2;
    AT {
        double logarithm = log(x[0] + p);
        d[0] = 1 - x[1] / (x[0] + p);
        d[1] = -logarithm;
        return x[0] - x[1] * logarithm;
    }
};
struct PoissonLog {
    static constexpr int N = 2;
    AT {
        double rate = exp(x[0]);
        d[0] = rate - x[1];
        d[1] = -x[0];
        return rate - x[1] * x[0];
    }
};
struct CrossEntropy {
    static constexpr int N = 2;
    AT {
        double below = softplus(-x[0]), above = softplus(x[0]), t = x[1];
        d[0] = (1 - t) * sigmoid(x[0]) - p * t * sigmoid(-x[0]);
        d[1] = p * below - above;
        return p * t * below + (1 - t) * above;
    }
};
struct Product {
    static constexpr int N = 2;
    AT { d[0] = x[1]; d[1] = x[0]; return x[0] * x[1]; }
};
struct Modulus {
    static constexpr int N = 2;
    AT {
        double size = hypot(x[0], x[1]), over = size > 0 ? 1 / size : 0 * size;
        d[0] = over * x[0];
        d[1] = over * x[1];
        return size;
    }
};
struct Gaussian {
    static constexpr int N = 3;
    AT {
        double e = x[0] - x[1], v = x[2] < p ? p : x[2], slope = e / v;
        d[0] = slope;
        d[1] = -slope;
        d[2] = 0.5 / v - 0.5 * slope * slope;
        return 0.5 * (log(v) + e * slope) + q;
    }
};
struct GaussianLog {
    static constexpr int N = 3;
    AT {
        double e = x[0] - x[1], slope = e * exp(-x[2]);
        d[0] = slope;
        d[1] = -slope;
        d[2] = 0.5 - 0.5 * e * slope;
        return 0.5 * (x[2] + e * slope);
    }
};
struct WeightedL2 {
    static constexpr int N = 3;
    AT {
        double e = x[0] - x[1], m = x[2];
        d[0] = 2 * m * e;
        d[1] = -2 * m * e;
        d[2] = e * e;
        return m * e * e;
    }
};
struct Divergence {
    static constexpr int N = 3;
    AT {
        double e = x[0] - x[1], b = x[2];
        d[0] = p * b;
        d[1] = -p * b;
        d[2] = p * e;
        return p * b * e;
    }
};

#define FUNCTIONS(F)                                                                                         \
    F(identity, Identity) F(negated, Negated) F(square, Square) F(magnitude, Magnitude) F(root, Root)        \
    F(root_of_sum, RootOfSum) F(vanilla, Vanilla) F(least_squares, LeastSquares) F(hinge_real, HingeReal)    \
    F(hinge_fake, HingeFake) F(softplus_negated, SoftplusNegated) F(patch_hinge_real, PatchHingeReal)        \
    F(patch_hinge_fake, PatchHingeFake) F(patch_least_squares, PatchLeastSquares) F(l1, L1) F(l2, L2)        \
    F(charbonnier, Charbonnier) F(huber, Huber) F(log_cosh, LogCosh) F(pinball, Pinball) F(poisson, Poisson) \
    F(poisson_log, PoissonLog) F(cross_entropy, CrossEntropy) F(product, Product) F(modulus, Modulus)        \
    F(gaussian, Gaussian) F(gaussian_log, GaussianLog) F(weighted_l2, WeightedL2) F(divergence, Divergence)

// A part of a sample: each sample of `size` elements is cut into `pieces`.
struct Part {
    size_t sample, begin, end;
    __device__ Part(size_t block, size_t size, size_t pieces) : sample(block / pieces) {
        size_t from = block % pieces * PIECE;
        begin = sample * size + from;
        end = sample * size + (from + PIECE < size ? from + PIECE : size);
    }
};

// The sum of the function over each piece, a block for each.
template <class F, class T>
__device__ __forceinline__ void sums(const T *a, const T *b, const T *c, double *parts, size_t size,
                                     size_t samples, size_t pieces, double p, double q) {
    for (size_t block = blockIdx.x; block < samples * pieces; block += gridDim.x) {
        Part part(block, size, pieces);
        double sum = 0;
        for (size_t i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
            double x[3] = {(double)a[i], F::N > 1 ? (double)b[i] : 0, F::N > 2 ? (double)c[i] : 0}, d[3];
            sum += F::at(x, p, q, d);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) parts[block] = sum;
    }
}

// The gradients by the tensors whose `da`, `db` or `dc` is not null, for `grad` by the mean of each sample.
template <class F, class T>
__device__ __forceinline__ void slopes(const T *a, const T *b, const T *c, const T *grad, T *da, T *db, T *dc,
                                       size_t size, size_t samples, size_t pieces, double p, double q) {
    for (size_t block = blockIdx.x; block < samples * pieces; block += gridDim.x) {
        Part part(block, size, pieces);
        double scale = (double)grad[part.sample] / (double)size;
        for (size_t i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
            double x[3] = {(double)a[i], F::N > 1 ? (double)b[i] : 0, F::N > 2 ? (double)c[i] : 0}, d[3];
            F::at(x, p, q, d);
            if (da) da[i] = (T)(scale * d[0]);
            if (F::N > 1 && db) db[i] = (T)(scale * d[1]);
            if (F::N > 2 && dc) dc[i] = (T)(scale * d[2]);
        }
    }
}

#define KERNELS_OF(name, F, T, suffix)                                                                       \
    extern "C" __global__ void loss_##name##_sums_##suffix(const T *a, const T *b, const T *c, double *parts, \
                                                           size_t size, size_t samples, size_t pieces,       \
                                                           double p, double q) {                             \
        sums<F>(a, b, c, parts, size, samples, pieces, p, q);                                                \
    }                                                                                                        \
    extern "C" __global__ void loss_##name##_slopes_##suffix(                                                \
        const T *a, const T *b, const T *c, const T *grad, T *da, T *db, T *dc, size_t size, size_t samples, \
        size_t pieces, double p, double q) {                                                                 \
        slopes<F>(a, b, c, grad, da, db, dc, size, samples, pieces, p, q);                                   \
    }
#define KERNELS(name, F) KERNELS_OF(name, F, float, f32) KERNELS_OF(name, F, double, f64)
FUNCTIONS(KERNELS)

// The mean of each sample from the sums of its pieces, a block for each.
template <class T>
__device__ __forceinline__ void loss_means(const double *parts, T *out, size_t size, size_t samples,
                                           size_t pieces) {
    for (size_t s = blockIdx.x; s < samples; s += gridDim.x) {
        double sum = 0;
        for (size_t i = threadIdx.x; i < pieces; i += THREADS) sum += parts[s * pieces + i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) out[s] = (T)(sum / (double)size);
    }
}

template <class T> __device__ __forceinline__ void loss_widen(const T *x, double *out, size_t count) {
    EACH(i, count) out[i] = (double)x[i];
}

template <class T> __device__ __forceinline__ void loss_narrow(const double *x, T *out, size_t count) {
    EACH(i, count) out[i] = (T)x[i];
}

// Correlation along an axis of `len` elements, `inner` apart, with zeros outside: result `k` begins at
// `k + shift`.
extern "C" __global__ void loss_correlate_f64(const double *x, const double *taps, double *out, size_t count,
                                              size_t len, size_t length, size_t inner, int size, int shift) {
    EACH(i, count) {
        size_t within = i % inner, k = i / inner % length, line = i / inner / length;
        const double *at = x + line * len * inner + within;
        double sum = 0;
        for (int t = 0; t < size; t++) {
            long long j = (long long)k + t + shift;
            if (j >= 0 && j < (long long)len) sum += taps[t] * at[(size_t)j * inner];
        }
        out[i] = sum;
    }
}

// out[k] = scale * sum of x[j] * turn^(direction * j * k) along an axis; `turns` has the powers of the `n`-th
// root of one. Numbers are pairs, but for a real `x` or a real part as result.
extern "C" __global__ void loss_fourier_f64(const double *x, const double *turns, double *out, size_t count,
                                            size_t inputs, size_t outputs, size_t inner, size_t n,
                                            double direction, double scale, int real_x, int real_out) {
    EACH(i, count) {
        size_t within = i % inner, k = i / inner % outputs, line = i / inner / outputs, turn = 0;
        double re = 0, im = 0;
        for (size_t j = 0; j < inputs; j++) {
            size_t at = (line * inputs + j) * inner + within;
            double a = real_x ? x[at] : x[2 * at], b = real_x ? 0 : x[2 * at + 1];
            double c = turns[2 * turn], s = direction * turns[2 * turn + 1];
            re += a * c - b * s;
            im += a * s + b * c;
            turn += k;
            if (turn >= n) turn -= n;
        }
        if (real_out) {
            out[i] = scale * re;
        } else {
            out[2 * i] = scale * re;
            out[2 * i + 1] = scale * im;
        }
    }
}

// The five arrays whose windowed means structural similarity is made of, one behind the other.
template <class T>
__device__ __forceinline__ void loss_ssim_products(const T *x, const T *y, double *out, size_t count) {
    EACH(i, count) {
        double a = (double)x[i], b = (double)y[i];
        out[i] = a;
        out[i + count] = b;
        out[i + 2 * count] = a * a;
        out[i + 3 * count] = b * b;
        out[i + 4 * count] = a * b;
    }
}

struct Similarity {
    double x, y, a1, a2, b1, b2;
    // of the means at `i`; `swapped` exchanges the images
    __device__ Similarity(const double *means, size_t i, size_t count, int swapped, double c1, double c2,
                          double covariance) {
        x = means[swapped ? i + count : i];
        y = means[swapped ? i : i + count];
        double xx = means[i + (swapped ? 3 : 2) * count], yy = means[i + (swapped ? 2 : 3) * count];
        a1 = 2 * x * y + c1;
        a2 = 2 * covariance * (means[i + 4 * count] - x * y) + c2;
        b1 = x * x + y * y + c1;
        b2 = covariance * ((xx - x * x) + (yy - y * y)) + c2;
    }
    __device__ double value() const { return a1 * a2 / (b1 * b2); }
};

extern "C" __global__ void loss_ssim_sums_f64(const double *means, double *parts, size_t size, size_t samples,
                                              size_t pieces, double c1, double c2, double covariance) {
    for (size_t block = blockIdx.x; block < samples * pieces; block += gridDim.x) {
        Part part(block, size, pieces);
        double sum = 0;
        for (size_t i = part.begin + threadIdx.x; i < part.end; i += THREADS)
            sum += Similarity(means, i, samples * size, 0, c1, c2, covariance).value();
        sum = block_sum(sum);
        if (threadIdx.x == 0) parts[block] = sum;
    }
}

// Derivatives of the weighted means by the windowed means of x, x² and x y, one array behind the other.
template <class T>
__device__ __forceinline__ void loss_ssim_slopes(const double *means, const T *grad, double *out, size_t size,
                                                 size_t samples, size_t pieces, int swapped, double c1,
                                                 double c2, double covariance) {
    size_t count = samples * size;
    for (size_t block = blockIdx.x; block < samples * pieces; block += gridDim.x) {
        Part part(block, size, pieces);
        double scale = (double)grad[part.sample] / (double)size;
        for (size_t i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
            Similarity m(means, i, count, swapped, c1, c2, covariance);
            double s = m.value(), d = m.b1 * m.b2;
            double by_xx = -covariance * s / m.b2, by_xy = 2 * covariance * m.a1 / d;
            double by_x = 2 * m.y * m.a2 / d - 2 * m.x * s / m.b1 - 2 * m.x * by_xx - m.y * by_xy;
            out[i] = scale * by_x;
            out[i + count] = scale * by_xx;
            out[i + 2 * count] = scale * by_xy;
        }
    }
}

// The gradient by x from the three arrays, spread over the windows.
template <class T>
__device__ __forceinline__ void loss_ssim_gradient(const double *spread, const T *x, const T *y, T *out,
                                                   size_t count) {
    EACH(i, count)
    out[i] = (T)(spread[i] + 2 * (double)x[i] * spread[i + count] + (double)y[i] * spread[i + 2 * count]);
}

#define MEANS(T) (const double *parts, T *out, size_t size, size_t samples, size_t pieces)
#define WIDEN(T) (const T *x, double *out, size_t count)
#define NARROW(T) (const double *x, T *out, size_t count)
#define PRODUCTS(T) (const T *x, const T *y, double *out, size_t count)
#define SLOPES(T)                                                                                            \
    (const double *means, const T *grad, double *out, size_t size, size_t samples, size_t pieces, int swapped, \
     double c1, double c2, double covariance)
#define GRADIENT(T) (const double *spread, const T *x, const T *y, T *out, size_t count)
BOTH(loss_means, MEANS, (parts, out, size, samples, pieces))
BOTH(loss_widen, WIDEN, (x, out, count))
BOTH(loss_narrow, NARROW, (x, out, count))
BOTH(loss_ssim_products, PRODUCTS, (x, y, out, count))
BOTH(loss_ssim_slopes, SLOPES, (means, grad, out, size, samples, pieces, swapped, c1, c2, covariance))
BOTH(loss_ssim_gradient, GRADIENT, (spread, x, y, out, count))
