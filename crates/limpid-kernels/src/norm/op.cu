// Normalisation: moments, values and gradients; see channel.rs and layer.rs.
//
// Everything goes by rows, which share a statistic or are part of what shares one, and by pieces of rows. Up to
// 32 lanes of a warp take a piece, 16 bytes at a time. Partial results are merged in a fixed order.
#include "functions.cuh"
#include "rows.cuh"

// How the rows of an array are cut; see `Rows` in cuda/mod.rs.
struct Rows {
    size_t count, width;
    // row `r` is row `r / own * all + first + r % own` of the joined image
    size_t own, first, all;
    size_t piece, pieces, lanes;
};

// Which rows of the joined image share a statistic: `members` that follow each other, or every `statistics`th.
struct Sharing {
    size_t statistics, members;
    int strided;
};

#ifdef __CUDACC__

__device__ __forceinline__ size_t statistic_of(const Sharing &sharing, size_t row) {
    return sharing.strided ? row % sharing.statistics : row / sharing.members;
}

// The place of the partial result of a statistic's `i`th piece.
__device__ __forceinline__ size_t part_of(const Sharing &sharing, size_t statistic, size_t i, size_t pieces) {
    size_t member = i / pieces;
    size_t strided = statistic + member * sharing.statistics, together = statistic * sharing.members + member;
    size_t row = sharing.strided ? strided : together;
    return row * pieces + i % pieces;
}

// The piece of a row that a thread works on with its neighbours, `from..to` in the row.
struct Piece {
    size_t row, joined, part, from, to, lane;
    bool exists;

    __device__ __forceinline__ Piece(const Rows &rows, size_t first) {
        size_t i = first + threadIdx.x / rows.lanes;
        exists = i < rows.count * rows.pieces;
        lane = threadIdx.x % rows.lanes;
        row = exists ? i / rows.pieces : 0;
        from = exists ? i % rows.pieces * rows.piece : 0;
        to = !exists ? 0 : from + rows.piece < rows.width ? from + rows.piece : rows.width;
        joined = row / rows.own * rows.all + rows.first + row % rows.own;
        part = joined * rows.pieces + (exists ? i % rows.pieces : 0);
    }
};

// The same pieces for all threads of a warp, so that they can exchange what they find.
#define EACH_PIECE(first, rows)                                                                              \
    for (size_t first = blockIdx.x * (THREADS / (rows).lanes); first < (rows).count * (rows).pieces;         \
         first += gridDim.x * (THREADS / (rows).lanes))

