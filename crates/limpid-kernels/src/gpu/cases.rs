//! Operations compared with the CPU's: what `cargo xtask cuda test` and `cuda check` go through.

use crate::cast::is_half;
use crate::order::{from_last, to_last};
use crate::rng::Stream;
use crate::{Error, Precision, Result, autograd, set_precision};
use candle_core::{DType, Device, Tensor, Var};

type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// An operation on random tensors of some shapes.
pub struct Case {
    /// What it is called in tables: the operation, then what is special.
    pub name: String,
    shapes: Vec<Vec<usize>>,
    /// Values are drawn from here to there.
    range: [f64; 2],
    /// Whether gradients are compared too.
    differentiated: bool,
    /// Whether factors are rounded where that is asked for.
    is_rounded: bool,
    /// Whether it takes numbers of 16 bits.
    has_halves: bool,
    f: Function,
}

impl Case {
    /// Of tensors with values from -1 to 1; results and gradients of all tensors are compared.
    pub fn new(
        name: impl Into<String>,
        shapes: &[&[usize]],
        f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            shapes: shapes.iter().map(|shape| shape.to_vec()).collect(),
            range: [-1.0, 1.0],
            differentiated: true,
            is_rounded: false,
            has_halves: true,
            f: Box::new(f),
        }
    }

    /// With values from here to there.
    #[must_use]
    pub fn range(self, from: f64, to: f64) -> Self {
        Self { range: [from, to], ..self }
    }

    /// Without gradients.
    #[must_use]
    pub fn result_only(self) -> Self {
        Self { differentiated: false, ..self }
    }

    /// Made of products, whose factors may be rounded.
    #[must_use]
    pub fn rounded(self) -> Self {
        Self { is_rounded: true, ..self }
    }

    /// Of numbers of 32 and 64 bits alone.
    #[must_use]
    pub fn without_halves(self) -> Self {
        Self { has_halves: false, ..self }
    }

    /// The tensors in the order in which they lie.
    fn inputs(&self, numbers: Numbers, device: &Device) -> Result<Vec<Tensor>> {
        let mut inputs = Vec::with_capacity(self.shapes.len());
        for (i, shape) in self.shapes.iter().enumerate() {
            let mut draws = Stream::new(i as u64, "gpu case").draws();
            let count = shape.iter().product();
            let [from, to] = self.range;
            let values: Vec<f32> = (0..count).map(|_| draws.range(from, to) as f32).collect();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?;
            let tensor = numbers.of(&tensor)?;
            let tensor = if numbers.lie_last(shape.len()) {
                tensor.permute(to_last(shape.len()))?.contiguous()?
            } else {
                tensor
            };
            inputs.push(tensor.to_device(device)?);
        }
        Ok(inputs)
    }

    /// The result, then the gradients, on the CPU in f64.
    fn found(&self, numbers: Numbers, device: &Device) -> Result<Vec<Tensor>> {
        let inputs = self.inputs(numbers, device)?;
        let to_cpu = |t: &Tensor| -> Result<Tensor> {
            Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
        };
        let seen = |t: &Tensor| match numbers.lie_last(t.rank()) {
            true => crate::permute(t, &from_last(t.rank())),
            false => Ok(t.clone()),
        };
        if !self.differentiated {
            let inputs = inputs.iter().map(seen).collect::<Result<Vec<_>>>()?;
            return Ok(vec![to_cpu(&(self.f)(&inputs)?)?]);
        }
        let vars = inputs.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let (y, grads) = autograd::record(|| -> Result<_> {
            let tensors = vars.iter().map(|v| seen(v)).collect::<Result<Vec<_>>>()?;
            let y = (self.f)(&tensors)?;
            let weight = crate::gradcheck::test_tensor(7, y.dims())?;
            let weight = numbers.of(&weight)?.to_device(device)?.to_dtype(y.dtype())?;
            let grads = autograd::backward(&(&y * weight)?.sum_all()?)?;
            Ok((y, grads))
        })?;
        let mut found = vec![to_cpu(&y)?];
        for (i, var) in vars.iter().enumerate() {
            let missing = || Error::argument("gpu case", format!("input {i} has no gradient"));
            found.push(to_cpu(&seen(&grads.get(var).ok_or_else(missing)?.detach())?)?);
        }
        Ok(found)
    }

    /// The worst difference between `device`, where the factors of products are rounded, and the CPU, where they are
    /// not, in numbers of `dtype`, relative to the largest number of each result. The CPU computes with numbers of 16
    /// bits in f32.
    fn worst_in(
        &self,
        device: &Device,
        dtype: DType,
        last: bool,
        precision: Precision,
    ) -> Result<f64> {
        let before = crate::precision();
        set_precision(precision);
        let ours = self.found(Numbers { values: dtype, dtype, last }, device);
        set_precision(before);
        let wide = if is_half(dtype) { DType::F32 } else { dtype };
        let theirs = Numbers { values: dtype, dtype: wide, last: false };
        let theirs = self.found(theirs, &Device::Cpu)?;
        let ours = ours?;
        let mut worst = 0f64;
        for (a, b) in ours.iter().zip(&theirs) {
            if a.dims() != b.dims() {
                return Err(Error::shape("gpu case", format!("{:?}", b.dims()), a.dims()));
            }
            let flat = |t: &Tensor| -> Result<Vec<f64>> { Ok(t.flatten_all()?.to_vec1()?) };
            let (a, b) = (flat(a)?, flat(b)?);
            let scale = b.iter().fold(1e-30, |most: f64, x| most.max(x.abs()));
            for (a, b) in a.iter().zip(&b) {
                // a number that is none on one side only is infinitely wrong
                let same = a == b || a.is_nan() && b.is_nan();
                let error = if same { 0.0 } else { (a - b).abs() / scale };
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            }
        }
        Ok(worst)
    }
}

