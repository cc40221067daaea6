// Maximum over windows; see max.rs.
#include "rows.cuh"

// The sizes of an image of up to three dimensions, how many windows it has, and the windows.
struct Windows {
    size_t image[3], outputs[3], kernel[3], stride[3], padding[3];

    __device__ __forceinline__ size_t pixels() const { return image[0] * image[1] * image[2]; }
    __device__ __forceinline__ size_t count() const { return outputs[0] * outputs[1] * outputs[2]; }
    // The first pixel of window `i`, and the one behind its last.
    __device__ __forceinline__ size_t begin(int d, size_t i) const {
        size_t at = i * stride[d];
        return at > padding[d] ? at - padding[d] : 0;
    }
    __device__ __forceinline__ size_t end(int d, size_t i) const {
        size_t at = i * stride[d] + kernel[d] - padding[d];
        return at < image[d] ? at : image[d];
    }
    // The first window that has pixel `i`, and the one behind the last.
    __device__ __forceinline__ size_t first(int d, size_t i) const {
        size_t at = i + padding[d] + 1;
        return at > kernel[d] ? (at - kernel[d] + stride[d] - 1) / stride[d] : 0;
    }
    __device__ __forceinline__ size_t last(int d, size_t i) const {
        size_t at = (i + padding[d]) / stride[d] + 1;
        return at < outputs[d] ? at : outputs[d];
    }
};

// Images lie as [planes][pixels][inner]: `inner` are the channels if these lie last, else 1. Calls
// `f(plane, z, y, x, c, i)` for the places of `count` pixels in three dimensions, where `c` is one of those side by side
// and `i` the place in the memory; `rows` are the lines of all planes.
template <class F>
__device__ __forceinline__ void each_place(size_t rows, const size_t *count, size_t inner, F f) {
    each_row<8>(rows, count[2] * inner, [&](size_t row, size_t from, size_t to, size_t step) {
        size_t rest = row / count[1], y = row - rest * count[1];
        size_t plane = rest / count[0], z = rest - plane * count[0];
        for (size_t i = from; i < to; i += step) {
            size_t x = inner == 1 ? i : quotient(i, inner);
            f(plane, z, y, x, i - x * inner, row * count[2] * inner + i);
        }
    });
}

// `write(i, value, pick)` for each window: its largest pixel, and which of its plane that is.
template <class T, class Write>
__device__ __forceinline__ void largest(const T *x, size_t rows, size_t inner, const Windows &s, Write write) {
    each_place(rows, s.outputs, inner, [&](size_t plane, size_t oz, size_t oy, size_t ox, size_t c, size_t i) {
        size_t z0 = s.begin(0, oz), z1 = s.end(0, oz), y0 = s.begin(1, oy), y1 = s.end(1, oy);
        size_t x0 = s.begin(2, ox), x1 = s.end(2, ox);
        const T *pixels = x + plane * s.pixels() * inner + c;
        Wide<T> best = -(Wide<T>)INFINITY;
        // if nothing exceeds minus infinity, the first pixel of the window stands
        unsigned pick = (unsigned)((z0 * s.image[1] + y0) * s.image[2] + x0);
        for (size_t z = z0; z < z1; z++)
            for (size_t y = y0; y < y1; y++) {
                unsigned line = (unsigned)((z * s.image[1] + y) * s.image[2]);
                for (unsigned at = line + (unsigned)x0; at < line + (unsigned)x1; at++) {
                    Wide<T> value = wide(pixels[at * inner]);
                    bool better = value > best || isnan(value);
                    best = better ? value : best;
                    pick = better ? at : pick;
                }
            }
        write(i, best, pick);
    });
}

template <class T>
__device__ __forceinline__ void max_pool(const T *x, T *out, size_t rows, size_t inner, const Windows &windows) {
    largest(x, rows, inner, windows, [&](size_t i, Wide<T> value, unsigned) { narrow(value, out + i); });
}

template <class T>
__device__ __forceinline__ void max_picks(const T *x, unsigned *picks, size_t rows, size_t inner,
                                          const Windows &windows) {
    largest(x, rows, inner, windows, [&](size_t i, Wide<T>, unsigned pick) { picks[i] = pick; });
}

template <class T>
__device__ __forceinline__ void pick(const T *x, const unsigned *picks, T *out, size_t planes, size_t inner,
                                     size_t pixels, size_t windows) {
    each_row<8>(planes, windows * inner, [&](size_t plane, size_t from, size_t to, size_t step) {
        for (size_t i = from; i < to; i += step) {
            size_t at = plane * windows * inner + i;
            out[at] = x[(plane * pixels + picks[at]) * inner + remainder(i, inner)];
        }
    });
}

// Each pixel takes from the windows that it is in, in their order.
template <class T>
__device__ __forceinline__ void put_back(const T *y, const unsigned *picks, T *out, size_t rows, size_t inner,
                                         const Windows &s) {
    each_place(rows, s.image, inner, [&](size_t plane, size_t iz, size_t iy, size_t ix, size_t c, size_t i) {
        size_t z0 = s.first(0, iz), z1 = s.last(0, iz), y0 = s.first(1, iy), y1 = s.last(1, iy);
        size_t x0 = s.first(2, ix), x1 = s.last(2, ix);
        unsigned here = (unsigned)((iz * s.image[1] + iy) * s.image[2] + ix);
        Wide<T> sum = 0;
        for (size_t z = z0; z < z1; z++)
            for (size_t w = y0; w < y1; w++) {
                size_t line = ((plane * s.outputs[0] + z) * s.outputs[1] + w) * s.outputs[2];
                for (size_t window = line + x0; window < line + x1; window++) {
                    size_t at = window * inner + c;
                    if (picks[at] == here) sum += wide(y[at]);
                }
            }
        narrow(sum, out + i);
    });
}

#define MAX_POOL(T) (const T *x, T *out, size_t rows, size_t inner, Windows windows)
#define MAX_PICKS(T) (const T *x, unsigned *picks, size_t rows, size_t inner, Windows windows)
#define PICK(T)                                                                                              \
    (const T *x, const unsigned *picks, T *out, size_t planes, size_t inner, size_t pixels, size_t windows)
#define PUT_BACK(T) (const T *y, const unsigned *picks, T *out, size_t rows, size_t inner, Windows windows)
EVERY(max_pool, MAX_POOL, (x, out, rows, inner, windows))
EVERY(max_picks, MAX_PICKS, (x, picks, rows, inner, windows))
EVERY(pick, PICK, (x, picks, out, planes, inner, pixels, windows))
EVERY(put_back, PUT_BACK, (y, picks, out, rows, inner, windows))
