// Attention by square tiles of the scores, of which a block of threads has one at a time; see mod.rs. All
// products are of one of two forms: `multiply` makes a tile from rows of two matrices, `mix` adds rows of a
// matrix with the weights of a tile. A tile's rows are queries, or keys for what is summed over queries. Both are
// there for f32 and f64, and for numbers of 16 bits, which tensor cores multiply: the shared memory says which.
#include "limpid.cuh"

#include <mma.h>

constexpr unsigned TILE = 64;         // rows and columns of a tile
constexpr unsigned SIDE = 16;         // threads along either side of it
constexpr unsigned PER = TILE / SIDE; // rows and columns of a thread

template <class T> constexpr unsigned WIDE = 16 / sizeof(T); // numbers in 128 bits
// Columns that `multiply` stages at a time, and the distance of their rows: banks of shared memory differ.
template <class T> constexpr unsigned SLICE = sizeof(T) == 4 ? 32 : 8;
template <class T> constexpr unsigned STAGED = SLICE<T> + WIDE<T>;
template <class T> constexpr unsigned STRIDE = TILE + WIDE<T>; // the distance of rows of weights

template <class T, unsigned N> struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

template <class T> struct alignas(16) Shared {
    T weights[TILE * STRIDE<T>];
    T staged[2 * TILE * STAGED<T>];
};

// Some dimensions, the last one first: where a running index over them leads.
struct Walk {
    size_t rank, sizes[8], strides[8];
};

__device__ __forceinline__ size_t at(const Walk &walk, size_t i) {
    size_t offset = 0;
    for (size_t n = 0; n < walk.rank; n++) {
        offset += i % walk.sizes[n] * walk.strides[n];
        i /= walk.sizes[n];
    }
    return offset;
}

struct Problem {
    size_t batch;
    unsigned queries, keys, depth, values;
    unsigned k_stride, v_stride, v_start; // where rows of k and v lie
    unsigned bias_row, bias_column;       // from an element of the bias to the next, 0 where it is broadcast
    Walk bias;                            // its first element for each batch index
    double scale;
};

template <class T> struct Matrix {
    const T *at;
    unsigned stride, rows, columns;

    // Whether 128 bits can be read at once.
    __device__ __forceinline__ bool is_aligned() const {
        return (size_t)at % 16 == 0 && stride % WIDE<T> == 0 && columns % WIDE<T> == 0;
    }
};

// What belongs to one batch index.
template <class T> struct Operands {
    Matrix<T> q, k, v, g;
    const T *bias;
    unsigned bias_row, bias_column;
    const Wide<T> *scales, *levels;
    Wide<T> scale;
};

// `scales` has for each query what makes the softmax of its scores, `exp(score - [0]) * [1]`; `g` is the
// gradient of the result, `levels` its product with the result. The forward pass has none of them.
template <class T>
__device__ __forceinline__ Operands<T> operands(const T *q, const T *k, const T *v, const T *bias,
                                                const Wide<T> *scales, const Wide<T> *levels, const T *g,
                                                const Problem &s, size_t batch) {
    size_t queries = batch * s.queries, keys = batch * s.keys;
    return {{q + queries * s.depth, s.depth, s.queries, s.depth},
            {k + keys * s.k_stride, s.k_stride, s.keys, s.depth},
            {v + keys * s.v_stride + s.v_start, s.v_stride, s.keys, s.values},
            {g ? g + queries * s.values : g, s.values, s.queries, s.values},
            bias ? bias + at(s.bias, batch) : bias,
            s.bias_row,
            s.bias_column,
            scales ? scales + 2 * queries : scales,
            levels ? levels + queries : levels,
            (Wide<T>)s.scale};
}

// The rows and columns of the tile that are this thread's.
__device__ __forceinline__ unsigned row_of(unsigned i) { return threadIdx.x / SIDE * PER + i; }
__device__ __forceinline__ unsigned column_of(unsigned j) { return threadIdx.x % SIDE + SIDE * j; }

