//! Convolution and transposed convolution layers.

use crate::watch::see;
use crate::{Init, Param, Result, Scope};
use candle_core::Tensor;
use limpid_kernels::{ConvSpec, ConvTransposeSpec};

/// Convolution, `weight [out, in/groups, k…]`, `bias [out]`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Kernel.
    pub weight: Param,
    /// Offset per output channel.
    pub bias: Option<Param>,
    spec: ConvSpec,
}

/// Padding that keeps the size at stride 1 for an odd kernel.
#[must_use]
pub fn same_padding(kernel: &[usize]) -> Vec<usize> {
    kernel.iter().map(|k| (k.saturating_sub(1)) / 2).collect()
}

impl Conv {
    /// A convolution of `inputs` to `outputs` channels; the rank is that of `kernel`.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: &[usize],
        spec: ConvSpec,
        bias: bool,
        scope: &Scope,
    ) -> Result<Self> {
        Self::with_init(inputs, outputs, kernel, spec, bias, Init::Default, scope)
    }

    /// As [`Conv::new`], with a kernel that is drawn otherwise.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn with_init(
        inputs: usize,
        outputs: usize,
        kernel: &[usize],
        spec: ConvSpec,
        bias: bool,
        init: Init,
        scope: &Scope,
    ) -> Result<Self> {
        let shape = [&[outputs, inputs / spec.groups.max(1)], kernel].concat();
        Ok(Self {
            weight: scope.param("weight", &shape, init)?,
            bias: bias
                .then(|| scope.param("bias", &[outputs], Init::bias_of(&shape)))
                .transpose()?,
            spec,
        })
    }

    /// A convolution with parameters that were defined elsewhere, say with other initial values.
    #[must_use]
    pub fn of(weight: Param, bias: Option<Param>, spec: ConvSpec) -> Self {
        Self { weight, bias, spec }
    }

    /// The common case: stride 1, odd cubic kernel, size kept.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn same(
        rank: usize,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        bias: bool,
        scope: &Scope,
    ) -> Result<Self> {
        let kernel = vec![kernel; rank];
        let spec = ConvSpec { padding: same_padding(&kernel), ..ConvSpec::unit(rank) };
        Self::new(inputs, outputs, &kernel, spec, bias, scope)
    }

    /// # Shapes
    /// `x [N, in, s…]` → `[N, out, s'…]`
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if `x` does not fit the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_cat(&[x])
    }

    /// As [`Conv::forward`] of tensors joined along the channels, which need no join.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if they do not fit the kernel or each other.
    pub fn forward_cat(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Param::tensor);
        let y = limpid_kernels::conv_cat(parts, &self.weight.tensor(), bias.as_ref(), &self.spec)?;
        see(&self.weight, &y);
        Ok(y)
    }
}

/// Transposed convolution, `weight [in, out/groups, k…]`, `bias [out]`.
#[derive(Clone, Debug)]
pub struct ConvTranspose {
    /// Kernel.
    pub weight: Param,
    /// Offset per output channel.
    pub bias: Option<Param>,
    spec: ConvTransposeSpec,
}

impl ConvTranspose {
    /// A transposed convolution; the rank is that of `kernel`.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: &[usize],
        spec: ConvTransposeSpec,
        bias: bool,
        scope: &Scope,
    ) -> Result<Self> {
        let shape = [&[inputs, outputs / spec.groups.max(1)], kernel].concat();
        Ok(Self {
            weight: scope.param("weight", &shape, Init::Default)?,
            bias: bias
                .then(|| scope.param("bias", &[outputs], Init::bias_of(&shape)))
                .transpose()?,
            spec,
        })
    }

    /// # Shapes
    /// `x [N, in, s…]` → `[N, out, s'…]`
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if `x` does not fit the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_cat(&[x])
    }

    /// As [`ConvTranspose::forward`] of tensors joined along the channels, which need no join.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if they do not fit the kernel or each other.
    pub fn forward_cat(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let (weight, bias) = (self.weight.tensor(), self.bias.as_ref().map(Param::tensor));
        let y = limpid_kernels::conv_transpose_cat(parts, &weight, bias.as_ref(), &self.spec)?;
        see(&self.weight, &y);
        Ok(y)
    }
}
