// The functions of activation/functions.rs: value, first and second derivative at one point. `p` and `q` are
// what a function takes besides, in the order of its fields.
#pragma once

#include "limpid.cuh"

template <class T> ANYWHERE T logistic(T x) { return 1 / (1 + exp(-x)); }

struct Identity {
    template <class T> static ANYWHERE T value(T x, T, T) { return x; }
    template <class T> static ANYWHERE T first(T, T, T) { return 1; }
};

struct Relu {
    template <class T> static ANYWHERE T value(T x, T, T) { return x <= 0 ? 0 : x; }
    template <class T> static ANYWHERE T first(T x, T, T) { return x <= 0 ? 0 : 1; }
    template <class T> static ANYWHERE T second(T, T, T) { return 0; }
};

struct LeakyRelu {
    template <class T> static ANYWHERE T value(T x, T slope, T) { return x > 0 ? x : x * slope; }
    template <class T> static ANYWHERE T first(T x, T slope, T) { return x > 0 ? 1 : slope; }
    template <class T> static ANYWHERE T second(T, T, T) { return 0; }
};

struct Abs {
    template <class T> static ANYWHERE T value(T x, T, T) { return fabs(x); }
    template <class T> static ANYWHERE T first(T x, T, T) { return x < 0 ? -1 : x > 0 ? 1 : 0; }
    template <class T> static ANYWHERE T second(T, T, T) { return 0; }
};

struct Elu {
    template <class T> static ANYWHERE T value(T x, T alpha, T) { return x > 0 ? x : alpha * expm1(x); }
    template <class T> static ANYWHERE T first(T x, T alpha, T) { return x > 0 ? 1 : alpha * exp(x); }
    template <class T> static ANYWHERE T second(T x, T alpha, T) { return x > 0 ? 0 : alpha * exp(x); }
};

struct Sigmoid {
    template <class T> static ANYWHERE T value(T x, T, T) { return logistic(x); }
    template <class T> static ANYWHERE T first(T x, T, T) { return logistic(x) * logistic(-x); }
    template <class T> static ANYWHERE T second(T x, T, T) {
        T s = logistic(x), r = logistic(-x);
        return s * r * (r - s);
    }
};

struct Tanh {
    template <class T> static ANYWHERE T value(T x, T, T) { return tanh(x); }
    template <class T> static ANYWHERE T first(T x, T, T) {
        T t = tanh(x);
        return 1 - t * t;
    }
    template <class T> static ANYWHERE T second(T x, T, T) {
        T t = tanh(x);
        return -2 * t * (1 - t * t);
    }
};

struct Softplus {
    template <class T> static ANYWHERE T value(T x, T beta, T threshold) {
        T bx = x * beta, positive = bx < 0 ? 0 : bx;
        return bx > threshold ? x : (positive + log1p(exp(-fabs(bx)))) / beta;
    }
    template <class T> static ANYWHERE T first(T x, T beta, T threshold) {
        T bx = x * beta;
        return bx > threshold ? 1 : logistic(bx);
    }
    template <class T> static ANYWHERE T second(T x, T beta, T threshold) {
        T bx = x * beta;
        return bx > threshold ? 0 : beta * logistic(bx) * logistic(-bx);
    }
};

struct Silu {
    template <class T> static ANYWHERE T value(T x, T, T) { return x * logistic(x); }
    template <class T> static ANYWHERE T first(T x, T, T) {
        T s = logistic(x);
        return s * (1 + x * (1 - s));
    }
    template <class T> static ANYWHERE T second(T x, T, T) {
        T s = logistic(x), r = logistic(-x);
        return s * r * (2 + x * (r - s));
    }
};

struct Gelu {
    template <class T> static ANYWHERE T below(T x) { return (T)0.5 * erfc(x * (T)-0.70710678118654752440); }
    template <class T> static ANYWHERE T density(T x) {
        return exp(x * x * (T)-0.5) * (T)0.39894228040143267794;
    }
    template <class T> static ANYWHERE T value(T x, T, T) { return x * below(x); }
    template <class T> static ANYWHERE T first(T x, T, T) { return below(x) + x * density(x); }
    template <class T> static ANYWHERE T second(T x, T, T) { return density(x) * (2 - x * x); }
};

// `v` and its derivative: `(1 + tanh(v / 2)) / 2` is the logistic function of `v`, which does not cancel.
struct GeluTanh {
    static constexpr double SCALE = 1.5957691216057308, CUBE = 0.044715;
    template <class T> static ANYWHERE T inner(T x) { return (T)SCALE * (x + (T)CUBE * x * x * x); }
    template <class T> static ANYWHERE T slope(T x) { return (T)SCALE * (1 + 3 * (T)CUBE * x * x); }
    template <class T> static ANYWHERE T value(T x, T, T) { return x * logistic(inner(x)); }
    template <class T> static ANYWHERE T first(T x, T, T) {
        T v = inner(x), s = logistic(v);
        return s + x * s * logistic(-v) * slope(x);
    }
    template <class T> static ANYWHERE T second(T x, T, T) {
        T v = inner(x), dv = slope(x), s = logistic(v), r = logistic(-v);
        return s * r * (2 * dv + x * ((r - s) * dv * dv + (T)(6 * SCALE * CUBE) * x));
    }
};

// `t` is tanh(softplus(x)); to the last bit one beyond 20.
struct Mish {
    template <class T> struct Inner {
        T t, first, second;
    };
    template <class T> static ANYWHERE Inner<T> inner(T x) {
        T e = exp(x > 20 ? (T)20 : x), p = e * (e + 2), t = p / (p + 2), s = logistic(x);
        T first = 2 / (p + 2) * (1 + t) * s;
        return {t, first, first * (logistic(-x) - 2 * t * s)};
    }
    template <class T> static ANYWHERE T value(T x, T, T) { return x * inner(x).t; }
    template <class T> static ANYWHERE T first(T x, T, T) {
        Inner<T> i = inner(x);
        return i.t + x * i.first;
    }
    template <class T> static ANYWHERE T second(T x, T, T) {
        Inner<T> i = inner(x);
        return 2 * i.first + x * i.second;
    }
};

#define FUNCTIONS(F)                                                                                         \
    F(relu, Relu) F(leaky_relu, LeakyRelu) F(abs, Abs) F(elu, Elu) F(sigmoid, Sigmoid) F(tanh, Tanh)         \
    F(softplus, Softplus) F(silu, Silu) F(gelu, Gelu) F(gelu_tanh, GeluTanh) F(mish, Mish)