// Copies ROWS x COLUMNS of a matrix to shared memory, zeros where it ends.
template <unsigned ROWS, unsigned COLUMNS, unsigned DISTANCE, class T>
__device__ __forceinline__ void stage(T *to, const Matrix<T> &from, unsigned row, unsigned column) {
    constexpr unsigned W = WIDE<T>, PACKS = COLUMNS / W;
    static_assert(ROWS * PACKS % THREADS == 0, "every thread copies the same");
    if (from.is_aligned()) {
#pragma unroll
        for (unsigned n = 0; n < ROWS * PACKS; n += THREADS) {
            unsigned i = n + threadIdx.x, r = i / PACKS, c = i % PACKS * W;
            Pack<T, W> pack = {};
            if (row + r < from.rows && column + c < from.columns)
                pack = *(const Pack<T, W> *)(from.at + (row + r) * from.stride + column + c);
            *(Pack<T, W> *)(to + r * DISTANCE + c) = pack;
        }
        return;
    }
#pragma unroll(sizeof(T) == 2 ? 1 : 4) // registers are few beside those of tensor cores
    for (unsigned n = 0; n < ROWS * COLUMNS; n += THREADS) {
        unsigned i = n + threadIdx.x, r = i / COLUMNS, c = i % COLUMNS;
        bool is_inside = row + r < from.rows && column + c < from.columns;
        to[r * DISTANCE + c] = is_inside ? from.at[(row + r) * from.stride + column + c] : T{};
    }
}

// The products of rows of `a` with rows of `b`.
template <class T>
__device__ __forceinline__ void multiply(T (&sums)[PER][PER], const Matrix<T> &a, unsigned a_row,
                                         const Matrix<T> &b, unsigned b_row, Shared<T> &shared) {
    constexpr unsigned W = WIDE<T>;
    T *left = shared.staged, *right = left + TILE * STAGED<T>;
#pragma unroll
    for (unsigned i = 0; i < PER; i++)
        for (unsigned j = 0; j < PER; j++) sums[i][j] = 0;
    for (unsigned column = 0; column < a.columns; column += SLICE<T>) {
        __syncthreads(); // what was staged before has been read
        stage<TILE, SLICE<T>, STAGED<T>>(left, a, a_row, column);
        stage<TILE, SLICE<T>, STAGED<T>>(right, b, b_row, column);
        __syncthreads();
#pragma unroll 1
        for (unsigned c = 0; c < SLICE<T>; c += W) {
            Pack<T, W> x[PER], y[PER];
#pragma unroll
            for (unsigned i = 0; i < PER; i++) {
                x[i] = *(const Pack<T, W> *)(left + row_of(i) * STAGED<T> + c);
                y[i] = *(const Pack<T, W> *)(right + column_of(i) * STAGED<T> + c);
            }
#pragma unroll
            for (unsigned w = 0; w < W; w++)
#pragma unroll
                for (unsigned i = 0; i < PER; i++)
#pragma unroll
                    for (unsigned j = 0; j < PER; j++) sums[i][j] += x[i].at[w] * y[j].at[w];
        }
    }
}

// A thread's part of CHUNK columns of a result: packs of W numbers, at the distance SIDE * W.
template <unsigned CHUNK, class T> struct Columns {
    static constexpr unsigned EACH_ROW = CHUNK / SIDE;
    static constexpr unsigned W = EACH_ROW < WIDE<T> ? EACH_ROW : WIDE<T>;
    static constexpr unsigned PACKS = EACH_ROW / W;
    T at[PER][PACKS][W];

    __device__ __forceinline__ static unsigned first(unsigned pack) {
        return (pack * SIDE + threadIdx.x % SIDE) * W;
    }

    __device__ __forceinline__ void scale(unsigned i, T factor) {
#pragma unroll
        for (unsigned n = 0; n < PACKS; n++)
#pragma unroll
            for (unsigned w = 0; w < W; w++) at[i][n][w] *= factor;
    }

    template <class To>
    __device__ __forceinline__ void store(To *out, size_t stride, unsigned row, unsigned rows, unsigned column,
                                          unsigned columns) const {
#pragma unroll
        for (unsigned i = 0; i < PER; i++) {
            if (row + row_of(i) >= rows) continue;
            To *to = out + (row + row_of(i)) * stride + column;
#pragma unroll
            for (unsigned n = 0; n < PACKS; n++)
#pragma unroll
                for (unsigned w = 0; w < W; w++)
                    if (column + first(n) + w < columns) narrow(at[i][n][w], to + first(n) + w);
        }
    }
};

__device__ __forceinline__ constexpr unsigned power_of_two_up_to(unsigned most) {
    unsigned power = 1;
    while (2 * power <= most) power *= 2;
    return power;
}

