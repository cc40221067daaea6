//! Linear layer.

use crate::watch::see;
use crate::{Error, Init, Param, Result, Scope};
use candle_core::Tensor;

/// `y = x·Wᵀ + b` on the last dimension, `weight [out, in]`, `bias [out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Matrix.
    pub weight: Param,
    /// Offset per output.
    pub bias: Option<Param>,
}

impl Linear {
    /// A linear map of `inputs` to `outputs` features.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(inputs: usize, outputs: usize, bias: bool, scope: &Scope) -> Result<Self> {
        let shape = [outputs, inputs];
        Ok(Self {
            weight: scope.param("weight", &shape, Init::Default)?,
            bias: bias
                .then(|| scope.param("bias", &[outputs], Init::bias_of(&shape)))
                .transpose()?,
        })
    }

    /// # Shapes
    /// `x […, in]` → `[…, out]`
    ///
    /// # Errors
    /// [`Error::Shape`] if the last dimension is not `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [outputs, inputs] = [self.weight.shape()[0], self.weight.shape()[1]];
        let dims = x.dims();
        let Some((&last, lead)) = dims.split_last().filter(|(last, _)| **last == inputs) else {
            return Err(Error::shape("linear", format!("[…, {inputs}]"), dims));
        };
        let rows: usize = lead.iter().product();
        let x = limpid_kernels::reshape(x, (rows, last))?;
        let bias = self.bias.as_ref().map(Param::tensor);
        let y = limpid_kernels::linear(&x, &self.weight.tensor(), bias.as_ref())?;
        see(&self.weight, &y);
        limpid_kernels::reshape(&y, [lead, &[outputs]].concat())
    }
}
