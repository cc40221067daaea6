// Sums, products with constants and with complex matrices, joins; see mod.rs.
#include "rows.cuh"

template <class T> __device__ __forceinline__ void add(const T *x, const T *y, T *out, size_t count) {
    each_pair(x, y, out, count, [](size_t, Wide<T> x, Wide<T> y) { return x + y; });
}

template <class T> __device__ __forceinline__ void scale(const T *x, Wide<T> factor, T *out, size_t count) {
    each_number(x, out, count, [=](size_t, Wide<T> x) { return x * factor; });
}

// Planes take the `shifts` numbers in turn; see `plane_of`. The result may be `x`.
template <class T>
__device__ __forceinline__ void add_to_channels(const T *x, const T *shift, T *out, size_t count, size_t plane,
                                                size_t channels, size_t shifts) {
    each_number(x, out, count, [=](size_t i, Wide<T> x) {
        return x + wide(shift[remainder(plane_of(i, plane, channels), shifts)]);
    });
}

template <class T>
__device__ __forceinline__ void scale_channels(const T *x, const T *factor, T *out, size_t count, size_t plane,
                                               size_t channels, size_t factors) {
    each_number(x, out, count, [=](size_t i, Wide<T> x) {
        return x * wide(factor[remainder(plane_of(i, plane, channels), factors)]);
    });
}

// A block for each plane.
template <class T>
__device__ __forceinline__ void plane_products(const T *x, const T *y, T *out, size_t planes, size_t plane) {
    for (size_t p = blockIdx.x; p < planes; p += gridDim.x) {
        double sum = 0;
        for (size_t i = threadIdx.x; i < plane; i += THREADS)
            sum += (double)wide(x[p * plane + i]) * (double)wide(y[p * plane + i]);
        sum = block_sum(sum);
        if (threadIdx.x == 0) narrow((Wide<T>)sum, out + p);
    }
}

template <class T> __device__ __forceinline__ void plane_sums(const T *x, T *out, size_t planes, size_t plane) {
    for (size_t p = blockIdx.x; p < planes; p += gridDim.x) {
        double sum = 0;
        for (size_t i = threadIdx.x; i < plane; i += THREADS) sum += (double)wide(x[p * plane + i]);
        sum = block_sum(sum);
        if (threadIdx.x == 0) narrow((Wide<T>)sum, out + p);
    }
}

// The sums over each `piece` rows of a column of x, or of its products with y: a thread for each.
template <class T>
__device__ __forceinline__ void column_parts(const T *x, const T *y, double *parts, size_t batch, size_t rows,
                                             size_t width, size_t piece) {
    size_t pieces = (rows + piece - 1) / piece;
    EACH(i, batch * pieces * width) {
        size_t column = i % width, part = i / width, item = part / pieces, first = (part - item * pieces) * piece;
        size_t last = first + piece < rows ? first + piece : rows;
        double sum = 0;
        for (size_t row = first; row < last; row++) {
            size_t at = (item * rows + row) * width + column;
            sum += (double)wide(x[at]) * (y ? (double)wide(y[at]) : 1);
        }
        parts[i] = sum;
    }
}

// A block for each column of each item.
template <class T>
__device__ __forceinline__ void column_ends(const double *parts, T *out, size_t batch, size_t pieces, size_t width) {
    for (size_t i = blockIdx.x; i < batch * width; i += gridDim.x) {
        size_t item = i / width, column = i - item * width;
        double sum = 0;
        for (size_t j = threadIdx.x; j < pieces; j += THREADS) sum += parts[(item * pieces + j) * width + column];
        sum = block_sum(sum);
        if (threadIdx.x == 0) narrow((Wide<T>)sum, out + i);
    }
}

#define ADD(T) (const T *x, const T *y, T *out, size_t count)
#define SCALE(T) (const T *x, Wide<T> factor, T *out, size_t count)
#define BY_PLANE(T)                                                                                          \
    (const T *x, const T *numbers, T *out, size_t count, size_t plane, size_t channels, size_t many)
#define PLANE_PRODUCTS(T) (const T *x, const T *y, T *out, size_t planes, size_t plane)
#define PLANE_SUMS(T) (const T *x, T *out, size_t planes, size_t plane)
EVERY(add, ADD, (x, y, out, count))
EVERY(scale, SCALE, (x, factor, out, count))
EVERY(add_to_channels, BY_PLANE, (x, numbers, out, count, plane, channels, many))
EVERY(scale_channels, BY_PLANE, (x, numbers, out, count, plane, channels, many))
EVERY(plane_products, PLANE_PRODUCTS, (x, y, out, planes, plane))
EVERY(plane_sums, PLANE_SUMS, (x, out, planes, plane))
#define COLUMN_PARTS(T)                                                                                      \
    (const T *x, const T *y, double *parts, size_t batch, size_t rows, size_t width, size_t piece)
