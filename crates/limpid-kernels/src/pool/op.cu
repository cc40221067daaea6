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

// `write(window, value, pick)` for each window of each row: its largest pixel, and where in its plane that is.
template <class T, class Write>
__device__ __forceinline__ void largest(const T *x, size_t rows, const Windows &s, Write write) {
    each_row<8>(rows, s.outputs[2], [&](size_t row, size_t from, size_t to, size_t step) {
        size_t rest = row / s.outputs[1], oy = row - rest * s.outputs[1];
        size_t plane = rest / s.outputs[0], oz = rest - plane * s.outputs[0];
        size_t z0 = s.begin(0, oz), z1 = s.end(0, oz), y0 = s.begin(1, oy), y1 = s.end(1, oy);
        const T *pixels = x + plane * s.pixels();
        for (size_t i = from; i < to; i += step) {
            size_t x0 = s.begin(2, i), x1 = s.end(2, i);
            Wide<T> best = -(Wide<T>)INFINITY;
            // if nothing exceeds minus infinity, the first pixel of the window stands
            unsigned pick = (unsigned)((z0 * s.image[1] + y0) * s.image[2] + x0);
            for (size_t z = z0; z < z1; z++)
                for (size_t y = y0; y < y1; y++) {
                    unsigned line = (unsigned)((z * s.image[1] + y) * s.image[2]);
                    for (unsigned at = line + (unsigned)x0; at < line + (unsigned)x1; at++) {
                        Wide<T> value = wide(pixels[at]);
                        bool better = value > best || isnan(value);
                        best = better ? value : best;
                        pick = better ? at : pick;
                    }
                }
            write(row * s.outputs[2] + i, best, pick);
        }
    });
}

template <class T>
__device__ __forceinline__ void max_pool(const T *x, T *out, size_t rows, const Windows &windows) {
    largest(x, rows, windows, [&](size_t i, Wide<T> value, unsigned) { narrow(value, out + i); });
}

template <class T>
__device__ __forceinline__ void max_picks(const T *x, unsigned *picks, size_t rows, const Windows &windows) {
    largest(x, rows, windows, [&](size_t i, Wide<T>, unsigned pick) { picks[i] = pick; });
}

template <class T>
__device__ __forceinline__ void pick(const T *x, const unsigned *picks, T *out, size_t planes, size_t pixels,
                                     size_t windows) {
    each_row<8>(planes, windows, [&](size_t plane, size_t from, size_t to, size_t step) {
        for (size_t i = from; i < to; i += step) {
            size_t at = plane * windows + i;
            out[at] = x[plane * pixels + picks[at]];
        }
    });
}

// Each pixel takes from the windows that it is in, in their order.
template <class T>
__device__ __forceinline__ void put_back(const T *y, const unsigned *picks, T *out, size_t rows,
                                         const Windows &s) {
    each_row<8>(rows, s.image[2], [&](size_t row, size_t from, size_t to, size_t step) {
        size_t rest = row / s.image[1], iy = row - rest * s.image[1];
        size_t plane = rest / s.image[0], iz = rest - plane * s.image[0];
        size_t z0 = s.first(0, iz), z1 = s.last(0, iz), y0 = s.first(1, iy), y1 = s.last(1, iy);
        for (size_t i = from; i < to; i += step) {
            size_t x0 = s.first(2, i), x1 = s.last(2, i);
            unsigned here = (unsigned)((iz * s.image[1] + iy) * s.image[2] + i);
            Wide<T> sum = 0;
            for (size_t z = z0; z < z1; z++)
                for (size_t w = y0; w < y1; w++) {
                    size_t line = ((plane * s.outputs[0] + z) * s.outputs[1] + w) * s.outputs[2];
                    for (size_t at = line + x0; at < line + x1; at++)
                        if (picks[at] == here) sum += wide(y[at]);
                }
            narrow(sum, out + row * s.image[2] + i);
        }
    });
}

#define MAX_POOL(T) (const T *x, T *out, size_t rows, Windows windows)
#define MAX_PICKS(T) (const T *x, unsigned *picks, size_t rows, Windows windows)
#define PICK(T) (const T *x, const unsigned *picks, T *out, size_t planes, size_t pixels, size_t windows)
#define PUT_BACK(T) (const T *y, const unsigned *picks, T *out, size_t rows, Windows windows)
EVERY(max_pool, MAX_POOL, (x, out, rows, windows))
EVERY(max_picks, MAX_PICKS, (x, picks, rows, windows))
EVERY(pick, PICK, (x, picks, out, planes, pixels, windows))
EVERY(put_back, PUT_BACK, (y, picks, out, rows, windows))