// Adds to each row of `sums` the rows of `x` from `row` on, with the weights in `shared`.
template <unsigned CHUNK, class T>
__device__ __forceinline__ void mix(Columns<CHUNK, T> &sums, const Matrix<T> &x, unsigned row, unsigned column,
                                    Shared<T> &shared) {
    using Part = Columns<CHUNK, T>;
    constexpr unsigned FITTING = power_of_two_up_to(2 * TILE * STAGED<T> / CHUNK);
    constexpr unsigned HEIGHT = FITTING < TILE ? FITTING : TILE;
    for (unsigned start = 0; start < TILE && row + start < x.rows; start += HEIGHT) {
        __syncthreads(); // what was staged before has been read, and the weights are written
        stage<HEIGHT, CHUNK, CHUNK>(shared.staged, x, row + start, column);
        __syncthreads();
#pragma unroll 1
        for (unsigned j = 0; j < HEIGHT; j += WIDE<T>) {
            Pack<T, WIDE<T>> p[PER];
#pragma unroll
            for (unsigned i = 0; i < PER; i++)
                p[i] = *(const Pack<T, WIDE<T>> *)(shared.weights + row_of(i) * STRIDE<T> + start + j);
#pragma unroll
            for (unsigned v = 0; v < WIDE<T>; v++)
#pragma unroll
                for (unsigned n = 0; n < Part::PACKS; n++) {
                    auto y = *(const Pack<T, Part::W> *)(shared.staged + (j + v) * CHUNK + Part::first(n));
#pragma unroll
                    for (unsigned i = 0; i < PER; i++)
#pragma unroll
                        for (unsigned w = 0; w < Part::W; w++) sums.at[i][n][w] += p[i].at[v] * y.at[w];
                }
        }
    }
}

// Writes a thread's part of a tile.
template <class T> __device__ __forceinline__ void put(const T (&tile)[PER][PER], T *to) {
#pragma unroll
    for (unsigned i = 0; i < PER; i++)
#pragma unroll
        for (unsigned j = 0; j < PER; j++) to[row_of(i) * STRIDE<T> + column_of(j)] = tile[i][j];
}

// All threads come here; nobody reads older weights any more, as `multiply` came in between.
template <class T> __device__ __forceinline__ void share(const T (&weights)[PER][PER], Shared<T> &shared) {
    put(weights, shared.weights);
}

template <class T> __device__ __forceinline__ T *tile_of(Shared<T> &shared) { return shared.weights; }

// The same with numbers of 16 bits: a warp has the products of 16 rows and of half the columns of a tile.
constexpr unsigned BLOCK = 16, ROW = TILE + 8;          // the distance of staged rows
constexpr unsigned PIECE = TILE / 2, SHORT = PIECE + 8; // columns that `multiply` stages, and the distance of their rows
static_assert(THREADS / 32 * BLOCK == 2 * TILE, "two warps have the same rows");

template <class H> struct alignas(32) Halves {
    float products[TILE * STRIDE<float>];
    H weights[TILE * ROW];
    H staged[2 * TILE * SHORT];
};
static_assert(TILE * ROW <= 2 * TILE * SHORT, "a tile of rows can be staged");

template <class H> using RowsOf = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, BLOCK, BLOCK, BLOCK, H, nvcuda::wmma::row_major>;
template <class H, class Layout> using ColumnsOf = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, BLOCK, BLOCK, BLOCK, H, Layout>;
using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, BLOCK, BLOCK, BLOCK, float>;

template <class H>
__device__ __forceinline__ void multiply(float (&sums)[PER][PER], const Matrix<H> &a, unsigned a_row,
                                         const Matrix<H> &b, unsigned b_row, Halves<H> &shared) {
    H *left = shared.staged, *right = left + TILE * SHORT;
    unsigned own_row = threadIdx.x / 64 * BLOCK, own_column = threadIdx.x / 32 % 2 * (TILE / 2);
    Sums found[2];
#pragma unroll
    for (unsigned n = 0; n < 2; n++) nvcuda::wmma::fill_fragment(found[n], 0.0f);
#pragma unroll 1
    for (unsigned column = 0; column < a.columns; column += PIECE) {
        __syncthreads(); // what was staged before has been read
        stage<TILE, PIECE, SHORT>(left, a, a_row, column);
        stage<TILE, PIECE, SHORT>(right, b, b_row, column);
        __syncthreads();
#pragma unroll 1
        for (unsigned k = 0; k < PIECE && column + k < a.columns; k += BLOCK) {
            RowsOf<H> x;
            nvcuda::wmma::load_matrix_sync(x, left + own_row * SHORT + k, SHORT);
#pragma unroll
            for (unsigned n = 0; n < 2; n++) {
                ColumnsOf<H, nvcuda::wmma::col_major> y;
                nvcuda::wmma::load_matrix_sync(y, right + (own_column + n * BLOCK) * SHORT + k, SHORT);
                nvcuda::wmma::mma_sync(found[n], x, y, found[n]);
            }
        }
    }
    float *products = shared.products;
#pragma unroll
    for (unsigned n = 0; n < 2; n++)
        nvcuda::wmma::store_matrix_sync(products + own_row * STRIDE<float> + own_column + n * BLOCK, found[n],
                                        STRIDE<float>, nvcuda::wmma::mem_row_major);
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < PER; i++)
#pragma unroll
        for (unsigned j = 0; j < PER; j++) sums[i][j] = products[row_of(i) * STRIDE<float> + column_of(j)];
}

