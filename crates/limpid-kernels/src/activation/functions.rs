//! The functions themselves: value, first and second derivative at one point.

use crate::math::Real;

/// A smooth or piecewise smooth function of one variable.
pub(crate) trait Function: Copy + Send + Sync + 'static {
    /// Its name in errors.
    const NAME: &'static str;
    /// What it takes besides, in the order of its fields.
    #[cfg(feature = "cuda")]
    fn parameters(self) -> [f64; 2] {
        [0.0; 2]
    }
    /// The function.
    fn value<T: Real>(self, x: T) -> T;
    /// Its derivative; at a kink the convention of PyTorch.
    fn first<T: Real>(self, x: T) -> T;
    /// Its second derivative; zero at a kink.
    fn second<T: Real>(self, x: T) -> T;
}

/// `1 / (1 + exp(-x))`, accurate also where it is tiny; zero where the exponential overflows.
#[inline(always)]
fn logistic<T: Real>(x: T) -> T {
    logistic_in::<false, T>(x)
}

/// As [`logistic`], with fused multiply-adds if `FUSED`.
#[inline(always)]
fn logistic_in<const FUSED: bool, T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp_in::<FUSED>())
}

#[derive(Clone, Copy)]
pub(crate) struct Identity;

impl Function for Identity {
    const NAME: &'static str = "identity";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x
    }

    #[inline(always)]
    fn first<T: Real>(self, _: T) -> T {
        T::one()
    }

    #[inline(always)]
    fn second<T: Real>(self, _: T) -> T {
        T::zero()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl Function for Relu {
    const NAME: &'static str = "relu";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        if x <= T::zero() { T::zero() } else { x }
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        if x <= T::zero() { T::zero() } else { T::one() }
    }

    #[inline(always)]
    fn second<T: Real>(self, _: T) -> T {
        T::zero()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct LeakyRelu {
    pub slope: f64,
}

impl Function for LeakyRelu {
    const NAME: &'static str = "leaky_relu";

    #[cfg(feature = "cuda")]
    fn parameters(self) -> [f64; 2] {
        [self.slope, 0.0]
    }

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        if x > T::zero() { x } else { x * T::of(self.slope) }
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        if x > T::zero() { T::one() } else { T::of(self.slope) }
    }

    #[inline(always)]
    fn second<T: Real>(self, _: T) -> T {
        T::zero()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Abs;

impl Function for Abs {
    const NAME: &'static str = "abs";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x.abs()
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let up = if x > T::zero() { T::one() } else { T::zero() };
        if x < T::zero() { -T::one() } else { up }
    }

    #[inline(always)]
    fn second<T: Real>(self, _: T) -> T {
        T::zero()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Elu {
    pub alpha: f64,
}

impl Function for Elu {
    const NAME: &'static str = "elu";

    #[cfg(feature = "cuda")]
    fn parameters(self) -> [f64; 2] {
        [self.alpha, 0.0]
    }

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        if x > T::zero() { x } else { T::of(self.alpha) * x.exp_m1() }
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        if x > T::zero() { T::one() } else { T::of(self.alpha) * x.exp() }
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        if x > T::zero() { T::zero() } else { T::of(self.alpha) * x.exp() }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Sigmoid;

impl Function for Sigmoid {
    const NAME: &'static str = "sigmoid";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        logistic(x)
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        logistic(x) * logistic(-x)
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let (s, r) = (logistic(x), logistic(-x));
        s * r * (r - s)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Tanh;

impl Function for Tanh {
    const NAME: &'static str = "tanh";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x.tanh()
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let t = x.tanh();
        T::one() - t * t
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let t = x.tanh();
        T::of(-2.0) * t * (T::one() - t * t)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Softplus {
    pub beta: f64,
    pub threshold: f64,
}

impl Function for Softplus {
    const NAME: &'static str = "softplus";

    #[cfg(feature = "cuda")]
    fn parameters(self) -> [f64; 2] {
        [self.beta, self.threshold]
    }

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        let beta = T::of(self.beta);
        let bx = x * beta;
        let positive = if bx < T::zero() { T::zero() } else { bx };
        let soft = (positive + (-bx.abs()).exp().ln_1p()) / beta;
        if bx > T::of(self.threshold) { x } else { soft }
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let bx = x * T::of(self.beta);
        if bx > T::of(self.threshold) { T::one() } else { logistic(bx) }
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let beta = T::of(self.beta);
        let bx = x * beta;
        let curve = beta * logistic(bx) * logistic(-bx);
        if bx > T::of(self.threshold) { T::zero() } else { curve }
    }
}

/// `FUSED` as in [`Real::exp_in`].
#[derive(Clone, Copy)]
pub(crate) struct Silu<const FUSED: bool>;

impl<const FUSED: bool> Function for Silu<FUSED> {
    const NAME: &'static str = "silu";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x * logistic_in::<FUSED, T>(x)
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let s = logistic_in::<FUSED, T>(x);
        s * (T::one() + x * (T::one() - s))
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let (s, r) = (logistic_in::<FUSED, T>(x), logistic_in::<FUSED, T>(-x));
        s * r * (T::of(2.0) + x * (r - s))
    }
}

/// `x Φ(x)` with the exact normal distribution function; `FUSED` as in [`Real::exp_in`].
#[derive(Clone, Copy)]
pub(crate) struct Gelu<const FUSED: bool>;

/// The standard normal distribution function and its density.
#[inline(always)]
fn normal<const FUSED: bool, T: Real>(x: T) -> (T, T) {
    let below = T::of(0.5) * (x * T::of(-std::f64::consts::FRAC_1_SQRT_2)).erfc_in::<FUSED>();
    let density = (x * x * T::of(-0.5)).exp_in::<FUSED>() * T::of(0.398_942_280_401_432_7);
    (below, density)
}

impl<const FUSED: bool> Function for Gelu<FUSED> {
    const NAME: &'static str = "gelu";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x * normal::<FUSED, T>(x).0
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let (below, density) = normal::<FUSED, T>(x);
        below + x * density
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        normal::<FUSED, T>(x).1 * (T::of(2.0) - x * x)
    }
}

/// The approximation of GELU by a hyperbolic tangent.
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;

impl GeluTanh {
    const SCALE: f64 = 1.595_769_121_605_730_8; // 2 sqrt(2 / pi)
    const CUBE: f64 = 0.044_715;

    /// `v = SCALE (x + CUBE x³)`, and its derivative; `(1 + tanh(v / 2)) / 2` is the logistic
    /// function of `v`, which does not cancel.
    #[inline(always)]
    fn inner<T: Real>(x: T) -> (T, T) {
        let (scale, cube) = (T::of(Self::SCALE), T::of(Self::CUBE));
        (scale * (x + cube * x * x * x), scale * (T::one() + T::of(3.0) * cube * x * x))
    }
}

impl Function for GeluTanh {
    const NAME: &'static str = "gelu_tanh";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x * logistic(Self::inner(x).0)
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let (v, dv) = Self::inner(x);
        let s = logistic(v);
        s + x * s * logistic(-v) * dv
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let (v, dv) = Self::inner(x);
        let (s, r) = (logistic(v), logistic(-v));
        let ddv = T::of(6.0 * Self::SCALE * Self::CUBE) * x;
        s * r * (T::of(2.0) * dv + x * ((r - s) * dv * dv + ddv))
    }
}

/// `x tanh(softplus(x))`.
#[derive(Clone, Copy)]
pub(crate) struct Mish;

impl Mish {
    /// `tanh(softplus(x))` and its first two derivatives.
    #[inline(always)]
    fn inner<T: Real>(x: T) -> (T, T, T) {
        // tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2); one to the last bit beyond 20
        let e = if x > T::of(20.0) { T::of(20.0) } else { x }.exp();
        let p = e * (e + T::of(2.0));
        let t = p / (p + T::of(2.0));
        let s = logistic(x);
        let slope = T::of(2.0) / (p + T::of(2.0)) * (T::one() + t);
        let first = slope * s;
        let second = first * (logistic(-x) - T::of(2.0) * t * s);
        (t, first, second)
    }
}

impl Function for Mish {
    const NAME: &'static str = "mish";

    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        x * Self::inner(x).0
    }

    #[inline(always)]
    fn first<T: Real>(self, x: T) -> T {
        let (t, dt, _) = Self::inner(x);
        t + x * dt
    }

    #[inline(always)]
    fn second<T: Real>(self, x: T) -> T {
        let (_, dt, ddt) = Self::inner(x);
        T::of(2.0) * dt + x * ddt
    }
}
