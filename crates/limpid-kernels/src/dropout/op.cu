// Dropout with computed masks; see mod.rs.
#include "philox.cuh"
#include "rows.cuh"

// A thread for each block of random words: four elements. Without an `x` it stands for ones. A recorded kernel finds
// the words of its stream at `words`.
template <class T>
__device__ __forceinline__ void dropout(const T *x, T *out, size_t count, T scale, unsigned limit, size_t key,
                                        size_t sub, const size_t *words) {
    if (words) {
        key = words[0];
        sub = words[1];
    }
    constexpr int PACKS = 4 / Pack<T>::COUNT;
    bool whole = x && is_aligned(x);
    EACH(block, (count + 3) / 4) {
        RandomWords words = random_words(block, key, sub);
        size_t first = block * 4;
        if (whole && first + 4 <= count) {
            for (int p = 0; p < PACKS; p++) {
                Pack<T> pack = ((const Pack<T> *)x)[block * PACKS + p];
                for (int k = 0; k < Pack<T>::COUNT; k++) {
                    bool drops = words.of[p * Pack<T>::COUNT + k] >> 8 < limit;
                    pack.of[k] = drops ? 0 : pack.of[k] * scale;
                }
                ((Pack<T> *)out)[block * PACKS + p] = pack;
            }
        } else {
            for (int k = 0; k < 4; k++)
                if (first + k < count)
                    out[first + k] = words.of[k] >> 8 < limit ? 0 : (x ? x[first + k] : 1) * scale;
        }
    }
}

// What each of `count` elements is multiplied by.
template <class T>
__device__ __forceinline__ void dropout_factors(T *out, size_t count, T scale, unsigned limit, size_t key,
                                                size_t sub, const size_t *words) {
    dropout<T>(nullptr, out, count, scale, limit, key, sub, words);
}

// Planes times their factors, of which a zero drops even what is not finite.
template <class T>
__device__ __forceinline__ void drop_planes(const T *x, const T *factors, T *out, size_t planes, size_t plane) {
    each_row<8>(planes, plane, [&](size_t row, size_t from, size_t to, size_t step) {
        T factor = factors[row];
        for (size_t i = from; i < to; i += step) {
            size_t at = row * plane + i;
            out[at] = factor == 0 ? 0 : x[at] * factor;
        }
    });
}

#define DROPOUT(T) (const T *x, T *out, size_t count, T scale, unsigned limit, size_t key, size_t sub, const size_t *words)
#define DROPOUT_FACTORS(T) (T *out, size_t count, T scale, unsigned limit, size_t key, size_t sub, const size_t *words)
#define DROP_PLANES(T) (const T *x, const T *factors, T *out, size_t planes, size_t plane)
BOTH(dropout, DROPOUT, (x, out, count, scale, limit, key, sub, words))
BOTH(dropout_factors, DROPOUT_FACTORS, (out, count, scale, limit, key, sub, words))
BOTH(drop_planes, DROP_PLANES, (x, factors, out, planes, plane))
