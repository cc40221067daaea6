//! The network of implicit GROG (Abraham et al. 2023, arXiv:2310.10823): from where the sources of a
//! target point lie in k-space to the kernel that interpolates the target from them.
//!
//! Reference: `GRAPPAMLP` of nishi951/torch-named-linops; the random Fourier features are those of
//! danielabrahamgit/hofft (`learnable_kernels`). The last layer is complex, kept as two real ones.
//!
//! ```text
//! features [N, F] → [F, cos, sin of random projections] → layers × (linear, ReLU) [N, latent]
//!   → two linear layers: real and imaginary part → kernel [N, C, S·C, 2]
//! kernel, sources [N·R, S, C, 2] → target [N·R, C, 2]
//! ```

use crate::{Architecture, Shapes, count_of, size_of};
use candle_core::{D, Tensor};
use limpid_config::{Check, Validate};
use limpid_nn::layers::Linear;
use limpid_nn::{Error, Init, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const OP: &str = "GROG network";

/// Settings of an implicit-GROG network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Numbers that describe a geometry: the offset of every source, and the time if the field is
    /// corrected.
    pub features: usize,
    /// Sources of a target.
    pub sources: usize,
    /// Receive coils.
    pub coils: usize,
    /// Real layers before the last, complex one.
    pub layers: usize,
    /// Features of all of them but the last.
    pub hidden: usize,
    /// Features of the last of them.
    pub latent: usize,
    /// Random projections whose cosine and sine join the features; 0 for none.
    pub projections: usize,
}

