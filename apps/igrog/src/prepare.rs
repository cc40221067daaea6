//! From a scan to what a reconstruction needs: coils whitened and compressed, weights, calibration, maps.

use crate::config::{Calibrate, CoilsConfig, Config, DensityConfig, MapsConfig};
use crate::error::{Error, Result};
use crate::scan::Scan;
use limpid_mri::{
    CalibrationConfig, Centre, Channels, Complex, EspiritConfig, JsenseConfig, Nufft,
    PipeMenonConfig, WalshConfig, calibration, calibration_images, compress, espirit, jsense,
    noise_covariance, pipe_menon, ramp, voronoi, walsh, whiten,
};

/// A scan with everything that its reconstruction needs.
pub struct Prepared {
    /// The scan, of whitened and compressed coils.
    pub scan: Scan,
    /// Weights against uneven density, of at most one, `[shots, samples]`.
    pub weights: Vec<f32>,
    /// Sizes and values `[coils, sizes…]` of the middle of k-space.
    pub region: (Vec<usize>, Vec<Complex<f32>>),
    /// Sensitivities `[coils, matrix…]`.
    pub maps: Vec<Complex<f32>>,
    /// The maps are the scan's own.
    pub own_maps: bool,
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
        let region = match scan.calibration.take() {
            Some(region) => region,
            None => synthesise(&scan, &weights, config.coils.region)?,
        };
        let own_maps = scan.maps.is_some() && config.coils.maps == MapsConfig::Auto;
        let maps = match scan.maps.take().filter(|_| own_maps) {
            Some(maps) => maps,
            None => maps_of(&scan, &region, config.coils.maps)?,
        };
        let weights = weights.into_iter().map(|w| w as f32).collect();
        Ok(Self { scan, weights, region, maps, own_maps })
    }

    /// What kernels are calibrated by.
    ///
    /// # Errors
    /// If the images are all zero.
    pub fn calibration(&self, from: Calibrate) -> Result<limpid_mri::Calibration<f32>> {
        let Self { scan, region: (sizes, kspace), .. } = self;
        let use_maps = match from {
            Calibrate::Auto => self.own_maps,
            Calibrate::Maps => true,
            Calibrate::Images => false,
        };
        let images = if use_maps {
            self.maps.clone()
        } else {
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
fn synthesise(
    scan: &Scan,
    weights: &[f64],
    size: usize,
) -> Result<(Vec<usize>, Vec<Complex<f32>>)> {
    let sizes: Vec<usize> = scan.matrix.iter().map(|&n| n.min(size)).collect();
    let centre = Centre::of(&scan.trajectory, &sizes)?;
    let operator = Nufft::<f32>::new(centre.trajectory(), &sizes, 1e-4)?;
    let (samples, weights) = (centre.select(&scan.samples)?, centre.select(weights)?);
    let config = CalibrationConfig::default();
    let values = calibration(&operator, &samples, &weights, scan.coils, &sizes, &config)?;
    Ok((sizes, values))
}

fn maps_of(
    scan: &Scan,
    (sizes, kspace): &(Vec<usize>, Vec<Complex<f32>>),
    config: MapsConfig,
) -> Result<Vec<Complex<f32>>> {
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
