// Normalisation of images whose channels lie last: a part of op.cu.
//
// A block takes a slab, some pixels of an item. Its threads lie along the channels, a few of these each, and go down the
// pixels. What they find has the places that it has where channels lie first: a slab is a piece of every plane. All
// numbers of channels are those of whole packs.

// Where a thread works: `rows.lanes` threads side by side, each with some channels from `channel` on.
template <class T> struct Strip {
    static constexpr int SIZE = Few<T>::SIZE;
    size_t item, slab, channel, begin, from, to, step;

    __device__ __forceinline__ static size_t tiles(const Rows &rows) {
        return (rows.own / SIZE + rows.lanes - 1) / rows.lanes;
    }
    __device__ __forceinline__ static size_t count(const Rows &rows) {
        return rows.count / rows.own * rows.pieces * tiles(rows);
    }
    __device__ __forceinline__ Strip(const Rows &rows, size_t i) {
        size_t rest = i / tiles(rows), tile = i - rest * tiles(rows);
        item = rest / rows.pieces, slab = rest - item * rows.pieces;
        channel = (tile * rows.lanes + threadIdx.x % rows.lanes) * SIZE;
        begin = slab * rows.piece;
        to = begin + rows.piece < rows.width ? begin + rows.piece : rows.width;
        step = THREADS / rows.lanes;
        from = channel < rows.own ? begin + threadIdx.x / rows.lanes : to;
    }
    // The place of a channel's plane among all that are joined.
    __device__ __forceinline__ size_t joined(const Rows &rows, int j) const {
        return item * rows.all + rows.first + channel + j;
    }
    // The thread's channels of pixel `p` in this array, and in what is joined.
    template <class P> __device__ __forceinline__ P *own(P *x, const Rows &rows, size_t p) const {
        return x + (item * rows.width + p) * rows.own + channel;
    }
    template <class P> __device__ __forceinline__ P *all(P *x, const Rows &rows, size_t p) const {
        return x + (item * rows.width + p) * rows.all + rows.first + channel;
    }
};

#define EACH_STRIP(strip, T, rows)                                                                           \
    for (size_t strip = blockIdx.x; strip < Strip<T>::count(rows); strip += gridDim.x)

// The sums over the threads that have the same channels, in the first of them, in a fixed order.
template <int COUNT> __device__ __forceinline__ void add_up(double (&found)[COUNT], size_t lanes) {
    constexpr int WARPS = THREADS / 32;
    __shared__ double parts[WARPS][32][COUNT + 1];
    size_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (size_t step = 16; step >= lanes; step /= 2)
#pragma unroll
        for (int i = 0; i < COUNT; i++) found[i] += __shfl_xor_sync(0xffffffffu, found[i], (int)step);
    if (lane < lanes)
#pragma unroll
        for (int i = 0; i < COUNT; i++) parts[warp][lane][i] = found[i];
    __syncthreads();
    for (size_t k = threadIdx.x; k < lanes * COUNT; k += THREADS) {
        double sum = 0;
        for (int w = 0; w < WARPS; w++) sum += parts[w][k / COUNT][k % COUNT];
        parts[0][k / COUNT][k % COUNT] = sum;
    }
    __syncthreads();
    if (threadIdx.x < lanes)
#pragma unroll
        for (int i = 0; i < COUNT; i++) found[i] = parts[0][lane][i];
    __syncthreads();
}

// As norm_moments, about the first pixel of the slab.
template <class T> __device__ __forceinline__ void norm_last_moments(const T *x, double *parts, Rows rows) {
    constexpr int SIZE = Few<T>::SIZE;
    EACH_STRIP(i, T, rows) {
        Strip<T> strip(rows, i);
        Few<T> origin = {};
        if (strip.channel < rows.own)
            origin = load_pack(strip.own(x, rows, strip.begin));
        double found[2 * SIZE] = {};
        for (size_t p = strip.from; p < strip.to; p += RUN * strip.step) {
            Few<T> packs[RUN];
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (p + r * strip.step < strip.to)
                    packs[r] = load_pack(strip.own(x, rows, p + r * strip.step));
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (p + r * strip.step < strip.to)
#pragma unroll
                    for (int j = 0; j < SIZE; j++) {
                        double distance = (double)(packs[r].v[j] - origin.v[j]);
                        found[j] += distance;
                        found[SIZE + j] += distance * distance;
                    }
        }
        add_up(found, rows.lanes);
        if (threadIdx.x >= rows.lanes || strip.channel >= rows.own) continue;
        double count = (double)(strip.to - strip.begin);
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            double sum = found[j], deviations = found[SIZE + j] - sum * sum / count;
            size_t part = strip.joined(rows, j) * rows.pieces + strip.slab;
            parts[2 * part] = (double)origin.v[j] + sum / count;
            // a NaN is to stay one
            parts[2 * part + 1] = deviations < 0 ? 0 : deviations;
        }
    }
}

