// Dropout with computed masks; see mod.rs.
#include "philox.cuh"
#include "rows.cuh"

// As many numbers as there are words in a block.
template <class T> struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
    T of[4];
};

// A thread for each block of random words: four elements. Without an `x` it stands for ones. A recorded kernel finds
// the words of its stream at `words`.
template <class T>
__device__ __forceinline__ void dropout(const T *x, T *out, size_t count, Wide<T> scale, unsigned limit, size_t key,
                                        size_t sub, const size_t *words) {
    if (words) {
        key = words[0];
        sub = words[1];
    }
    bool whole = x && is_aligned(x);
    EACH(block, (count + 3) / 4) {
        RandomWords words = random_words(block, key, sub);
        size_t first = block * 4;
        if (whole && first + 4 <= count) {
            Four<T> four = ((const Four<T> *)x)[block];
            for (int k = 0; k < 4; k++)
                narrow(words.of[k] >> 8 < limit ? 0 : wide(four.of[k]) * scale, four.of + k);
            ((Four<T> *)out)[block] = four;
        } else {
            for (int k = 0; k < 4; k++)
                if (first + k < count) {
                    Wide<T> value = x ? wide(x[first + k]) : 1;
                    narrow(words.of[k] >> 8 < limit ? 0 : value * scale, out + first + k);
                }
        }
    }
}

// The same of an image whose channels lie last: element `i` is dropped as it would be with its channels first.
template <class T>
__device__ __forceinline__ void dropout_last(const T *x, T *out, size_t count, Wide<T> scale, unsigned limit, size_t key,
                                             size_t sub, const size_t *words, size_t plane, size_t channels) {
    if (words) {
        key = words[0];
        sub = words[1];
    }
    size_t item = plane * channels;
    each_number(x, out, count, [=](size_t i, Wide<T> x) -> Wide<T> {
        size_t n = quotient(i, item), within = i - n * item, pixel = quotient(within, channels);
        size_t at = n * item + (within - pixel * channels) * plane + pixel;
        return random_words(at / 4, key, sub).of[at % 4] >> 8 < limit ? 0 : x * scale;
    });
}

// What each of `count` elements is multiplied by.
template <class T>
__device__ __forceinline__ void dropout_factors(T *out, size_t count, T scale, unsigned limit, size_t key,
                                                size_t sub, const size_t *words) {
    dropout<T>(nullptr, out, count, scale, limit, key, sub, words);
}

// Planes times their factors (see `plane_of`), of which a zero drops even what is not finite.
template <class T>
__device__ __forceinline__ void drop_planes(const T *x, const Wide<T> *factors, T *out, size_t count, size_t plane,
                                            size_t channels) {
    each_number(x, out, count, [=](size_t i, Wide<T> x) -> Wide<T> {
        Wide<T> factor = factors[plane_of(i, plane, channels)];
        return factor == 0 ? 0 : x * factor;
    });
}

#define DROPOUT(T)                                                                                           \
    (const T *x, T *out, size_t count, Wide<T> scale, unsigned limit, size_t key, size_t sub, const size_t *words)
#define DROPOUT_FACTORS(T)                                                                                   \
    (T *out, size_t count, T scale, unsigned limit, size_t key, size_t sub, const size_t *words)
#define DROPOUT_LAST(T)                                                                                      \
    (const T *x, T *out, size_t count, Wide<T> scale, unsigned limit, size_t key, size_t sub, const size_t *words, \
     size_t plane, size_t channels)
#define DROP_PLANES(T) (const T *x, const Wide<T> *factors, T *out, size_t count, size_t plane, size_t channels)
EVERY(dropout, DROPOUT, (x, out, count, scale, limit, key, sub, words))
BOTH(dropout_factors, DROPOUT_FACTORS, (out, count, scale, limit, key, sub, words))
HALVES(dropout_last, DROPOUT_LAST, (x, out, count, scale, limit, key, sub, words, plane, channels))
EVERY(drop_planes, DROP_PLANES, (x, factors, out, count, plane, channels))