// The sum over the lanes of a piece, in each of them.
__device__ __forceinline__ double piece_sum(double value, const Rows &rows) {
    for (int step = (int)rows.lanes / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// As many numbers as are read at once where they are aligned, to be computed with.
template <class T> struct Few {
    static constexpr int SIZE = Pack<T>::COUNT;
    Wide<T> v[SIZE];
};

// Packs of an array that a thread reads before it looks at the first.
constexpr int RUN = 4;

// Whether rows are made of packs; pieces are.
template <class T> __device__ __forceinline__ bool is_aligned(const Rows &rows, size_t addresses) {
    return rows.width % Few<T>::SIZE == 0 && addresses % 16 == 0;
}
#define ADDRESS(array) ((size_t)(array))

template <class T> __device__ __forceinline__ Few<T> load_pack(const T *x) {
    Pack<T> stored = *(const Pack<T> *)x;
    Few<T> pack;
#pragma unroll
    for (int j = 0; j < Few<T>::SIZE; j++) pack.v[j] = wide(stored.of[j]);
    return pack;
}

template <class T> __device__ __forceinline__ void store_pack(T *x, const Few<T> &pack) {
    Pack<T> stored;
#pragma unroll
    for (int j = 0; j < Few<T>::SIZE; j++) narrow(pack.v[j], stored.of + j);
    *(Pack<T> *)x = stored;
}

// `x[i..]`, filled up from `to` on.
template <class T>
__device__ __forceinline__ Few<T> load(const T *x, size_t i, size_t to, bool aligned, Wide<T> fill) {
    if (aligned) return load_pack(x + i);
    Few<T> pack;
#pragma unroll
    for (int j = 0; j < Few<T>::SIZE; j++) pack.v[j] = i + j < to ? wide(x[i + j]) : fill;
    return pack;
}

// As many numbers of a parameter, which has no fewer bits than are computed with.
template <class T>
__device__ __forceinline__ Few<T> load_parameters(const Wide<T> *x, size_t i, size_t to, bool aligned) {
    constexpr int EACH = Few<Wide<T>>::SIZE;
    Few<T> pack;
#pragma unroll
    for (int j = 0; j < Few<T>::SIZE; j += EACH) {
        Few<Wide<T>> part = load(x, i + j, to, aligned, (Wide<T>)0);
#pragma unroll
        for (int k = 0; k < EACH; k++) pack.v[j + k] = part.v[k];
    }
    return pack;
}

template <class T>
__device__ __forceinline__ void store(T *x, size_t i, size_t to, bool aligned, const Few<T> &pack) {
    if (aligned) return store_pack(x + i, pack);
#pragma unroll
    for (int j = 0; j < Few<T>::SIZE; j++)
        if (i + j < to) narrow(pack.v[j], x + i + j);
}

struct Moments {
    double count, mean, deviations;
};

// Chan et al. 1983
__device__ __forceinline__ Moments merge(const Moments &a, const Moments &b) {
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    double count = a.count + b.count, distance = b.mean - a.mean;
    return {count, a.mean + distance * (b.count / count),
            a.deviations + b.deviations + distance * distance * (a.count * b.count / count)};
}

// The moments of a piece about its first element, in each of its lanes. Some elements at a time are measured in
// their own type, about their own mean; what is added up is in double.
template <class T>
__device__ __forceinline__ Moments moments_of(const T *row, const Piece &piece, const Rows &rows, bool aligned) {
    constexpr int SIZE = Few<T>::SIZE;
    double sum = 0, squares = 0;
    Wide<T> origin = piece.from < piece.to ? wide(row[piece.from]) : (Wide<T>)0;
    size_t step = rows.lanes * SIZE, to = piece.to;
    for (size_t i = piece.from + piece.lane * SIZE; i < to; i += RUN * step) {
        Few<T> packs[RUN];
#pragma unroll
        for (int r = 0; r < RUN; r++)
            if (i + r * step < to) packs[r] = load(row, i + r * step, to, aligned, (Wide<T>)0);
        Wide<T> total = 0, spread = 0;
        bool fits = i + (RUN - 1) * step + SIZE <= to;
        if (fits) {
#pragma unroll
            for (int r = 0; r < RUN; r++)
#pragma unroll
                for (int j = 0; j < SIZE; j++) total += packs[r].v[j] - origin;
            Wide<T> mean = total / (RUN * SIZE);
#pragma unroll
            for (int r = 0; r < RUN; r++)
#pragma unroll
                for (int j = 0; j < SIZE; j++) {
                    Wide<T> distance = packs[r].v[j] - origin - mean;
                    spread += distance * distance;
                }
            // squares that the type has no room for are taken in double below
            fits = isfinite(spread);
        }
        if (fits) {
            sum += (double)total;
            squares += (double)total * (double)total / (RUN * SIZE) + (double)spread;
        } else {
#pragma unroll
            for (int r = 0; r < RUN; r++)
#pragma unroll
                for (int j = 0; j < SIZE; j++)
                    if (i + r * step + j < to) {
                        double distance = (double)packs[r].v[j] - (double)origin;
                        sum += distance;
                        squares += distance * distance;
                    }
        }
    }
    sum = piece_sum(sum, rows);
    squares = piece_sum(squares, rows);
    double count = (double)(to - piece.from), deviations = squares - sum * sum / count;
    // a NaN is to stay one
    return {count, (double)origin + sum / count, deviations < 0 ? 0 : deviations};
}

// Statistics are three arrays: means, variances, reciprocal deviations.
__device__ __forceinline__ void set_statistic(double *statistics, size_t count, size_t i, double mean,
                                              double variance, double eps) {
    statistics[i] = mean;
    statistics[count + i] = variance;
    statistics[2 * count + i] = 1 / sqrt(variance + eps);
}

// The moments of pieces as pairs of mean and deviations; or, if each row is one piece, its statistic.
template <class T>
__device__ __forceinline__ void norm_moments(const T *x, double *parts, double *statistics, Rows rows,
                                             double eps) {
    bool aligned = is_aligned<T>(rows, ADDRESS(x));
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        Moments found = moments_of(x + piece.row * rows.width, piece, rows, aligned);
        if (!piece.exists || piece.lane > 0) continue;
        if (statistics) {
            set_statistic(statistics, rows.count, piece.row, found.mean, found.deviations / found.count, eps);
        } else {
            parts[2 * piece.part] = found.mean;
            parts[2 * piece.part + 1] = found.deviations;
        }
    }
}

// A block merges the moments of a statistic's pieces.
extern "C" __global__ void norm_statistics_f64(const double *parts, double *statistics, Rows rows,
                                               Sharing sharing, double eps) {
    __shared__ Moments warps[THREADS / 32];
    for (size_t s = blockIdx.x; s < sharing.statistics; s += gridDim.x) {
        Moments all = {0, 0, 0};
        for (size_t i = threadIdx.x; i < sharing.members * rows.pieces; i += THREADS) {
            size_t part = part_of(sharing, s, i, rows.pieces), from = i % rows.pieces * rows.piece;
            size_t count = from + rows.piece < rows.width ? rows.piece : rows.width - from;
            all = merge(all, {(double)count, parts[2 * part], parts[2 * part + 1]});
        }
        for (int step = 16; step > 0; step /= 2) {
            Moments other = {__shfl_down_sync(0xffffffffu, all.count, step),
                             __shfl_down_sync(0xffffffffu, all.mean, step),
                             __shfl_down_sync(0xffffffffu, all.deviations, step)};
            all = merge(all, other);
        }
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = all;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < THREADS / 32; i++) all = merge(all, warps[i]);
            set_statistic(statistics, sharing.statistics, s, all.mean, all.deviations / all.count, eps);
        }
        __syncthreads();
    }
}

