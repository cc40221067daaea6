//! The numbers of samples and images.

pub use rustfft::num_complex::Complex;

use rustfft::FftNum;
use std::iter::Sum;
use std::ops::{AddAssign, MulAssign, SubAssign};

/// f32 or f64: what samples and images are made of.
pub trait Real: FftNum + Default + PartialOrd + AddAssign + SubAssign + MulAssign + Sum {
    /// The nearest number.
    fn of(x: f64) -> Self;
    /// The number itself.
    fn f64(self) -> f64;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }

    fn f64(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn f64(self) -> f64 {
        self
    }
}

/// Whether the numbers are of single precision.
pub(crate) fn is_single<T: Real>() -> bool {
    T::of(0.1).f64() != 0.1
}

/// The complex number `exp(2πi turns)`, of which only the fraction of the turns counts.
pub(crate) fn turn<T: Real>(turns: f64) -> Complex<T> {
    let (sin, cos) = (std::f64::consts::TAU * (turns - turns.round())).sin_cos();
    Complex::new(T::of(cos), T::of(sin))
}

/// The same number in f64.
pub(crate) fn wide<T: Real>(z: Complex<T>) -> Complex<f64> {
    Complex::new(z.re.f64(), z.im.f64())
}

/// The nearest number of a narrower type.
pub(crate) fn narrow<T: Real>(z: Complex<f64>) -> Complex<T> {
    Complex::new(T::of(z.re), T::of(z.im))
}
