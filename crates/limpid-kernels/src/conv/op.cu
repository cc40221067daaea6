// What convolutions need besides cuDNN; see cuda.rs.
#include "limpid.cuh"

// The sums over piece `part` of each channel's elements, which are `batch` planes: a block for each piece.
template <class T>
__device__ __forceinline__ void channel_parts(const T *x, double *parts, size_t batch, size_t channels, size_t plane,
                                              size_t pieces) {
    size_t count = batch * plane, size = (count + pieces - 1) / pieces;
    for (size_t job = blockIdx.x; job < channels * pieces; job += gridDim.x) {
        size_t channel = job / pieces, first = job % pieces * size;
        size_t last = first + size < count ? first + size : count;
        double sum = 0;
        for (size_t i = first + threadIdx.x; i < last; i += THREADS)
            sum += (double)wide(x[(i / plane * channels + channel) * plane + i % plane]);
        sum = block_sum(sum);
        if (threadIdx.x == 0) parts[job] = sum;
    }
}

template <class T>
__device__ __forceinline__ void channel_ends(const double *parts, T *out, size_t channels, size_t pieces) {
    EACH(i, channels) {
        double sum = 0;
        for (size_t j = 0; j < pieces; j++) sum += parts[i * pieces + j];
        narrow((Wide<T>)sum, out + i);
    }
}

#define CHANNEL_PARTS(T)                                                                                     \
    (const T *x, double *parts, size_t batch, size_t channels, size_t plane, size_t pieces)
#define CHANNEL_ENDS(T) (const double *parts, T *out, size_t channels, size_t pieces)
EVERY(channel_parts, CHANNEL_PARTS, (x, parts, batch, channels, plane, pieces))
EVERY(channel_ends, CHANNEL_ENDS, (parts, out, channels, pieces))