// Statistics that are given as means and variances.
template <class T>
__device__ __forceinline__ void norm_given(const T *mean, const T *variance, double *statistics, size_t count,
                                           double eps) {
    EACH(i, count) set_statistic(statistics, count, i, (double)wide(mean[i]), (double)wide(variance[i]), eps);
}

// What plane `row` of the joined image goes through before the function: `(x - mean) * scale + shift`.
template <class T> struct Line {
    Wide<T> mean, scale, shift;

    __device__ __forceinline__ Line(const double *statistics, const Sharing &sharing, size_t row,
                                    const Wide<T> *weight, const Wide<T> *bias, size_t parameters) {
        size_t s = statistic_of(sharing, row);
        double factor = weight ? (double)weight[row % parameters] : 1.0;
        mean = (Wide<T>)statistics[s];
        scale = (Wide<T>)(factor * statistics[2 * sharing.statistics + s]);
        shift = bias ? bias[row % parameters] : (Wide<T>)0;
    }
    __device__ __forceinline__ Wide<T> of(Wide<T> x) const { return (x - mean) * scale + shift; }
};

// `x` has planes of its own, `out` those of the joined image.
template <class F, class T>
__device__ __forceinline__ void norm_values(const T *x, const double *statistics, const Wide<T> *weight,
                                            const Wide<T> *bias, T *out, Rows rows, Sharing sharing,
                                            size_t parameters, Wide<T> p, Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE;
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(out));
    size_t step = rows.lanes * SIZE;
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        if (!piece.exists) continue;
        Line<T> line(statistics, sharing, piece.joined, weight, bias, parameters);
        const T *from = x + piece.row * rows.width;
        T *into = out + piece.joined * rows.width;
        for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += RUN * step) {
            Few<T> packs[RUN];
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (i + r * step < piece.to) packs[r] = load(from, i + r * step, piece.to, aligned, (Wide<T>)0);
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (i + r * step < piece.to) {
#pragma unroll
                    for (int j = 0; j < SIZE; j++) packs[r].v[j] = F::value(line.of(packs[r].v[j]), p, q);
                    store(into, i + r * step, piece.to, aligned, packs[r]);
                }
        }
    }
}

// Of each piece the sums of g and of `g (x - mean)`, where g is the gradient of what goes into the function.
template <class F, class T>
__device__ __forceinline__ void norm_sums(const T *x, const T *grad, const double *statistics, const Wide<T> *weight,
                                          const Wide<T> *bias, double *parts, Rows rows, Sharing sharing,
                                          size_t parameters, Wide<T> p, Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE, HALF = RUN / 2;
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(grad));
    size_t step = rows.lanes * SIZE;
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        Line<T> line(statistics, sharing, piece.joined, weight, bias, parameters);
        double mean = statistics[statistic_of(sharing, piece.joined)], sum = 0, product = 0;
        const T *xs = x + piece.row * rows.width, *gs = grad + piece.joined * rows.width;
        for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += HALF * step) {
            Few<T> a[HALF], b[HALF];
#pragma unroll
            for (int r = 0; r < HALF; r++)
                if (i + r * step < piece.to) {
                    a[r] = load(xs, i + r * step, piece.to, aligned, line.mean);
                    b[r] = load(gs, i + r * step, piece.to, aligned, (Wide<T>)0);
                }
#pragma unroll
            for (int r = 0; r < HALF; r++)
                if (i + r * step < piece.to)
#pragma unroll
                    for (int j = 0; j < SIZE; j++) {
                        double g = (double)(b[r].v[j] * F::first(line.of(a[r].v[j]), p, q));
                        sum += g;
                        product += g * ((double)a[r].v[j] - mean);
                    }
        }
        sum = piece_sum(sum, rows);
        product = piece_sum(product, rows);
        if (piece.exists && piece.lane == 0) {
            parts[2 * piece.part] = sum;
            parts[2 * piece.part + 1] = product;
        }
    }
}

