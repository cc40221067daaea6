//! From a scan to what a reconstruction needs: coils whitened and compressed, weights, calibration, maps.

use crate::config::{Calibrate, CoilsConfig, Config, DensityConfig, MapsConfig};
use crate::error::{Error, Result};
use crate::scan::Scan;
use limpid_mri::{
    CalibrationConfig, Centre, Channels, Complex, EspiritConfig, JsenseConfig, Nufft,
    PipeMenonConfig, WalshConfig, calibration, calibration_images, compress, espirit, jsense,
    noise_covariance, pipe_menon, ramp, voronoi, walsh, whiten,
};
use std::sync::OnceLock;

/// The middle of k-space: sizes, and values `[coils, sizes…]`.
pub(crate) type Region = (Vec<usize>, Vec<Complex<f32>>);

/// A scan with everything that its reconstruction needs.
pub struct Prepared {
    /// The scan, of whitened and compressed coils.
    pub scan: Scan,
    /// Weights against uneven density, of at most one, `[shots, samples]`.
    pub weights: Vec<f32>,
    /// Sensitivities `[coils, matrix…]`.
    pub maps: Vec<Complex<f32>>,
    /// The maps are the scan's own.
    pub own_maps: bool,
    /// The scan's own middle of k-space, or the one that was found for want of it.
    region: OnceLock<Region>,
    /// Its size.
    size: usize,
}

impl Prepared {
    /// Prepares a scan.
    ///
    /// # Errors
    /// Those of the steps: too many virtual coils, an empty middle of k-space, and so on.
    pub fn new(mut scan: Scan, config: &Config) -> Result<Self> {
        let CoilsConfig { whiten: whitened, compress: keep, .. } = config.coils;
        if let Some(noise) = scan.noise.take().filter(|_| whitened) {
            let channels = whiten(&noise_covariance(&noise, scan.coils)?)?;
            apply(&channels, &mut scan)?;
        }
        if keep > scan.coils {
            let message = format!("{keep} virtual coils are wanted of {} coils", scan.coils);
            return Err(Error::scan(message, "set `coils.compress` to fewer, or to 0 for all"));
        }
        if keep > 0 && keep < scan.coils {
            let compression = compress(&scan.samples, scan.coils, keep)?;
            apply(&compression.channels, &mut scan)?;
        }
        let weights = density(&scan, config.density)?;
        let weights = weights.into_iter().map(|w| w as f32).collect();
        let own_maps = scan.maps.is_some() && config.coils.maps == MapsConfig::Auto;
        let maps = scan.maps.take().filter(|_| own_maps);
        let region = scan.calibration.take().map_or_else(OnceLock::new, OnceLock::from);
        let mut prepared =
            Self { scan, weights, maps: Vec::new(), own_maps, region, size: config.coils.region };
        prepared.maps = match maps {
            Some(maps) => maps,
            None => maps_of(&prepared.scan, prepared.region()?, config.coils.maps)?,
        };
        Ok(prepared)
    }

    /// Sizes and values `[coils, sizes…]` of the middle of k-space, from the samples near it unless the scan
    /// has its own.
    ///
    /// # Errors
    /// If there are no samples in the middle.
    pub fn region(&self) -> Result<&Region> {
        if let Some(region) = self.region.get() {
            return Ok(region);
        }
        let region = synthesise(&self.scan, &self.weights, self.size)?;
        Ok(self.region.get_or_init(|| region))
    }

    /// What kernels are calibrated by.
    ///
    /// # Errors
    /// If the images are all zero.
    pub fn calibration(&self, from: Calibrate) -> Result<limpid_mri::Calibration<f32>> {
        let scan = &self.scan;
        let use_maps = match from {
            Calibrate::Auto => self.own_maps,
            Calibrate::Maps => true,
            Calibrate::Images => false,
        };
        let images = if use_maps {
            self.maps.clone()
        } else {
            let (sizes, kspace) = self.region()?;
            calibration_images(kspace, scan.coils, sizes, &scan.matrix)?
        };
        Ok(limpid_mri::Calibration::new(scan.coils, &scan.matrix, images)?)
    }
}

/// Makes channels of the coils in all that has coils.
fn apply(channels: &Channels, scan: &mut Scan) -> Result<()> {
    scan.samples = channels.apply(&scan.samples)?;
    for values in
        [scan.maps.as_mut(), scan.calibration.as_mut().map(|c| &mut c.1)].into_iter().flatten()
    {
        *values = channels.apply(values)?;
    }
    scan.coils = channels.matrix().nrows();
    Ok(())
}

/// Weights with a largest of one.
fn density(scan: &Scan, config: DensityConfig) -> Result<Vec<f64>> {
    let menon = || pipe_menon(&scan.trajectory, &scan.matrix, &PipeMenonConfig::default());
    let mut weights = match (config, &scan.density) {
        (DensityConfig::Auto, Some(density)) => density.clone(),
        (DensityConfig::Auto, None) | (DensityConfig::PipeMenon, _) => menon()?,
        (DensityConfig::Voronoi, _) => voronoi(&scan.trajectory)?,
        (DensityConfig::Ramp, _) => ramp(&scan.trajectory),
        (DensityConfig::Uniform, _) => vec![1.0; scan.len()],
    };
    let largest = weights.iter().copied().fold(0.0, f64::max);
    if let Some(at) = weights.iter().position(|w| *w < 0.0) {
        let message = format!("the weight of sample {at} is {}", weights[at]);
        return Err(Error::scan(message, "weights against uneven density are zero or more"));
    }
    if !(largest > 0.0 && largest.is_finite()) {
        let message = format!("the largest weight is {largest}");
        return Err(Error::scan(message, "set `density = \"pipe_menon\"` to have them computed"));
    }
    weights.iter_mut().for_each(|w| *w /= largest);
    Ok(weights)
}

/// The middle of k-space from the samples near it.
fn synthesise(scan: &Scan, weights: &[f32], size: usize) -> Result<Region> {
    let sizes: Vec<usize> = scan.matrix.iter().map(|&n| n.min(size)).collect();
    let centre = Centre::of(&scan.trajectory, &sizes)?;
    let operator = Nufft::<f32>::new(centre.trajectory(), &sizes, 1e-4)?;
    let (samples, weights) = (centre.select(&scan.samples)?, centre.select(weights)?);
    let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
    let config = CalibrationConfig::default();
    let values = calibration(&operator, &samples, &weights, scan.coils, &sizes, &config)?;
    Ok((sizes, values))
}

fn maps_of(scan: &Scan, (sizes, kspace): &Region, config: MapsConfig) -> Result<Vec<Complex<f32>>> {
    let (coils, matrix) = (scan.coils, &scan.matrix);
    // all of the region that was asked for
    let whole = sizes.iter().copied().max().unwrap_or(0);
    let espirit = |config| espirit(kspace, coils, sizes, matrix, &config);
    let usual = EspiritConfig { calibration: whole, ..EspiritConfig::default() };
    Ok(match config {
        MapsConfig::Auto => espirit(usual)?,
        MapsConfig::Espirit { kernel, threshold, crop } => {
            espirit(EspiritConfig { kernel, threshold, crop, ..usual })?
        }
        MapsConfig::Walsh { window } => {
            let images = calibration_images(kspace, coils, sizes, matrix)?;
            walsh(&images, coils, matrix, &WalshConfig { window })?
        }
        MapsConfig::Jsense { width } => {
            let config =
                JsenseConfig { kernel: width, calibration: whole, ..JsenseConfig::default() };
            jsense(kspace, coils, sizes, matrix, &config)?
        }
    })
}
