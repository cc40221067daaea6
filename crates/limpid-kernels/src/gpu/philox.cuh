// The random numbers of src/rng: the same bits for the same stream.
#pragma once
#include "limpid.cuh"

struct RandomWords {
    unsigned of[4];
};

// Block `i` of a stream: ten rounds of Philox4x32.
ANYWHERE RandomWords random_words(size_t i, size_t key, size_t sub) {
    unsigned c0 = (unsigned)i, c1 = (unsigned)(i >> 32), c2 = (unsigned)sub, c3 = (unsigned)(sub >> 32);
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}