// By way of the statistic, the gradient of x has the part `(x - mean) * slope + level`.
struct Tilt {
    double slope, level;

    __device__ __forceinline__ Tilt(double sum, double product, double rstd, double count)
        : slope(-product * rstd * rstd * rstd / count), level(-sum * rstd / count) {}
};

// From the sums of pieces: a block for the slope and level of each statistic, then one for the gradients of
// each parameter. `count` elements share a statistic.
template <class T>
__device__ __forceinline__ void norm_finish(const double *parts, const double *statistics, const T *weight,
                                            double *tilts, T *dw, T *db, Rows rows, Sharing sharing,
                                            size_t tilted, size_t parameters, double count) {
    const double *rstd = statistics + 2 * sharing.statistics;
    size_t planes = sharing.statistics * sharing.members;
    for (size_t item = blockIdx.x; item < tilted + parameters; item += gridDim.x) {
        bool is_tilt = item < tilted;
        size_t own = is_tilt ? item : item - tilted;
        size_t ends = (is_tilt ? sharing.members : planes / parameters) * rows.pieces;
        double sum = 0, product = 0;
        for (size_t i = threadIdx.x; i < ends; i += THREADS) {
            double first = 1, second = 1;
            size_t part;
            if (is_tilt) {
                part = part_of(sharing, own, i, rows.pieces);
                if (weight) first = second = (double)weight[part / rows.pieces % parameters];
            } else {
                size_t plane = own + i / rows.pieces * parameters;
                part = plane * rows.pieces + i % rows.pieces;
                second = rstd[statistic_of(sharing, plane)];
            }
            sum += parts[2 * part] * first;
            product += parts[2 * part + 1] * second;
        }
        sum = block_sum(sum);
        product = block_sum(product);
        if (threadIdx.x > 0) continue;
        if (is_tilt) {
            Tilt tilt(sum, product, rstd[own], count);
            tilts[own] = tilt.slope;
            tilts[tilted + own] = tilt.level;
        } else {
            dw[own] = (T)product;
            db[own] = (T)sum;
        }
    }
}

// The gradient of x; without `tilts` statistics are constants.
template <class F, class T>
__device__ __forceinline__ void norm_gradient(const T *x, const T *grad, const double *statistics,
                                              const Wide<T> *weight, const Wide<T> *bias, const double *tilts, T *out,
                                              Rows rows, Sharing sharing, size_t parameters, Wide<T> p,
                                              Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE, HALF = RUN / 2;
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(grad) | ADDRESS(out));
    size_t step = rows.lanes * SIZE;
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        if (!piece.exists) continue;
        Line<T> line(statistics, sharing, piece.joined, weight, bias, parameters);
        size_t s = statistic_of(sharing, piece.joined);
        Wide<T> slope = 0, level = 0;
        if (tilts) {
            slope = (Wide<T>)tilts[s];
            level = (Wide<T>)tilts[sharing.statistics + s];
        }
        const T *xs = x + piece.row * rows.width, *gs = grad + piece.joined * rows.width;
        T *into = out + piece.row * rows.width;
        for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += HALF * step) {
            Few<T> a[HALF], b[HALF];
#pragma unroll
            for (int r = 0; r < HALF; r++)
                if (i + r * step < piece.to) {
                    a[r] = load(xs, i + r * step, piece.to, aligned, line.mean);
                    b[r] = load(gs, i + r * step, piece.to, aligned, (Wide<T>)0);
                }
#pragma unroll
            for (int r = 0; r < HALF; r++)
                if (i + r * step < piece.to) {
#pragma unroll
                    for (int j = 0; j < SIZE; j++) {
                        Wide<T> x = a[r].v[j], g = b[r].v[j] * F::first(line.of(x), p, q);
                        b[r].v[j] = g * line.scale + ((x - line.mean) * slope + level);
                    }
                    store(into, i + r * step, piece.to, aligned, b[r]);
                }
        }
    }
}

#include "layer.cuh"
#include "last.cuh"

#define MOMENTS(T) (const T *x, double *parts, double *statistics, Rows rows, double eps)
#define GIVEN(T) (const T *mean, const T *variance, double *statistics, size_t count, double eps)
#define FINISH(T)                                                                                            \
    (const double *parts, const double *statistics, const T *weight, double *tilts, T *dw, T *db, Rows rows, \
     Sharing sharing, size_t tilted, size_t parameters, double count)