template <unsigned CHUNK, class H>
__device__ __forceinline__ void mix(Columns<CHUNK, float> &sums, const Matrix<H> &x, unsigned row,
                                    unsigned column, Halves<H> &shared) {
    using Part = Columns<CHUNK, float>;
    constexpr unsigned WIDTH = SIDE * Part::W, EACH = WIDTH / (2 * BLOCK); // columns of a pack, blocks of a warp
    unsigned own_row = threadIdx.x / 64 * BLOCK, own_column = threadIdx.x / 32 % 2 * (WIDTH / 2);
#pragma unroll
    for (unsigned n = 0; n < Part::PACKS; n++) {
        __syncthreads(); // products and what was staged have been read, and the weights are written
        stage<TILE, WIDTH, ROW>(shared.staged, x, row, column + n * WIDTH);
        __syncthreads();
        Sums found[EACH];
#pragma unroll
        for (unsigned m = 0; m < EACH; m++) nvcuda::wmma::fill_fragment(found[m], 0.0f);
#pragma unroll 1
        for (unsigned k = 0; k < TILE && row + k < x.rows; k += BLOCK) {
            RowsOf<H> p;
            nvcuda::wmma::load_matrix_sync(p, shared.weights + own_row * ROW + k, ROW);
#pragma unroll
            for (unsigned m = 0; m < EACH; m++) {
                ColumnsOf<H, nvcuda::wmma::row_major> y;
                nvcuda::wmma::load_matrix_sync(y, shared.staged + k * ROW + own_column + m * BLOCK, ROW);
                nvcuda::wmma::mma_sync(found[m], p, y, found[m]);
            }
        }
#pragma unroll
        for (unsigned m = 0; m < EACH; m++)
            nvcuda::wmma::store_matrix_sync(
                shared.products + own_row * STRIDE<float> + own_column + m * BLOCK, found[m], STRIDE<float>,
                nvcuda::wmma::mem_row_major);
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < PER; i++)
#pragma unroll
            for (unsigned w = 0; w < Part::W; w++)
                sums.at[i][n][w] +=
                    shared.products[row_of(i) * STRIDE<float> + threadIdx.x % SIDE * Part::W + w];
    }
}

template <class H> __device__ __forceinline__ void share(const float (&weights)[PER][PER], Halves<H> &shared) {
#pragma unroll
    for (unsigned i = 0; i < PER; i++)
#pragma unroll
        for (unsigned j = 0; j < PER; j++) narrow(weights[i][j], shared.weights + row_of(i) * ROW + column_of(j));
}

template <class H> __device__ __forceinline__ float *tile_of(Halves<H> &shared) { return shared.products; }

template <class T>
__device__ __forceinline__ Wide<T> score(const Operands<T> &x, Wide<T> product, unsigned query, unsigned key) {
    Wide<T> score = x.scale * product;
    return x.bias ? score + wide(x.bias[query * x.bias_row + key * x.bias_column]) : score;
}