#define COLUMN_ENDS(T) (const double *parts, T *out, size_t batch, size_t pieces, size_t width)
EVERY(column_parts, COLUMN_PARTS, (x, y, parts, batch, rows, width, piece))
EVERY(column_ends, COLUMN_ENDS, (parts, out, batch, pieces, width))

// Rows of `width` elements into longer ones, `pitch` from one to the next, from element `first` of these on.
template <class V>
__device__ __forceinline__ void copy_rows(const V *x, V *out, size_t rows, size_t width, size_t pitch,
                                          size_t first) {
    each_row<8>(rows, width, [&](size_t row, size_t from, size_t to, size_t step) {
        for (size_t i = from; i < to; i += step) out[row * pitch + first + i] = x[row * width + i];
    });
}

template <class T>
__device__ __forceinline__ void cat(const T *x, T *out, size_t rows, size_t width, size_t pitch, size_t first) {
    constexpr size_t N = Pack<T>::COUNT;
    if (is_aligned(x) && is_aligned(out) && (width | pitch | first) % N == 0)
        copy_rows((const Pack<T> *)x, (Pack<T> *)out, rows, width / N, pitch / N, first / N);
    else
        copy_rows(x, out, rows, width, pitch, first);
}

// As `copy_rows`, with zeros around.
template <class V>
__device__ __forceinline__ void widen_rows(const V *x, V *out, size_t rows, size_t width, size_t pitch,
                                           size_t first) {
    each_row<8>(rows, pitch, [&](size_t row, size_t from, size_t to, size_t step) {
        for (size_t i = from; i < to; i += step)
            out[row * pitch + i] = i >= first && i - first < width ? x[row * width + (i - first)] : V{};
    });
}

template <class T>
__device__ __forceinline__ void widen(const T *x, T *out, size_t rows, size_t width, size_t pitch,
                                      size_t first) {
    constexpr size_t N = Pack<T>::COUNT;
    if (is_aligned(x) && is_aligned(out) && (width | pitch | first) % N == 0)
        widen_rows((const Pack<T> *)x, (Pack<T> *)out, rows, width / N, pitch / N, first / N);
    else
        widen_rows(x, out, rows, width, pitch, first);
}

__device__ __forceinline__ void cos_sin(float angle, float *cosine, float *sine) {
    sincosf(angle, sine, cosine);
}
__device__ __forceinline__ void cos_sin(double angle, double *cosine, double *sine) {
    sincos(angle, sine, cosine);
}

// Rows of `numbers` numbers, then the cosines and the sines of `count` angles.
template <class T>
__device__ __forceinline__ void with_waves(const T *x, const T *angles, T *out, size_t rows, size_t numbers,
                                           size_t count) {
    size_t width = numbers + 2 * count;
    each_row<4>(rows, numbers + count, [&](size_t row, size_t from, size_t to, size_t step) {
        for (size_t i = from; i < to; i += step) {
            T *at = out + row * width + i;
            if (i < numbers) *at = x[row * numbers + i];
            else cos_sin(angles[row * count + (i - numbers)], at, at + count);
        }
    });
}

template <class T> struct alignas(2 * sizeof(T)) Complex {
    T re, im;
};

template <class T> __device__ __forceinline__ Complex<T> pair(const T *x, size_t i) {
    return {x[2 * i], x[2 * i + 1]};
}

constexpr int COMPLEX_TILE = 16;

// `out(n, i, j, sum)` for `batch` matrices of `rows` and `columns`: the sums over all s of a(n, i, s) times
// b(n, j, s). A block for each tile of them. ALONG: neighbours in memory differ in s, else in i or j.
template <class T, bool A_ALONG, bool B_ALONG, class A, class B, class Out>
__device__ __forceinline__ void complex_tiles(size_t batch, size_t rows, size_t columns, size_t terms, A a, B b,
                                              Out out) {
    static_assert(COMPLEX_TILE * COMPLEX_TILE == THREADS, "a thread for each element");
    __shared__ Complex<T> left[COMPLEX_TILE][COMPLEX_TILE + 1], right[COMPLEX_TILE][COMPLEX_TILE + 1];
    size_t down = (rows + COMPLEX_TILE - 1) / COMPLEX_TILE;
    size_t across = (columns + COMPLEX_TILE - 1) / COMPLEX_TILE;
    unsigned y = threadIdx.x / COMPLEX_TILE, x = threadIdx.x % COMPLEX_TILE;
    unsigned ai = A_ALONG ? y : x, as = A_ALONG ? x : y, bj = B_ALONG ? y : x, bs = B_ALONG ? x : y;
    for (size_t block = blockIdx.x; block < batch * down * across; block += gridDim.x) {
        size_t rest = block / across, n = rest / down;
        size_t i = (rest - n * down) * COMPLEX_TILE, j = (block - rest * across) * COMPLEX_TILE;
        Complex<T> sum = {0, 0};
        for (size_t s = 0; s < terms; s += COMPLEX_TILE) {
            Complex<T> p = {0, 0}, q = {0, 0};
            if (i + ai < rows && s + as < terms) p = a(n, i + ai, s + as);
            if (j + bj < columns && s + bs < terms) q = b(n, j + bj, s + bs);
            left[ai][as] = p;
            right[bj][bs] = q;
            __syncthreads();
            int count = terms - s < COMPLEX_TILE ? (int)(terms - s) : COMPLEX_TILE;
            if (i + y < rows)
                for (int k = 0; k < count; k++) {
                    Complex<T> l = left[y][k], r = right[x][k];
                    sum.re += l.re * r.re - l.im * r.im;
                    sum.im += l.re * r.im + l.im * r.re;
                }
            __syncthreads();
        }
        if (i + y < rows && j + x < columns) out(n, i + y, j + x, sum);
    }
}

