//! Operations compared with the CPU's: what `cargo xtask cuda test` and `cuda check` go through.

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
    pub is_rounded: bool,
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

    fn inputs(&self, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        let mut inputs = Vec::with_capacity(self.shapes.len());
        for (i, shape) in self.shapes.iter().enumerate() {
            let mut draws = Stream::new(i as u64, "gpu case").draws();
            let count = shape.iter().product();
            let [from, to] = self.range;
            let values: Vec<f32> = (0..count).map(|_| draws.range(from, to) as f32).collect();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?;
            inputs.push(tensor.to_dtype(dtype)?.to_device(device)?);
        }
        Ok(inputs)
    }

    /// The result, then the gradients, on the CPU in f64.
    fn found(&self, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        let inputs = self.inputs(dtype, device)?;
        let to_cpu = |t: &Tensor| -> Result<Tensor> {
            Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
        };
        if !self.differentiated {
            return Ok(vec![to_cpu(&(self.f)(&inputs)?)?]);
        }
        let vars = inputs.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let (y, grads) = autograd::record(|| -> Result<_> {
            let y = (self.f)(&tensors)?;
            let weight = crate::gradcheck::test_tensor(7, y.dims())?;
            let weight = weight.to_dtype(dtype)?.to_device(device)?;
            let grads = autograd::backward(&(&y * weight)?.sum_all()?)?;
            Ok((y, grads))
        })?;
        let mut found = vec![to_cpu(&y)?];
        for (i, var) in vars.iter().enumerate() {
            let missing = || Error::argument("gpu case", format!("input {i} has no gradient"));
            found.push(to_cpu(grads.get(var).ok_or_else(missing)?)?);
        }
        Ok(found)
    }

    /// The worst difference between `device` and the CPU in numbers of `dtype`, relative to the largest number of
    /// each result.
    ///
    /// # Errors
    /// Whatever the operation returns on either; [`Error::Shape`] if shapes differ.
    pub fn worst(&self, device: &Device, dtype: DType) -> Result<f64> {
        self.worst_in(device, dtype, Precision::F32)
    }

    /// [`Case::worst`] with the factors of products rounded on the device, and not on the CPU.
    ///
    /// # Errors
    /// As [`Case::worst`].
    pub fn worst_in(&self, device: &Device, dtype: DType, precision: Precision) -> Result<f64> {
        let before = crate::precision();
        set_precision(precision);
        let ours = self.found(dtype, device);
        set_precision(before);
        let (ours, theirs) = (ours?, self.found(dtype, &Device::Cpu)?);
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

/// Every operation that runs on a GPU, on random and odd shapes.
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
    use super::*;

    /// Run by `cargo xtask cuda test` with a GPU in software, or by hand with one. `LIMPID_CASE` picks some.
    #[test]
    #[ignore = "run by cargo xtask cuda test"]
    fn cuda_gives_what_the_cpu_does() {
        let device = crate::gpu::open(0).unwrap();
        let filter = std::env::var("LIMPID_CASE").unwrap_or_default();
        let mut wrong = Vec::new();
        let mut count = 0;
        for case in cases().into_iter().filter(|case| case.name.contains(&filter)) {
            for (dtype, most) in [(DType::F32, 1e-5), (DType::F64, 1e-11)] {
                count += 1;
                match case.worst(&device, dtype) {
                    Ok(worst) if worst <= most => {}
                    Ok(worst) => wrong.push(format!("{} in {dtype:?}: {worst:.1e}", case.name)),
                    Err(e) => wrong.push(format!("{} in {dtype:?}: {e}", case.name)),
                }
            }
            for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
                if case.is_rounded {
                    match case.worst_in(&device, DType::F32, precision) {
                        Ok(worst) if worst <= 1e-2 => {}
                        Ok(worst) => {
                            wrong.push(format!("{} in {precision:?}: {worst:.1e}", case.name))
                        }
                        Err(e) => wrong.push(format!("{} in {precision:?}: {e}", case.name)),
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(count > 0, "no case is called that");
    }
}