// What the channels of a thread go through before the function.
template <class T> struct Lines {
    static constexpr int SIZE = Few<T>::SIZE;
    Wide<T> mean[SIZE], scale[SIZE], shift[SIZE];

    __device__ __forceinline__ Lines(const Strip<T> &strip, const Rows &rows, const double *statistics,
                                     const Sharing &sharing, const Wide<T> *weight, const Wide<T> *bias,
                                     size_t parameters) {
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            mean[j] = scale[j] = shift[j] = 0;
            if (strip.channel < rows.own) {
                Line<T> line(statistics, sharing, strip.joined(rows, j), weight, bias, parameters);
                mean[j] = line.mean, scale[j] = line.scale, shift[j] = line.shift;
            }
        }
    }
    __device__ __forceinline__ Wide<T> of(int j, Wide<T> x) const { return (x - mean[j]) * scale[j] + shift[j]; }
};

// As norm_values.
template <class F, class T>
__device__ __forceinline__ void norm_last_values(const T *x, const double *statistics, const Wide<T> *weight,
                                                 const Wide<T> *bias, T *out, Rows rows, Sharing sharing,
                                                 size_t parameters, Wide<T> p, Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE;
    EACH_STRIP(i, T, rows) {
        Strip<T> strip(rows, i);
        Lines<T> lines(strip, rows, statistics, sharing, weight, bias, parameters);
        for (size_t at = strip.from; at < strip.to; at += RUN * strip.step) {
            Few<T> packs[RUN];
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (at + r * strip.step < strip.to)
                    packs[r] =
                        load_pack(strip.own(x, rows, at + r * strip.step));
#pragma unroll
            for (int r = 0; r < RUN; r++)
                if (at + r * strip.step < strip.to) {
#pragma unroll
                    for (int j = 0; j < SIZE; j++) packs[r].v[j] = F::value(lines.of(j, packs[r].v[j]), p, q);
                    store_pack(strip.all(out, rows, at + r * strip.step), packs[r]);
                }
        }
    }
}

// As norm_sums.
template <class F, class T>
__device__ __forceinline__ void norm_last_sums(const T *x, const T *grad, const double *statistics,
                                               const Wide<T> *weight, const Wide<T> *bias, double *parts, Rows rows,
                                               Sharing sharing, size_t parameters, Wide<T> p, Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE;
    EACH_STRIP(i, T, rows) {
        Strip<T> strip(rows, i);
        Lines<T> lines(strip, rows, statistics, sharing, weight, bias, parameters);
        double found[2 * SIZE] = {};
#pragma unroll 2
        for (size_t at = strip.from; at < strip.to; at += strip.step) {
            Few<T> a = load_pack(strip.own(x, rows, at));
            Few<T> b = load_pack(strip.all(grad, rows, at));
#pragma unroll
            for (int j = 0; j < SIZE; j++) {
                double g = (double)(b.v[j] * F::first(lines.of(j, a.v[j]), p, q));
                found[j] += g;
                found[SIZE + j] += g * (double)(a.v[j] - lines.mean[j]);
            }
        }
        add_up(found, rows.lanes);
        if (threadIdx.x >= rows.lanes || strip.channel >= rows.own) continue;
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            size_t part = strip.joined(rows, j) * rows.pieces + strip.slab;
            parts[2 * part] = found[j];
            parts[2 * part + 1] = found[SIZE + j];
        }
    }
}

// As norm_gradient.
template <class F, class T>
__device__ __forceinline__ void norm_last_gradient(const T *x, const T *grad, const double *statistics,
                                                   const Wide<T> *weight, const Wide<T> *bias, const double *tilts,
                                                   T *out, Rows rows, Sharing sharing, size_t parameters, Wide<T> p,
                                                   Wide<T> q) {
    constexpr int SIZE = Few<T>::SIZE;
    EACH_STRIP(i, T, rows) {
        Strip<T> strip(rows, i);
        Lines<T> lines(strip, rows, statistics, sharing, weight, bias, parameters);
        Wide<T> slope[SIZE], level[SIZE];
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            bool exists = tilts && strip.channel < rows.own;
            size_t s = exists ? statistic_of(sharing, strip.joined(rows, j)) : 0;
            slope[j] = exists ? (Wide<T>)tilts[s] : 0;
            level[j] = exists ? (Wide<T>)tilts[sharing.statistics + s] : 0;
        }
#pragma unroll 2
        for (size_t at = strip.from; at < strip.to; at += strip.step) {
            Few<T> a = load_pack(strip.own(x, rows, at));
            Few<T> b = load_pack(strip.all(grad, rows, at));
#pragma unroll
            for (int j = 0; j < SIZE; j++) {
                Wide<T> g = b.v[j] * F::first(lines.of(j, a.v[j]), p, q);
                b.v[j] = g * lines.scale[j] + ((a.v[j] - lines.mean[j]) * slope[j] + level[j]);
            }
            store_pack(strip.own(out, rows, at), b);
        }
    }
}