// A block for each tile of queries and chunk of values. `scales` is written here.
template <unsigned CHUNK, class T, class Space>
__device__ __forceinline__ void forward(const T *q, const T *k, const T *v, const T *bias, T *y,
                                        Wide<T> *scales, const Problem &s, Space &shared) {
    using W = Wide<T>;
    size_t chunks = (s.values + CHUNK - 1) / CHUNK, tiles = (s.queries + TILE - 1) / TILE;
    for (size_t item = blockIdx.x; item < s.batch * tiles * chunks; item += gridDim.x) {
        unsigned first = item % chunks * CHUNK, row = item / chunks % tiles * TILE;
        size_t batch = item / chunks / tiles;
        Operands<T> x = operands<T>(q, k, v, bias, nullptr, nullptr, nullptr, s, batch);
        Columns<CHUNK, W> sums = {};
        // `total` is of the thread's own columns until the end
        W largest[PER], total[PER] = {};
        for (unsigned i = 0; i < PER; i++) largest[i] = (W)-INFINITY;
        for (unsigned column = 0; column < s.keys; column += TILE) {
            W p[PER][PER];
            multiply(p, x.q, row, x.k, column, shared);
#pragma unroll
            for (unsigned i = 0; i < PER; i++) {
                W most = largest[i];
#pragma unroll
                for (unsigned j = 0; j < PER; j++) {
                    unsigned query = row + row_of(i), key = column + column_of(j);
                    bool is_inside = query < s.queries && key < s.keys;
                    p[i][j] = is_inside ? score(x, p[i][j], query, key) : (W)-INFINITY;
                    most = p[i][j] > most ? p[i][j] : most;
                }
                for (int step = SIDE / 2; step > 0; step /= 2) {
                    W other = __shfl_xor_sync(0xffffffffu, most, step);
                    most = other > most ? other : most;
                }
                // where all scores are masked so far, any number will do
                W from = most == (W)-INFINITY ? 0 : most;
                W kept = most > largest[i] ? exp(largest[i] - from) : (W)1;
                largest[i] = most;
                total[i] *= kept;
                sums.scale(i, kept);
#pragma unroll
                for (unsigned j = 0; j < PER; j++) {
                    p[i][j] = exp(p[i][j] - from);
                    total[i] += p[i][j];
                }
            }
            share(p, shared);
            mix(sums, x.v, column, first, shared);
        }
#pragma unroll
        for (unsigned i = 0; i < PER; i++) {
            for (int step = SIDE / 2; step > 0; step /= 2)
                total[i] += __shfl_xor_sync(0xffffffffu, total[i], step);
            W factor = 1 / total[i];
            sums.scale(i, factor);
            size_t query = row + row_of(i);
            if (first == 0 && threadIdx.x % SIDE == 0 && query < s.queries) {
                scales[2 * (batch * s.queries + query)] = largest[i];
                scales[2 * (batch * s.queries + query) + 1] = factor;
            }
        }
        sums.store(y + batch * s.queries * s.values, s.values, row, s.queries, first, s.values);
    }
}

// The products of the rows of `y` and `g`: a warp for each.
template <class T>
__device__ __forceinline__ void attention_levels(const T *y, const T *g, Wide<T> *out, size_t rows, size_t values) {
    size_t first = (blockIdx.x * (size_t)THREADS + threadIdx.x) / 32, step = gridDim.x * (THREADS / 32);
    for (size_t row = first; row < rows; row += step) {
        Wide<T> sum = 0;
        for (size_t i = threadIdx.x % 32; i < values; i += 32)
            sum += wide(y[row * values + i]) * wide(g[row * values + i]);
        for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
        if (threadIdx.x % 32 == 0) out[row] = sum;
    }
}

// A tile of the softmax, or with GRADIENT of the gradient of the scores. Rows are queries, or keys if TURNED.
template <bool TURNED, bool GRADIENT, class T, class Space>
__device__ __forceinline__ void softmax_tile(Wide<T> (&weights)[PER][PER], const Operands<T> &x, unsigned row,
                                             unsigned column, Space &shared) {
    Wide<T> products[PER][PER];
    multiply(weights, TURNED ? x.k : x.q, row, TURNED ? x.q : x.k, column, shared);
    if constexpr (GRADIENT) multiply(products, TURNED ? x.v : x.g, row, TURNED ? x.g : x.v, column, shared);
#pragma unroll
    for (unsigned i = 0; i < PER; i++)
#pragma unroll
        for (unsigned j = 0; j < PER; j++) {
            unsigned query = TURNED ? column + column_of(j) : row + row_of(i);
            unsigned key = TURNED ? row + row_of(i) : column + column_of(j);
            Wide<T> weight = 0;
            if (query < x.q.rows && key < x.k.rows) {
                Pack<Wide<T>, 2> scale = *(const Pack<Wide<T>, 2> *)(x.scales + 2 * query);
                weight = exp(score(x, weights[i][j], query, key) - scale.at[0]) * scale.at[1];
                if constexpr (GRADIENT) weight *= products[i][j] - x.levels[query];
            }
            weights[i][j] = weight;
        }
}