/// Numbers as a case is computed with.
#[derive(Clone, Copy)]
struct Numbers {
    /// Values are some that this type has.
    values: DType,
    /// They are stored so.
    dtype: DType,
    /// Whether the second of three dimensions or more lies last in memory.
    last: bool,
}

impl Numbers {
    fn of(self, t: &Tensor) -> Result<Tensor> {
        Ok(t.to_dtype(self.values)?.to_dtype(self.dtype)?)
    }

    fn lie_last(self, rank: usize) -> bool {
        self.last && rank >= 3
    }
}

/// A case in numbers of one type.
pub struct Comparison {
    /// What they are called in tables.
    pub numbers: &'static str,
    /// The worst difference, relative to the largest number of each result.
    pub worst: Result<f64>,
    /// The most that it may be.
    pub most: f64,
}

impl Comparison {
    /// Whether it is small enough.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.worst.as_ref().is_ok_and(|&worst| worst <= self.most)
    }
}

impl Case {
    /// The case in all types of numbers that it may have on a GPU.
    #[must_use]
    pub fn compare(&self, device: &Device) -> Vec<Comparison> {
        const WHOLE: [(&str, DType, f64); 2] =
            [("f32", DType::F32, 1e-5), ("f64", DType::F64, 1e-11)];
        const ROUNDED: [(&str, Precision); 3] =
            [("tf32", Precision::Tf32), ("bf16", Precision::Bf16), ("f16", Precision::F16)];
        let whole = WHOLE.into_iter().map(|(numbers, dtype, most)| {
            let worst = self.worst_in(device, dtype, false, Precision::F32);
            Comparison { numbers, worst, most }
        });
        let rounded =
            ROUNDED.into_iter().filter(|_| self.is_rounded).map(|(numbers, precision)| {
                let worst = self.worst_in(device, DType::F32, false, precision);
                Comparison { numbers, worst, most: 1e-2 }
            });
        const HALVES: [(&str, DType, bool); 4] = [
            ("stored bf16", DType::BF16, false),
            ("stored f16", DType::F16, false),
            ("stored bf16, channels last", DType::BF16, true),
            ("stored f16, channels last", DType::F16, true),
        ];
        let has_images = self.shapes.iter().any(|shape| shape.len() >= 3);
        let halves = HALVES.into_iter().filter(|(_, _, last)| has_images || !last);
        let halves = halves.filter(|_| self.has_halves).map(|(numbers, dtype, last)| {
            let worst = self.worst_in(device, dtype, last, Precision::F32);
            Comparison { numbers, worst, most: 1e-2 }
        });
        whole.chain(rounded).chain(halves).collect()
    }
}

/// Goes through cases, some of them if the environment variable `LIMPID_CASE` has a part of their name.
///
/// # Errors
/// [`Error::Argument`] with the comparisons that differ, or if there are none at all.
pub fn compare_all(cases: Vec<Case>, device: &Device) -> Result<()> {
    let filter = std::env::var("LIMPID_CASE").unwrap_or_default();
    let (mut count, mut wrong) = (0, Vec::new());
    for case in cases.into_iter().filter(|case| case.name.contains(&filter)) {
        for comparison in case.compare(device) {
            count += 1;
            let name = format!("{} in {}", case.name, comparison.numbers);
            match &comparison.worst {
                Ok(_) if comparison.agrees() => {}
                Ok(worst) => wrong.push(format!("{name}: {worst:.1e}")),
                Err(e) => wrong.push(format!("{name}: {e}")),
            }
        }
    }
    if count == 0 && !filter.is_empty() {
        return Ok(()); // those of another crate were meant
    }
    if wrong.is_empty() && count > 0 {
        return Ok(());
    }
    let message = format!("{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    Err(Error::argument("gpu case", message))
}

/// Every operation that runs on a GPU, on odd shapes and others that are special.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        crate::activation::cases(),
        crate::algebra::cases(),
        crate::attention::cases(),
        crate::conv::cases(),
        crate::dropout::cases(),
        crate::norm::cases(),
        crate::pool::cases(),
        crate::separable::cases(),
        crate::shuffle::cases(),
        crate::softmax::cases(),
        crate::step::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    /// With a GPU, real or in software.
    #[test]
    #[ignore = "run by cargo xtask cuda test"]
    fn cuda_gives_what_the_cpu_does() {
        let device = crate::gpu::open(0).unwrap();
        let drawn = crate::gpu::random_cases(0);
        let cases = super::cases().into_iter().chain(drawn).collect();
        if let Err(e) = super::compare_all(cases, &device) {
            panic!("{e}");
        }
    }
}
