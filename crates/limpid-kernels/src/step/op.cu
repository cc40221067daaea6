// Updates and sums of many tensors at once; see cuda.rs, which fills the rows.
#include "rows.cuh"

// One update or one sum: arrays of `count` elements, of which the grid takes pieces from number `first` on.
struct Row {
    void *at[4];
    size_t count, first;
    double numbers[6];
};

constexpr int ROWS = 40, PIECE = 2048, LONG_PIECE = 8192;

// Handed over by value, within the 4 kB that a kernel's arguments may take.
struct Rows {
    Row row[ROWS];
};

// The last of the rows that begins at or before a piece; rows without elements take none.
__device__ __forceinline__ int row_of(const Rows &rows, int count, size_t piece) {
    int low = 0;
    for (int high = count; high - low > 1;) {
        int middle = (low + high) / 2;
        if (rows.row[middle].first <= piece)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// The updates of cpu.rs: `x` is one element of each array, of which the first `WRITTEN` change.
template <class T> struct Scale {
    static constexpr int READ = 1, WRITTEN = 1;
    T a;
    __device__ Scale(const double *n) : a((T)n[0]) {}
    __device__ void operator()(T *x) const { x[0] *= a; }
};

template <class T> struct Axpby {
    static constexpr int READ = 2, WRITTEN = 1;
    T a, b;
    __device__ Axpby(const double *n) : a((T)n[0]), b((T)n[1]) {}
    __device__ void operator()(T *x) const { x[0] = x[0] * a + b * x[1]; }
};

template <class T> struct AxpbySquare {
    static constexpr int READ = 2, WRITTEN = 1;
    T a, b;
    __device__ AxpbySquare(const double *n) : a((T)n[0]), b((T)n[1]) {}
    __device__ void operator()(T *x) const { x[0] = x[0] * a + b * x[1] * x[1]; }
};

// The two forms of torch.lerp: each is exact at its own end.
template <class T> struct Lerp {
    static constexpr int READ = 2, WRITTEN = 1;
    bool near;
    T weight, rest;
    __device__ Lerp(const double *n) : near(n[0] < 0.5), weight((T)n[0]), rest((T)(1 - n[0])) {}
    __device__ T of(T d, T s) const { return near ? d + weight * (s - d) : s - (s - d) * rest; }
    __device__ void operator()(T *x) const { x[0] = of(x[0], x[1]); }
};

// The larger of two, or NaN if either is NaN.
template <class T> __device__ __forceinline__ T larger(T a, T b) { return b > a || b != b ? b : a; }

template <class T> struct Max {
    static constexpr int READ = 2, WRITTEN = 1;
    __device__ Max(const double *) {}
    __device__ void operator()(T *x) const { x[0] = larger(x[0], x[1]); }
};

template <class T> struct AbsMax {
    static constexpr int READ = 2, WRITTEN = 1;
    T decay, eps;
    __device__ AbsMax(const double *n) : decay((T)n[0]), eps((T)n[1]) {}
    __device__ void operator()(T *x) const { x[0] = larger(x[0] * decay, (T)fabs(x[1]) + eps); }
};

template <class T> struct SqrtDivUpdate {
    static constexpr int READ = 3, WRITTEN = 1;
    T step, bias2_sqrt, eps;
    __device__ SqrtDivUpdate(const double *n) : step((T)-n[0]), bias2_sqrt((T)n[1]), eps((T)n[2]) {}
    __device__ T of(T d, T m, T v) const { return d + step * m / ((T)sqrt(v) / bias2_sqrt + eps); }
    __device__ void operator()(T *x) const { x[0] = of(x[0], x[1], x[2]); }
};

template <class T> struct DivUpdate {
    static constexpr int READ = 3, WRITTEN = 1;
    T step;
    __device__ DivUpdate(const double *n) : step((T)-n[0]) {}
    __device__ void operator()(T *x) const { x[0] += step * x[1] / x[2]; }
};

// Of parameter, both averages and gradient.
template <class T> struct Adam {
    static constexpr int READ = 4, WRITTEN = 3;
    Lerp<T> lerp;
    AxpbySquare<T> square;
    SqrtDivUpdate<T> update;
    __device__ Adam(const double *n) : lerp(n), square(n + 1), update(n + 3) {}
    __device__ void operator()(T *x) const {
        x[1] = lerp.of(x[1], x[3]);
        x[2] = x[2] * square.a + square.b * x[3] * x[3];
        x[0] = update.of(x[0], x[1], x[2]);
    }
};

// Of a copy and what is copied, times the factor of the verdict.
template <class T> struct Times {
    static constexpr int READ = 2, WRITTEN = 1;
    T factor;
    __device__ Times(const double *n) : factor((T)n[0]) {}
    __device__ void operator()(T *x) const { x[0] = x[1] * factor; }
};

// A verdict is a factor, and whether nothing may be changed: above 0. Without one everything may.
__device__ __forceinline__ bool is_shut(const double *verdict) { return verdict && verdict[1] > 0; }

template <class T, class F>
__device__ __forceinline__ void update(const Rows &rows, int count, size_t pieces, const double *factor = nullptr) {
    constexpr int SIZE = Pack<T>::COUNT;
    for (size_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        int r = row_of(rows, count, piece);
        F f(factor ? factor : rows.row[r].numbers);
        T *at[F::READ];
        size_t places = 0;
        size_t begin = (piece - rows.row[r].first) * PIECE, left = rows.row[r].count - begin;
        for (int k = 0; k < F::READ; k++) {
            at[k] = (T *)rows.row[r].at[k] + begin;
            places |= (size_t)at[k];
        }
        int length = left < PIECE ? (int)left : PIECE, packed = places % 16 == 0 ? length / SIZE * SIZE : 0;
        for (int i = threadIdx.x * SIZE; i < packed; i += THREADS * SIZE) {
            Pack<T> x[F::READ];
            for (int k = 0; k < F::READ; k++) x[k] = *(const Pack<T> *)(at[k] + i);
            for (int j = 0; j < SIZE; j++) {
                T one[F::READ];
                for (int k = 0; k < F::READ; k++) one[k] = x[k].of[j];
                f(one);
                for (int k = 0; k < F::WRITTEN; k++) x[k].of[j] = one[k];
            }
            for (int k = 0; k < F::WRITTEN; k++) *(Pack<T> *)(at[k] + i) = x[k];
        }
        for (int i = packed + threadIdx.x; i < length; i += THREADS) {
            T one[F::READ];
            for (int k = 0; k < F::READ; k++) one[k] = at[k][i];
            f(one);
            for (int k = 0; k < F::WRITTEN; k++) at[k][i] = one[k];
        }
    }
}

#define UPDATE_OF(name, Function, T, suffix)                                                                 \
    extern "C" __global__ void step_##name##_##suffix(const Rows rows, int count, size_t pieces,             \
                                                      const double *verdict) {                               \
        if (!is_shut(verdict)) update<T, Function<T>>(rows, count, pieces);                                  \
    }
#define UPDATE(name, Function) UPDATE_OF(name, Function, float, f32) UPDATE_OF(name, Function, double, f64)
UPDATE(scale, Scale)
UPDATE(axpby, Axpby)
UPDATE(axpby_sq, AxpbySquare)
UPDATE(ema, Lerp)
UPDATE(max, Max)
UPDATE(max_abs, AbsMax)
UPDATE(adam_update, SqrtDivUpdate)
UPDATE(div_update, DivUpdate)
UPDATE(adam, Adam)

extern "C" __global__ void step_times_f32(const Rows rows, int count, size_t pieces, const double *verdict) {
    update<float, Times<float>>(rows, count, pieces, verdict);
}
extern "C" __global__ void step_times_f64(const Rows rows, int count, size_t pieces, const double *verdict) {
    update<double, Times<double>>(rows, count, pieces, verdict);
}

// For each piece of an array: the sum of the squares, and how many elements are not finite.
template <class T>
__device__ __forceinline__ void look(const Rows &rows, int count, size_t pieces) {
    constexpr int SIZE = Pack<T>::COUNT;
    for (size_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        int r = row_of(rows, count, piece);
        size_t number = piece - rows.row[r].first, begin = number * LONG_PIECE;
        size_t left = rows.row[r].count - begin;
        const T *x = (const T *)rows.row[r].at[0] + begin;
        int length = left < LONG_PIECE ? (int)left : LONG_PIECE;
        int packed = (size_t)x % 16 == 0 ? length / SIZE * SIZE : 0;
        double squares = 0, bad = 0;
        for (int i = threadIdx.x * SIZE; i < packed; i += THREADS * SIZE) {
            Pack<T> pack = *(const Pack<T> *)(x + i);
            for (int j = 0; j < SIZE; j++) {
                squares += (double)pack.of[j] * pack.of[j];
                bad += !isfinite(pack.of[j]);
            }
        }
        for (int i = packed + threadIdx.x; i < length; i += THREADS) {
            squares += (double)x[i] * x[i];
            bad += !isfinite(x[i]);
        }
        squares = block_sum(squares);
        bad = block_sum(bad);
        if (threadIdx.x == 0) {
            double *out = (double *)rows.row[r].at[1] + 2 * number;
            out[0] = squares;
            out[1] = bad;
        }
    }
}

// The sums over the pieces of each array, a block for each.
__device__ __forceinline__ void gather(const Rows &rows, int count) {
    for (int r = blockIdx.x; r < count; r += gridDim.x) {
        const double *parts = (const double *)rows.row[r].at[1];
        double *out = (double *)rows.row[r].at[2];
        size_t pieces = (rows.row[r].count + LONG_PIECE - 1) / LONG_PIECE;
        double squares = 0, bad = 0;
        for (size_t i = threadIdx.x; i < pieces; i += THREADS) {
            squares += parts[2 * i];
            bad += parts[2 * i + 1];
        }
        squares = block_sum(squares);
        bad = block_sum(bad);
        if (threadIdx.x == 0) {
            out[0] = squares;
            out[1] = bad;
        }
    }
}

extern "C" __global__ void step_look_f32(const Rows rows, int count, size_t pieces) {
    look<float>(rows, count, pieces);
}
extern "C" __global__ void step_look_f64(const Rows rows, int count, size_t pieces) {
    look<double>(rows, count, pieces);
}
extern "C" __global__ void step_gather_f64(const Rows rows, int count) { gather(rows, count); }

// The verdict on gradients, of which `sums` has the squares and the number of elements that are not finite; what else
// was looked at must be finite only. A limit of 0 is none. One block.
extern "C" __global__ void step_judge_f64(const double *sums, int rows, int gradients, double scale, double limit,
                                          const double *before, double *verdict) {
    double squares = 0, bad = 0;
    for (int r = threadIdx.x; r < rows; r += THREADS) {
        if (r < gradients) squares += sums[2 * r];
        bad += sums[2 * r + 1];
    }
    squares = block_sum(squares);
    bad = block_sum(bad);
    if (threadIdx.x == 0) {
        double norm = sqrt(squares) / scale, clip = limit > 0 ? limit / (norm + 1e-6) : 1;
        verdict[0] = clip < 1 && isfinite(norm) ? clip / scale : 1 / scale;
        verdict[1] = bad > 0 || is_shut(before);
    }
}