impl Default for Config {
    /// The reference's defaults for five sources in a plane and eight coils.
    fn default() -> Self {
        Self {
            features: 10,
            sources: 5,
            coils: 8,
            layers: 3,
            hidden: 256,
            latent: 256,
            projections: 0,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    ///
    /// Sources and coils are only told together: those are chosen for which an offset has two
    /// coordinates, or three, and for which there is no time, or one.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let layers = count_of(shapes, "feature_layers.", ".weight");
        let size =
            |layer: usize, axis| size_of(shapes, &format!("feature_layers.{layer}.weight"), axis);
        let outputs = size_of(shapes, "last_re.weight", 0)?;
        if shapes.get("last_im.weight") != shapes.get("last_re.weight") {
            return None;
        }
        let projections = size_of(shapes, "projection", 1).unwrap_or(0);
        let features = size(0, 1)?.checked_sub(2 * projections)?;
        let fits = |(dims, times): (usize, usize)| {
            let sources = features.checked_sub(times).filter(|n| n.is_multiple_of(dims))? / dims;
            let squared = outputs.checked_div(sources).filter(|n| n * sources == outputs)?;
            let coils = squared.isqrt();
            (coils * coils == squared).then_some((sources, coils))
        };
        let (sources, coils) = [(2, 0), (2, 1), (3, 0), (3, 1)].into_iter().find_map(fits)?;
        Some(Self {
            features,
            sources,
            coils,
            layers,
            hidden: size(0, 0)?,
            latent: size(layers.checked_sub(1)?, 0)?,
            projections,
        })
    }

    /// Defines the parameters and returns the network.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn build(&self, scope: &Scope) -> Result<GrogMlp> {
        GrogMlp::new(self, scope)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "grog_mlp"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        self.build(scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [
            ("features", self.features),
            ("sources", self.sources),
            ("coils", self.coils),
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("latent", self.latent),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct GrogMlp {
    projection: Option<Param>,
    layers: Vec<Linear>,
    last: [Linear; 2],
    sources: usize,
    coils: usize,
}

impl GrogMlp {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let shape = [c.features, c.projections];
        let normal = Init::Normal { mean: 0.0, std: 1.0 };
        let projection =
            (c.projections > 0).then(|| scope.buffer("projection", &shape, normal)).transpose()?;
        let mut inputs = c.features + 2 * c.projections;
        let mut layers = Vec::with_capacity(c.layers);
        for i in 0..c.layers {
            let outputs = if i + 1 < c.layers { c.hidden } else { c.latent };
            layers.push(Linear::new(inputs, outputs, true, &scope.pp("feature_layers").pp(i))?);
            inputs = outputs;
        }
        let outputs = c.coils * c.coils * c.sources;
        let last = |name: &str| Linear::new(inputs, outputs, true, &scope.pp(name));
        Ok(Self {
            projection,
            layers,
            last: [last("last_re")?, last("last_im")?],
            sources: c.sources,
            coils: c.coils,
        })
    }

    /// The kernels of some geometries, as pairs of real and imaginary part; the second axis counts
    /// the coils of the target, the third sources and, within each, coils.
    ///
    /// # Shapes
    /// `features [N, F]` → `[N, C, S·C, 2]`
    ///
    /// # Errors
    /// [`Error::Shape`] if the features do not fit.
    pub fn kernel(&self, features: &Tensor) -> Result<Tensor> {
        let [n, _] = *features.dims() else {
            return Err(Error::shape(OP, "[N, F]", features.dims()));
        };
        let [re, im] = self.parts(features)?;
        let kernel = Tensor::stack(&[re, im], D::Minus1)?;
        Ok(kernel.reshape((n, self.coils, self.sources * self.coils, 2))?)
    }

    /// Real and imaginary part of the kernels, `[N, C·S·C]` each.
    fn parts(&self, features: &Tensor) -> Result<[Tensor; 2]> {
        let mut h = features.clone();
        if let Some(projection) = &self.projection {
            let angles = limpid_kernels::matmul(features, &projection.tensor())?;
            h = limpid_kernels::with_waves(features, &angles)?;
        }
        for layer in &self.layers {
            h = limpid_kernels::relu(&layer.forward(&h)?)?;
        }
        let [re, im] = &self.last;
        Ok([re.forward(&h)?, im.forward(&h)?])
    }

    /// Applies kernels to the samples of their sources, `R` sets of samples in a row for each.
    ///
    /// # Shapes
    /// `kernel [N, C, S·C, 2]`, `sources [N·R, S, C, 2]` → `[N·R, C, 2]`
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit.
    pub fn apply(&self, kernel: &Tensor, sources: &Tensor) -> Result<Tensor> {
        let n = kernel.dims().first().copied().unwrap_or_default();
        let columns = self.sources * self.coils;
        if kernel.dims() != [n, self.coils, columns, 2] {
            let expected = format!("a kernel [N, {}, {columns}, 2]", self.coils);
            return Err(Error::shape(OP, expected, kernel.dims()));
        }
        let part = |i: usize| {
            let part = kernel.narrow(D::Minus1, i, 1)?.contiguous()?;
            part.reshape((n, self.coils * columns))
        };
        self.product(&[part(0)?, part(1)?], sources)
    }

    /// The samples at the targets of some geometries, for `R` sets of sources in a row of each.
    ///
    /// # Shapes
    /// `features [N, F]`, `sources [N·R, S, C, 2]` → `[N·R, C, 2]`
    ///
    /// # Errors
    /// [`Error::Shape`] if the features do not fit.
    pub fn forward(&self, features: &Tensor, sources: &Tensor) -> Result<Tensor> {
        if features.rank() != 2 {
            return Err(Error::shape(OP, "features [N, F]", features.dims()));
        }
        // the same as `apply` of `kernel`, without interleaving the parts
        self.product(&self.parts(features)?, sources)
    }

    /// Real and imaginary parts of kernels times their sources.
    fn product(&self, [re, im]: &[Tensor; 2], sources: &Tensor) -> Result<Tensor> {
        let (n, columns) = (re.dims()[0], self.sources * self.coils);
        match *sources.dims() {
            [all, s, c, 2]
                if [s, c] == [self.sources, self.coils] && all.is_multiple_of(n.max(1)) =>
            {
                limpid_kernels::complex_product(re, im, &sources.reshape((all, columns, 2))?)
            }
            _ => {
                let expected = format!("sources [{n}·R, {}, {}, 2]", self.sources, self.coils);
                Err(Error::shape(OP, expected, sources.dims()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_kernel_is_applied_as_a_complex_matrix() {
        let config = Config { features: 1, sources: 1, coils: 2, ..Config::default() };
        let (_, net) = built(&config);
        let kernel: [[[f32; 2]; 2]; 2] = [[[1.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, -1.0]]];
        let kernel = Tensor::new(&[kernel], &Device::Cpu).unwrap();
        let sources = Tensor::new(&[[[[1f32, 1.0], [2.0, 0.0]]]], &Device::Cpu).unwrap();
        let target = net.apply(&kernel, &sources).unwrap();
        // (1 + 2i)(1 + i) + 2i and 2 (3 - i)
        let expected = vec![vec![vec![-1f32, 5.0], vec![6.0, -2.0]]];
        assert_eq!(target.to_vec3::<f32>().unwrap(), expected);
    }

    #[test]
    fn the_default_has_the_parameters_of_the_reference() {
        let shapes = Config::default().shapes().unwrap();
        let count: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
        assert_eq!(count, 298_880);
        assert_eq!(Config::recognise(&shapes), Some(Config::default()));
        let random = Config { projections: 7, features: 11, ..Config::default() };
        assert_eq!(Config::recognise(&random.shapes().unwrap()), Some(random));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (_, net) = built(&Config::default());
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(net.kernel(&zeros(&[3, 9])).is_err());
        assert!(net.forward(&zeros(&[3, 10]), &zeros(&[3, 4, 8, 2])).is_err());
        assert!(net.forward(&zeros(&[3, 10]), &zeros(&[3, 5, 8, 2])).is_ok());
    }

    fn built(config: &Config) -> (limpid_nn::Params, GrogMlp) {
        let params = limpid_nn::Params::new();
        let stream = limpid_kernels::rng::Stream::new(0, "grog");
        let net = config.build(&params.scope(stream, DType::F32, &Device::Cpu)).unwrap();
        (params, net)
    }
}
