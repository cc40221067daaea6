// Pixel shuffle and its inverse; see mod.rs.
#include "rows.cuh"

// `sizes` of the image with many channels, and the factors to the one with many pixels.
struct Grid {
    size_t sizes[3], factors[3];
};

// Goes along the rows of the image with many pixels, in which neighbours stay near each other on both sides.
template <class T>
__device__ __forceinline__ void shuffle(const T *x, T *out, size_t rows, Grid grid, int inverse) {
    size_t d = grid.sizes[0], h = grid.sizes[1], w = grid.sizes[2];
    unsigned rz = grid.factors[0], ry = grid.factors[1], rx = grid.factors[2];
    size_t plane = d * h * w, width = w * rx;
    each_row<8>(rows, width, [&](size_t row, size_t from, size_t to, size_t step) {
        size_t rest = row / (h * ry), y = row - rest * (h * ry);
        size_t channel = rest / (d * rz), z = rest - channel * (d * rz);
        size_t first = ((channel * rz + z % rz) * ry + y % ry) * rx * plane + (z / rz * h + y / ry) * w;
        // of the pixel and its channel, which are stepped on without dividing again
        size_t pixel = from / rx, offset = from - pixel * rx;
        size_t pixels = (unsigned)step / rx, offsets = (unsigned)step % rx;
        for (size_t i = from; i < to; i += step) {
            size_t large = row * width + i, small = first + offset * plane + pixel;
            if (inverse) out[small] = x[large];
            else out[large] = x[small];
            pixel += pixels, offset += offsets;
            if (offset >= rx) offset -= rx, pixel++;
        }
    });
}

#define SHUFFLE(T) (const T *x, T *out, size_t rows, Grid grid, int inverse)
EVERY(shuffle, SHUFFLE, (x, out, rows, grid, inverse))
