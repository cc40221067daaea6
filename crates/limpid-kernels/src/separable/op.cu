// Linear maps along up to three dimensions at once; see mod.rs and cuda.rs.
#include "rows.cuh"

// A dimension and its map: output `i` has the taps from `table[starts + i]` to `table[starts + i + 1]`, whose
// inputs are behind `index` in the table, unless it is input `i` itself.
struct Axis {
    unsigned inputs, outputs, starts, same;
};

struct Maps {
    Axis axes[3];
    unsigned index;
};

struct Taps {
    unsigned begin, end;
};

__device__ __forceinline__ Taps taps_of(const Axis &axis, const unsigned *table, unsigned i) {
    if (axis.same) return {i, i + 1};
    return {table[axis.starts + i], table[axis.starts + i + 1]};
}

// What a tap adds up: an input and its weight.
template <class W> struct Tap {
    unsigned input;
    W weight;
};

template <class W>
__device__ __forceinline__ Tap<W> tap(const Maps &maps, int axis, const unsigned *table, const W *weights,
                                      unsigned t) {
    if (maps.axes[axis].same) return {t, 1};
    return {table[maps.index + t], weights[t]};
}

// A thread computes up to OUTPUTS elements of a row of the result, from ROWS rows of `x` at a time. An output
// without a tap in one of its dimensions is `rest`.
template <class T, class To, class W>
__device__ __forceinline__ void separable(const T *x, To *out, const unsigned *table, const W *weights,
                                          const Maps &maps, size_t rows, W rest) {
    constexpr int OUTPUTS = 4, ROWS = 4;
    const Axis &zs = maps.axes[0], &ys = maps.axes[1], &xs = maps.axes[2];
    each_row<OUTPUTS>(rows, xs.outputs, [&](size_t row, size_t from, size_t to, size_t step) {
        size_t above = row / ys.outputs, plane = above / zs.outputs;
        Taps tz = taps_of(zs, table, (unsigned)(above - plane * zs.outputs));
        Taps ty = taps_of(ys, table, (unsigned)(row - above * ys.outputs));
        To *line = out + row * xs.outputs;
        if (tz.begin == tz.end || ty.begin == ty.end) {
            for (size_t i = from; i < to; i += step) narrow(rest, line + i);
            return;
        }
        W sums[OUTPUTS];
        for (int k = 0; k < OUTPUTS; k++) sums[k] = 0;
        unsigned z = tz.begin, y = ty.begin;
        while (z < tz.end) {
            const T *sources[ROWS];
            W factors[ROWS];
            int count = 0;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                sources[r] = x, factors[r] = 0;
                if (z < tz.end) {
                    Tap<W> a = tap(maps, 0, table, weights, z), b = tap(maps, 1, table, weights, y);
                    sources[r] = x + ((plane * zs.inputs + a.input) * ys.inputs + b.input) * xs.inputs;
                    factors[r] = a.weight * b.weight;
                    count = r + 1;
                    if (++y == ty.end) y = ty.begin, z++;
                }
            }
#pragma unroll
            for (int k = 0; k < OUTPUTS; k++) {
                size_t i = from + k * step;
                Taps tx = {0, 0};
                if (i < to) tx = taps_of(xs, table, (unsigned)i);
                for (unsigned t = tx.begin; t < tx.end; t++) {
                    Tap<W> c = tap(maps, 2, table, weights, t);
                    W sum = factors[0] * wide(sources[0][c.input]);
#pragma unroll
                    for (int r = 1; r < ROWS; r++)
                        if (r < count) sum += factors[r] * wide(sources[r][c.input]);
                    sums[k] += c.weight * sum;
                }
            }
        }
#pragma unroll
        for (int k = 0; k < OUTPUTS; k++) {
            size_t i = from + k * step;
            if (i < to) {
                Taps tx = taps_of(xs, table, (unsigned)i);
                narrow(tx.begin == tx.end ? rest : sums[k], line + i);
            }
        }
    });
}

#define SEPARABLE(T)                                                                                         \
    (const T *x, T *out, const unsigned *table, const Wide<T> *weights, Maps maps, size_t rows, Wide<T> rest)
EVERY(separable, SEPARABLE, (x, out, table, weights, maps, rows, rest))

// What is between several launches is not rounded.
#define BETWEEN(name, T, To)                                                                                 \
    extern "C" __global__ void separable_##name(const T *x, To *out, const unsigned *table, const float *weights, \
                                                Maps maps, size_t rows, float rest) {                        \
        separable(x, out, table, weights, maps, rows, rest);                                                 \
    }
BETWEEN(widening_bf16, __nv_bfloat16, float)
BETWEEN(widening_f16, __half, float)
BETWEEN(narrowing_bf16, float, __nv_bfloat16)
BETWEEN(narrowing_f16, float, __half)