// `batch` matrices of `rows` and `columns`, with `each` vectors `v`, which are pairs as the products are.
template <class T>
__device__ __forceinline__ void complex_product(const T *re, const T *im, const T *v, T *out, size_t batch,
                                                size_t rows, size_t columns, size_t each) {
    complex_tiles<T, true, true>(
        batch, each, rows, columns,
        [&](size_t n, size_t r, size_t k) { return pair(v, (n * each + r) * columns + k); },
        [&](size_t n, size_t m, size_t k) -> Complex<T> {
            size_t at = (n * rows + m) * columns + k;
            return {re[at], im[at]};
        },
        [&](size_t n, size_t r, size_t m, Complex<T> sum) {
            ((Complex<T> *)out)[(n * each + r) * rows + m] = sum;
        });
}

// The gradient of one part of the matrices: the real part of g * conj(v), or of -i * g * conj(v).
template <class T>
__device__ __forceinline__ void complex_outer(const T *v, const T *g, T *out, size_t batch, size_t rows,
                                              size_t columns, size_t each, int imaginary) {
    complex_tiles<T, false, false>(
        batch, rows, columns, each,
        [&](size_t n, size_t m, size_t r) -> Complex<T> {
            Complex<T> c = pair(g, (n * each + r) * rows + m);
            return imaginary ? Complex<T>{c.im, -c.re} : c;
        },
        [&](size_t n, size_t k, size_t r) -> Complex<T> {
            Complex<T> c = pair(v, (n * each + r) * columns + k);
            return {c.re, -c.im};
        },
        [&](size_t n, size_t m, size_t k, Complex<T> sum) { out[(n * rows + m) * columns + k] = sum.re; });
}

// The gradient of the vectors.
template <class T>
__device__ __forceinline__ void complex_adjoint(const T *re, const T *im, const T *g, T *out, size_t batch,
                                                size_t rows, size_t columns, size_t each) {
    complex_tiles<T, true, false>(
        batch, each, columns, rows,
        [&](size_t n, size_t r, size_t m) { return pair(g, (n * each + r) * rows + m); },
        [&](size_t n, size_t k, size_t m) -> Complex<T> {
            size_t at = (n * rows + m) * columns + k;
            return {re[at], -im[at]};
        },
        [&](size_t n, size_t r, size_t k, Complex<T> sum) {
            ((Complex<T> *)out)[(n * each + r) * columns + k] = sum;
        });
}

#define ROWS(T) (const T *x, T *out, size_t rows, size_t width, size_t pitch, size_t first)
#define WITH_WAVES(T) (const T *x, const T *angles, T *out, size_t rows, size_t numbers, size_t count)
#define COMPLEX(T)                                                                                           \
    (const T *re, const T *im, const T *v, T *out, size_t batch, size_t rows, size_t columns, size_t each)
#define COMPLEX_OUTER(T)                                                                                     \
    (const T *v, const T *g, T *out, size_t batch, size_t rows, size_t columns, size_t each, int imaginary)
EVERY(cat, ROWS, (x, out, rows, width, pitch, first))
EVERY(widen, ROWS, (x, out, rows, width, pitch, first))
BOTH(with_waves, WITH_WAVES, (x, angles, out, rows, numbers, count))
BOTH(complex_product, COMPLEX, (re, im, v, out, batch, rows, columns, each))
BOTH(complex_outer, COMPLEX_OUTER, (v, g, out, batch, rows, columns, each, imaginary))
BOTH(complex_adjoint, COMPLEX, (re, im, v, out, batch, rows, columns, each))