// The gradient of q, or if TURNED of k, or without GRADIENT of v: a block for each tile of its rows and chunk
// of its columns. Rows of `out` lie at a distance.
template <unsigned CHUNK, bool TURNED, bool GRADIENT, class T, class Space>
__device__ __forceinline__ void operand_gradient(const T *q, const T *k, const T *v, const T *bias,
                                                 const Wide<T> *scales, const Wide<T> *levels, const T *g, T *out,
                                                 size_t start, size_t stride, const Problem &s,
                                                 Space &shared) {
    unsigned rows = TURNED ? s.keys : s.queries, columns = TURNED ? s.queries : s.keys;
    unsigned width = GRADIENT ? s.depth : s.values;
    size_t chunks = (width + CHUNK - 1) / CHUNK, tiles = (rows + TILE - 1) / TILE;
    for (size_t item = blockIdx.x; item < s.batch * tiles * chunks; item += gridDim.x) {
        unsigned first = item % chunks * CHUNK, row = item / chunks % tiles * TILE;
        size_t batch = item / chunks / tiles;
        Operands<T> x = operands(q, k, v, bias, scales, levels, g, s, batch);
        Columns<CHUNK, Wide<T>> sums = {};
        for (unsigned column = 0; column < columns; column += TILE) {
            Wide<T> weights[PER][PER];
            softmax_tile<TURNED, GRADIENT>(weights, x, row, column, shared);
            share(weights, shared);
            mix(sums, TURNED ? GRADIENT ? x.q : x.g : x.k, column, first, shared);
        }
        if (GRADIENT)
            for (unsigned i = 0; i < PER; i++) sums.scale(i, x.scale);
        sums.store(out + start + batch * rows * stride, stride, row, rows, first, width);
    }
}

// The gradient of the bias in `parts` parts, each a sum over some of what shares an element: batch indices, and
// tiles where rows or columns are broadcast. The bias has `planes` planes of scores, each of which `members`
// batch indices share. A block for each tile of each part.
template <class T, class Space>
__device__ __forceinline__ void bias_gradient(const T *q, const T *k, const T *v, const T *bias,
                                              const Wide<T> *scales, const Wide<T> *levels, const T *g,
                                              Wide<T> *out, const Walk &plane_batch, const Walk &member_batch,
                                              size_t planes, size_t members, size_t parts,
                                              const Problem &s, Space &shared) {
    bool has_rows = s.bias_row != 0, has_columns = s.bias_column != 0;
    size_t query_tiles = (s.queries + TILE - 1) / TILE, key_tiles = (s.keys + TILE - 1) / TILE;
    size_t plane = (has_rows ? s.queries : 1) * (size_t)(has_columns ? s.keys : 1);
    size_t down = has_rows ? query_tiles : 1, across = has_columns ? key_tiles : 1;
    size_t terms = members * (query_tiles / down) * (key_tiles / across);
    for (size_t item = blockIdx.x; item < parts * planes * down * across; item += gridDim.x) {
        size_t part = item % parts, rest = item / parts;
        unsigned own_column = rest % across * TILE, own_row = rest / across % down * TILE;
        size_t p = rest / across / down;
        Wide<T> sums[PER][PER] = {};
        for (size_t term = part; term < terms; term += parts) {
            size_t member = term % members, tile = term / members;
            unsigned column = has_columns ? own_column : tile % key_tiles * TILE;
            unsigned row = has_rows ? own_row : tile / (key_tiles / across) * TILE;
            size_t batch = at(plane_batch, p) + at(member_batch, member);
            Operands<T> x = operands(q, k, v, bias, scales, levels, g, s, batch);
            Wide<T> weights[PER][PER];
            softmax_tile<false, true>(weights, x, row, column, shared);
#pragma unroll
            for (unsigned i = 0; i < PER; i++)
#pragma unroll
                for (unsigned j = 0; j < PER; j++) sums[i][j] += weights[i][j];
        }
        __syncthreads(); // the tile before has been written out
        Wide<T> *tile = tile_of(shared);
        put(sums, tile);
        __syncthreads();
        if (!has_columns) {
            if (threadIdx.x < TILE)
                for (unsigned c = 1, r = threadIdx.x * STRIDE<Wide<T>>; c < TILE; c++) tile[r] += tile[r + c];
            __syncthreads();
        }
        if (!has_rows) {
            if (threadIdx.x < TILE)
                for (unsigned r = 1; r < TILE; r++) tile[threadIdx.x] += tile[r * STRIDE<Wide<T>> + threadIdx.x];
            __syncthreads();
        }
        unsigned height = has_rows ? TILE : 1, width = has_columns ? TILE : 1;
        for (unsigned i = threadIdx.x; i < height * width; i += THREADS) {
            unsigned r = i / width, c = i % width;
            size_t query = own_row + r, key = own_column + c;
            Wide<T> *to = out + (part * planes + p) * plane;
            if (query < s.queries && key < s.keys)
                to[query * s.bias_row + key * s.bias_column] = tile[r * STRIDE<Wide<T>> + c];
        }
    }
}

