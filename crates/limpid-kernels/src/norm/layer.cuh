// Normalisation of rows with parameters per element: a part of op.cu; see layer.rs.

// Rows with parameters per element. If each is one piece it is measured here, and `statistics` are written.
template <class T>
__device__ __forceinline__ void layer_values(const T *x, double *statistics, const Wide<T> *weight, const Wide<T> *bias,
                                             T *out, Rows rows, double eps) {
    constexpr int SIZE = Few<T>::SIZE;
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(weight) | ADDRESS(bias) | ADDRESS(out));
    size_t step = rows.lanes * SIZE;
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        const T *from = x + piece.row * rows.width;
        Wide<T> mean, rstd;
        if (rows.pieces == 1) {
            Moments found = moments_of(from, piece, rows, aligned);
            double variance = found.deviations / found.count;
            if (piece.exists && piece.lane == 0)
                set_statistic(statistics, rows.count, piece.row, found.mean, variance, eps);
            mean = (Wide<T>)found.mean;
            rstd = (Wide<T>)(1 / sqrt(variance + eps));
        } else {
            mean = (Wide<T>)statistics[piece.row];
            rstd = (Wide<T>)statistics[2 * rows.count + piece.row];
        }
        T *into = out + piece.row * rows.width;
        for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += step) {
            Few<T> a = load(from, i, piece.to, aligned, (Wide<T>)0), w, b;
            if (weight) w = load_parameters<T>(weight, i, piece.to, aligned);
            if (bias) b = load_parameters<T>(bias, i, piece.to, aligned);
#pragma unroll
            for (int j = 0; j < SIZE; j++) {
                Wide<T> y = (a.v[j] - mean) * rstd;
                if (weight) y *= w.v[j];
                if (bias) y += b.v[j];
                a.v[j] = y;
            }
            store(into, i, piece.to, aligned, a);
        }
    }
}

// Of a piece, in each of its lanes, the sums of `g w` and of `g w (x - mean)`.
template <class T>
__device__ __forceinline__ void layer_sums_of(const T *x, const T *grad, const Wide<T> *weight, double mean,
                                              const Piece &piece, const Rows &rows, bool aligned, double &sum,
                                              double &product) {
    constexpr int SIZE = Few<T>::SIZE;
    size_t step = rows.lanes * SIZE;
    sum = product = 0;
    for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += step) {
        Few<T> a = load(x, i, piece.to, aligned, (Wide<T>)0), w;
        Few<T> g = load(grad, i, piece.to, aligned, (Wide<T>)0);
        if (weight) w = load_parameters<T>(weight, i, piece.to, aligned);
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            double term = (double)g.v[j] * (weight ? (double)w.v[j] : 1.0);
            sum += term;
            product += term * ((double)a.v[j] - mean);
        }
    }
    sum = piece_sum(sum, rows);
    product = piece_sum(product, rows);
}

template <class T>
__device__ __forceinline__ void layer_sums(const T *x, const T *grad, const double *statistics, const Wide<T> *weight,
                                           double *parts, Rows rows) {
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(grad) | ADDRESS(weight));
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        size_t start = piece.row * rows.width;
        double sum, product;
        layer_sums_of(x + start, grad + start, weight, statistics[piece.row], piece, rows, aligned, sum, product);
        if (piece.exists && piece.lane == 0) {
            parts[2 * piece.part] = sum;
            parts[2 * piece.part + 1] = product;
        }
    }
}

// The gradient of x. If each row is one piece its slope and level are found here, else they are in `tilts`.
template <class T>
__device__ __forceinline__ void layer_gradient(const T *x, const T *grad, const double *statistics,
                                               const double *tilts, const Wide<T> *weight, T *out, Rows rows) {
    constexpr int SIZE = Few<T>::SIZE;
    bool aligned = is_aligned<T>(rows, ADDRESS(x) | ADDRESS(grad) | ADDRESS(weight) | ADDRESS(out));
    size_t step = rows.lanes * SIZE;
    EACH_PIECE(first, rows) {
        Piece piece(rows, first);
        size_t start = piece.row * rows.width;
        double mean = statistics[piece.row], rstd = statistics[2 * rows.count + piece.row];
        Wide<T> slope, level;
        if (tilts) {
            slope = (Wide<T>)tilts[piece.row];
            level = (Wide<T>)tilts[rows.count + piece.row];
        } else {
            double sum, product;
            layer_sums_of(x + start, grad + start, weight, mean, piece, rows, aligned, sum, product);
            Tilt tilt(sum, product, rstd, (double)rows.width);
            slope = (Wide<T>)tilt.slope;
            level = (Wide<T>)tilt.level;
        }
        for (size_t i = piece.from + piece.lane * SIZE; i < piece.to; i += step) {
            Few<T> a = load(x + start, i, piece.to, aligned, (Wide<T>)0), w;
            Few<T> g = load(grad + start, i, piece.to, aligned, (Wide<T>)0);
            if (weight) w = load_parameters<T>(weight, i, piece.to, aligned);
#pragma unroll
            for (int j = 0; j < SIZE; j++) {
                Wide<T> gw = weight ? g.v[j] * w.v[j] : g.v[j];
                g.v[j] = gw * (Wide<T>)rstd + ((a.v[j] - (Wide<T>)mean) * slope + level);
            }
            store(out + start, i, piece.to, aligned, g);
        }
    }
}

// The gradients of weight and bias over slabs of `height` rows: `parts` has the weight's sums of each slab,
// then the bias's. A warp takes every eighth row of a slab in 32 columns.
template <class T>
__device__ __forceinline__ void layer_slabs(const T *x, const T *grad, const double *statistics, double *parts,
                                            size_t rows, size_t width, size_t height) {
    constexpr int WARPS = THREADS / 32;
    __shared__ double found[2][WARPS][32];
    const double *rstd = statistics + 2 * rows;
    size_t across = (width + 31) / 32, slabs = (rows + height - 1) / height;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (size_t item = blockIdx.x; item < across * slabs; item += gridDim.x) {
        size_t column = item % across * 32 + lane, slab = item / across;
        size_t end = (slab + 1) * height < rows ? (slab + 1) * height : rows;
        double dw = 0, db = 0;
        if (column >= width) end = 0;
#pragma unroll 4
        for (size_t row = slab * height + warp; row < end; row += WARPS) {
            double g = (double)wide(grad[row * width + column]);
            dw += g * (((double)wide(x[row * width + column]) - statistics[row]) * rstd[row]);
            db += g;
        }
        found[0][warp][lane] = dw;
        found[1][warp][lane] = db;
        __syncthreads();
        // the first warp adds up the weight's, the second the bias's
        if (warp < 2 && column < width) {
            double sum = 0;
            for (int i = 0; i < WARPS; i++) sum += found[warp][i][lane];
            parts[(2 * slab + warp) * width + column] = sum;
        }
        __syncthreads();
    }
}

template <class T>
__device__ __forceinline__ void layer_parameters(const double *parts, T *dw, T *db, size_t width,
                                                 size_t slabs) {
    EACH(i, 2 * width) {
        double sum = 0;
        for (size_t slab = 0; slab < slabs; slab++) sum += parts[2 * slab * width + i];
        if (i < width)
            dw[i] = (T)sum;
        else
            db[i - width] = (T)sum;
    }
}