#define LAYER_VALUES(T)                                                                                      \
    (const T *x, double *statistics, const Wide<T> *weight, const Wide<T> *bias, T *out, Rows rows, double eps)
#define LAYER_SUMS(T)                                                                                        \
    (const T *x, const T *grad, const double *statistics, const Wide<T> *weight, double *parts, Rows rows)
#define LAYER_GRADIENT(T)                                                                                    \
    (const T *x, const T *grad, const double *statistics, const double *tilts, const Wide<T> *weight, T *out,      \
     Rows rows)
#define LAYER_SLABS(T)                                                                                       \
    (const T *x, const T *grad, const double *statistics, double *parts, size_t rows, size_t width,          \
     size_t height)
#define LAYER_PARAMETERS(T) (const double *parts, T *dw, T *db, size_t width, size_t slabs)
#define LAST_MOMENTS(T) (const T *x, double *parts, Rows rows)
EVERY(norm_moments, MOMENTS, (x, parts, statistics, rows, eps))
HALVES(norm_last_moments, LAST_MOMENTS, (x, parts, rows))
BOTH(norm_given, GIVEN, (mean, variance, statistics, count, eps))
BOTH(norm_finish, FINISH,
     (parts, statistics, weight, tilts, dw, db, rows, sharing, tilted, parameters, count))
EVERY(layer_values, LAYER_VALUES, (x, statistics, weight, bias, out, rows, eps))
EVERY(layer_sums, LAYER_SUMS, (x, grad, statistics, weight, parts, rows))
EVERY(layer_gradient, LAYER_GRADIENT, (x, grad, statistics, tilts, weight, out, rows))
EVERY(layer_slabs, LAYER_SLABS, (x, grad, statistics, parts, rows, width, height))
BOTH(layer_parameters, LAYER_PARAMETERS, (parts, dw, db, width, slabs))

#define VALUES(T)                                                                                            \
    (const T *x, const double *statistics, const Wide<T> *weight, const Wide<T> *bias, T *out, Rows rows,                \
     Sharing sharing, size_t parameters, Wide<T> p, Wide<T> q)
#define SUMS(T)                                                                                              \
    (const T *x, const T *grad, const double *statistics, const Wide<T> *weight, const Wide<T> *bias, double *parts,     \
     Rows rows, Sharing sharing, size_t parameters, Wide<T> p, Wide<T> q)
#define GRADIENT(T)                                                                                          \
    (const T *x, const T *grad, const double *statistics, const Wide<T> *weight, const Wide<T> *bias,                    \
     const double *tilts, T *out, Rows rows, Sharing sharing, size_t parameters, Wide<T> p, Wide<T> q)
#define KERNELS_OF(prefix, name, Function, T, suffix)                                                        \
    extern "C" __global__ void prefix##_values_##name##_##suffix VALUES(T) {                                 \
        prefix##_values<Function>(x, statistics, weight, bias, out, rows, sharing, parameters, p, q);        \
    }                                                                                                        \
    extern "C" __global__ void prefix##_sums_##name##_##suffix SUMS(T) {                                     \
        prefix##_sums<Function>(x, grad, statistics, weight, bias, parts, rows, sharing, parameters, p, q);  \
    }                                                                                                        \
    extern "C" __global__ void prefix##_gradient_##name##_##suffix GRADIENT(T) {                             \
        prefix##_gradient<Function>(x, grad, statistics, weight, bias, tilts, out, rows, sharing,            \
                                    parameters, p, q);                                                       \
    }
#define KERNELS(name, Function)                                                                              \
    KERNELS_OF(norm, name, Function, float, f32)                                                             \
    KERNELS_OF(norm, name, Function, double, f64)                                                            \
    KERNELS_OF(norm, name, Function, __nv_bfloat16, bf16)                                                    \
    KERNELS_OF(norm, name, Function, __half, f16)
KERNELS(identity, Identity)
FUNCTIONS(KERNELS)

// Of the functions that usually follow a normalisation: those of `Normalise::order`.
#define LAST_KERNELS(name, Function)                                                                         \
    KERNELS_OF(norm_last, name, Function, __nv_bfloat16, bf16)                                               \
    KERNELS_OF(norm_last, name, Function, __half, f16)
LAST_KERNELS(identity, Identity)
LAST_KERNELS(relu, Relu)
LAST_KERNELS(leaky_relu, LeakyRelu)
LAST_KERNELS(silu, Silu)
LAST_KERNELS(gelu, Gelu)

#endif