template <class T>
__device__ __forceinline__ void attention_sum_parts(const Wide<T> *x, T *out, size_t count, size_t parts) {
    EACH(i, count) {
        double sum = 0;
        for (size_t part = 0; part < parts; part++) sum += (double)x[part * count + i];
        narrow((Wide<T>)sum, out + i);
    }
}

// Loops over what is staged are not unrolled, and two blocks are to fit a multiprocessor, but for double precision and
// for gradients of many columns on tensor cores, which would not do with as few registers.
#define KERNEL(name, suffix, T, Space, blocks, PARAMETERS, function, ARGUMENTS)                              \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks) attention_##name##_##suffix PARAMETERS(T) { \
        __shared__ Space shared;                                                                             \
        function ARGUMENTS;                                                                                  \
    }
#define TILED(name, halves, PARAMETERS, function, ARGUMENTS)                                                 \
    KERNEL(name, f32, float, Shared<float>, 2, PARAMETERS, function, ARGUMENTS)                              \
    KERNEL(name, f64, double, Shared<double>, 1, PARAMETERS, function, ARGUMENTS)                            \
    KERNEL(name, f16, __half, Halves<__half>, halves, PARAMETERS, function, ARGUMENTS)                        \
    KERNEL(name, bf16, __nv_bfloat16, Halves<__nv_bfloat16>, halves, PARAMETERS, function, ARGUMENTS)

#define FORWARD(T) (const T *q, const T *k, const T *v, const T *bias, T *y, Wide<T> *scales, const Problem s)
#define GIVEN(T)                                                                                             \
    const T *q, const T *k, const T *v, const T *bias, const Wide<T> *scales, const Wide<T> *levels, const T *g
#define GRADIENT(T) (GIVEN(T), T *out, size_t start, size_t stride, const Problem s)
#define GRADIENT_ARGUMENTS (q, k, v, bias, scales, levels, g, out, start, stride, s, shared)
#define BIAS_GRADIENT(T)                                                                                     \
    (GIVEN(T), Wide<T> *out, const Walk plane_batch, const Walk member_batch, size_t planes, size_t members, size_t parts, \
     const Problem s)

#define CHUNKED(chunk, halves)                                                                               \
    TILED(forward_##chunk, 2, FORWARD, forward<chunk>, (q, k, v, bias, y, scales, s, shared))                \
    TILED(q_gradient_##chunk, halves, GRADIENT, (operand_gradient<chunk, false, true>), GRADIENT_ARGUMENTS)  \
    TILED(k_gradient_##chunk, halves, GRADIENT, (operand_gradient<chunk, true, true>), GRADIENT_ARGUMENTS)   \
    TILED(v_gradient_##chunk, 2, GRADIENT, (operand_gradient<chunk, true, false>), GRADIENT_ARGUMENTS)

CHUNKED(32, 2)
CHUNKED(64, 2)
CHUNKED(128, 1)
TILED(bias_gradient, 2, BIAS_GRADIENT, bias_gradient,
      (q, k, v, bias, scales, levels, g, out, plane_batch, member_batch, planes, members, parts, s, shared))

#define LEVELS(T) (const T *y, const T *g, Wide<T> *out, size_t rows, size_t values)
#define SUM_PARTS(T) (const Wide<T> *x, T *out, size_t count, size_t parts)
EVERY(attention_levels, LEVELS, (y, g, out, rows, values))
EVERY(attention_sum_parts, SUM_PARTS, (x, out, count, parts))
