//! Making training data: pairs of micrographs, a clean and a noisy one of the same place, become
//! patches that show the same pixel by pixel; and volumes are cut across their slices.
//!
//! ```text
//! whole images: phase correlation → shift → affine map that correlates them best
//! each patch with its border: local flow → the other image is sampled once, through map and flow
//! patches that lack pixels, do not agree or moved too far are left out, and a manifest says why
//! ```
//!
//! The steps are those of EMDiffuse's registration, with one interpolation in place of three and
//! all sample types kept.

mod files;
mod reslice;
#[cfg(test)]
mod tests;

pub use files::{MANIFEST, Record, Summary, prepare};
pub use reslice::{Plane, reslice, resliced_info};

use crate::{Error, Result};
use limpid_classical::register::{
    AffineFit, Shift, affine_registration, apply_affine, invert_affine, invert_flow,
    phase_correlation, resample,
};
use limpid_classical::{Border, Gaussian, gaussian};
use limpid_config::{Check, Validate};
use limpid_engine::BoxError;
use limpid_engine::infer::window;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where each pixel of the first image lies in the second, both `[H, W]` with values of about
/// 0…255: pixels down and right, `[H, W]` each. `limpid_classical::register::optical_flow` is one.
pub type Local<'a> = dyn Fn(&[f64], &[f64], [usize; 2]) -> Result<[Vec<f64>; 2], BoxError> + 'a;

/// Scales of the affine registration.
const LEVELS: usize = 6;
/// Shares of pixels below which and above which values lie that become 0 and 255.
const RANGE: [f64; 2] = [0.002, 0.998];
/// Pixels that patches keep from the edges of the moved image.
const MARGIN: f64 = 4.0;
/// Standard deviation in pixels of the Gaussian through which the agreement of patches is judged:
/// noise says nothing about registration.
const JUDGED: f64 = 2.0;

/// How pairs are registered and cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pairing {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Pixels from one patch to the next; the last ones end where the image ends.
    pub stride: usize,
    /// Pixels around a patch that are registered with it, and cut off then. Patches whose pixels
    /// moved further are left out.
    pub border: usize,
    /// How the whole images are brought together first.
    pub global: Global,
    /// Which image is moved onto the other.
    pub moved: Moved,
    /// Least correlation of a patch with its partner, after smoothing by 2 pixels. In the FIB-25
    /// volume at 10 electrons a pixel, partners reach 0.96, and the local flow brings slices from
    /// elsewhere up to 0.7.
    pub min_correlation: f64,
    /// Most pixels of a patch that the moved image does not show.
    pub max_missing: usize,
}

impl Default for Pairing {
    fn default() -> Self {
        Self {
            patch: 256,
            stride: 224,
            border: 32,
            global: Global::Affine,
            moved: Moved::Noisy,
            min_correlation: 0.8,
            max_missing: 10,
        }
    }
}

/// How whole images are brought together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Global {
    /// They lie together.
    None,
    /// By a shift.
    Shift,
    /// By a shift, then by the affine map near it; by the shift alone where that finds nothing.
    #[default]
    Affine,
}

/// Which image is moved. Interpolation averages over neighbours, which changes noise and blurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Moved {
    /// The noisy one, as the reference does.
    #[default]
    Noisy,
    /// The clean one: the noise that is trained on is then that of the microscope.
    Clean,
}

impl Validate for Pairing {
    fn validate(&self, at: &mut Check) {
        if !(16..=1 << 14).contains(&self.patch) {
            at.problem("patch", format!("must be 16 to 16384 pixels, got {}", self.patch));
        }
        if self.stride == 0 {
            at.problem("stride", "must be at least 1 pixel");
        }
        if !(1..=1 << 14).contains(&self.border) {
            at.problem("border", format!("must be 1 to 16384 pixels, got {}", self.border));
        }
        if !(-1.0..=1.0).contains(&self.min_correlation) {
            let got = self.min_correlation;
            at.problem("min_correlation", format!("must be between -1 and 1, got {got}"));
        }
    }
}

/// An image in memory, `[H, W]`, in its own unit.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Rows and columns.
    pub shape: [usize; 2],
}

/// Why a patch is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// More pixels than allowed lie outside of the moved image.
    Missing,
    /// The two patches do not agree.
    Correlation,
    /// Pixels moved further than the border is wide, where nothing backs them.
    Moved,
}

/// A patch of both images.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Row and column of its first pixel in the image that is not moved.
    pub place: [usize; 2],
    /// How far its middle lies from there in the moved image, down and right, in pixels.
    pub shift: [f64; 2],
    /// Mean length of the local ways, in pixels.
    pub local: f64,
    /// Pixels that lie outside of the moved image.
    pub missing: usize,
    /// Correlation of the two, after smoothing by 2 pixels; 0 if one has no structure.
    pub correlation: f64,
    /// Why it should not be used.
    pub rejected: Option<Reason>,
    /// The clean one, `[patch, patch]`.
    pub clean: Vec<f32>,
    /// The noisy one, `[patch, patch]`.
    pub noisy: Vec<f32>,
}

/// What the whole images say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Registration {
    /// Where a pixel of the clean image lies in the noisy one, by rows and columns:
    /// `matrix [y, x, 1]`.
    pub matrix: [[f64; 3]; 2],
    /// The shift that the affine map started from.
    pub shift: Option<Shift>,
    /// The affine map, where it was asked for.
    pub affine: Option<AffineFit>,
}

/// A pair, checked and brought together as a whole.
pub struct Pair<'a> {
    config: &'a Pairing,
    /// The image whose grid the patches have, in its unit and as compared.
    still: (Image<'a>, Vec<f64>),
    /// The other; both in f64, since it is interpolated.
    moved: ([Vec<f64>; 2], [usize; 2]),
    /// From the grid of the patches to the moved image.
    matrix: [[f64; 3]; 2],
    registration: Registration,
}

impl<'a> Pair<'a> {
    /// Brings the whole images together. They may differ in size; their first pixels should show
    /// about the same place.
    ///
    /// # Errors
    /// A setting out of range, an image smaller than a patch, or a value that is not finite.
    pub fn new(clean: Image<'a>, noisy: Image<'a>, config: &'a Pairing) -> Result<Self> {
        if let Some(finding) = limpid_config::check(config).into_iter().next() {
            return Err(Error::setting(finding, "correct the settings of the preparation"));
        }
        for (name, image) in [("clean", clean), ("noisy", noisy)] {
            check(name, image, config)?;
        }
        let (c, n) = (compared(clean.values), compared(noisy.values));
        let registration = register([&c, &n], [clean.shape, noisy.shape], config.global)?;
        let (clean, noisy) = ((clean, c), (noisy, n));
        let forward = registration.matrix;
        let (still, moved, matrix) = match config.moved {
            Moved::Noisy => (clean, noisy, Some(forward)),
            Moved::Clean => (noisy, clean, invert_affine(&forward)),
        };
        let (other, compared) = moved;
        let unit = other.values.iter().map(|v| f64::from(*v)).collect();
        let moved = ([unit, compared], other.shape);
        let flat =
            || Error::setting("the affine map cannot be inverted", "use `global = \"shift\"`");
        Ok(Self { config, still, moved, matrix: matrix.ok_or_else(flat)?, registration })
    }

    /// How the whole images lie.
    #[must_use]
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// First row and column of every patch: a grid over the part that both images show; over the
    /// whole image if that part is smaller than a patch.
    #[must_use]
    pub fn places(&self) -> Vec<[usize; 2]> {
        let Pairing { patch, stride, .. } = *self.config;
        let shared = self.shared();
        let fits = shared.iter().all(|[first, end]| end.saturating_sub(*first) >= patch);
        let whole = self.still.0.shape.map(|n| [0, n]);
        let axis = |[first, end]: [usize; 2]| {
            let starts = window::stride_starts(end - first, patch, stride);
            starts.into_iter().map(move |start| first + start).collect::<Vec<_>>()
        };
        let [rows, columns] = if fits { shared } else { whole }.map(axis);
        rows.iter().flat_map(|y| columns.iter().map(|x| [*y, *x])).collect()
    }

    /// First and end of the rows and of the columns that the moved image shows too, as far as the
    /// map of the whole tells.
    fn shared(&self) -> [[usize; 2]; 2] {
        let still = self.still.0.shape;
        let Some(back) = invert_affine(&self.matrix) else { return still.map(|n| [0, n]) };
        let [h, w] = self.moved.1.map(|n| n as f64 - 1.0);
        let corner = |y, x| apply_affine(&back, y, x);
        let [a, b, c, d] = [corner(0.0, 0.0), corner(0.0, w), corner(h, 0.0), corner(h, w)];
        let range = |first: f64, last: f64, n: usize| {
            // where the other image ends, a local way leads out of it
            let first = if first > 0.0 { first + MARGIN } else { 0.0 };
            let last = (n - 1) as f64 - last;
            let less = if last > 0.0 { last + MARGIN } else { 0.0 };
            [first.round() as usize, n.saturating_sub(less.round() as usize)]
        };
        [
            range(a[0].max(b[0]), c[0].min(d[0]), still[0]),
            range(a[1].max(c[1]), b[1].min(d[1]), still[1]),
        ]
    }

    /// Registers and cuts the patch at `place`.
    ///
    /// # Errors
    /// `place` lies too near the edge, or whatever `local` returns.
    pub fn patch(&self, place: [usize; 2], local: &Local<'_>) -> Result<Patch, BoxError> {
        let Pairing { patch, border, moved, .. } = *self.config;
        let (still, ([unit, compared], whole)) = (&self.still.0, &self.moved);
        if (0..2).any(|a| place[a].checked_add(patch).is_none_or(|end| end > still.shape[a])) {
            let message = format!("a patch of {patch} pixels at {place:?} of {:?}", still.shape);
            return Err(Box::new(Error::setting(message, "take the places from `places`")));
        }
        // the patch with its border, as far as there is an image
        let start = place.map(|p| p.saturating_sub(border));
        let end = [0, 1].map(|a| (place[a] + patch + border).min(still.shape[a]));
        let size = [0, 1].map(|a| end[a] - start[a]);
        let inner = [0, 1].map(|a| place[a] - start[a]);

        let at =
            |y: f64, x: f64| apply_affine(&self.matrix, y + start[0] as f64, x + start[1] as f64);
        let rough = |y: usize, x: usize| at(y as f64, x as f64);
        let (other, known) = resample(compared, *whole, size, rough, Border::Reflect)?;
        let absent = cut(&known, size[1], inner, [patch; 2]).filter(|k| !*k).count();
        // a flow from what is mirrored says nothing
        let flow = if 2 * absent > patch * patch {
            [vec![0.0; known.len()], vec![0.0; known.len()]]
        } else {
            let own: Vec<f64> = cut(&self.still.1, still.shape[1], start, size).copied().collect();
            let flow = match moved {
                Moved::Noisy => local(&own, &other, size)?,
                Moved::Clean => local(&other, &own, size)?,
            };
            if flow.iter().any(|part| part.len() != known.len()) {
                let got = flow.map(|part| part.len());
                let message = format!("a local flow has {got:?} values for a region of {size:?}");
                return Err(Box::new(Error::setting(message, "it must have one of each a pixel")));
            }
            match moved {
                Moved::Noisy => flow,
                Moved::Clean => invert_flow([&flow[0], &flow[1]], size)?,
            }
        };

        let through = |y: usize, x: usize| {
            let i = (y + inner[0]) * size[1] + x + inner[1];
            let [down, right] = [flow[0][i], flow[1][i]];
            at((y + inner[0]) as f64 + down, (x + inner[1]) as f64 + right)
        };
        let (values, known) = resample(unit, *whole, [patch; 2], through, Border::Reflect)?;
        let missing = known.iter().filter(|k| !**k).count();
        let own: Vec<f32> = cut(still.values, still.shape[1], place, [patch; 2]).copied().collect();
        let ways = [0, 1].map(|a| cut(&flow[a], size[1], inner, [patch; 2]));
        let [down, right] = ways;
        let (sum, most) = down
            .zip(right)
            .map(|(down, right)| down.hypot(*right))
            .fold((0.0, 0.0), |(sum, most): (f64, f64), way| (sum + way, most.max(way)));
        let middle = place.map(|p| p as f64 + 0.5 * (patch as f64 - 1.0));
        let there = apply_affine(&self.matrix, middle[0], middle[1]);
        let correlation = agreement(&own, &values, patch)?;
        let rejected = if missing > self.config.max_missing {
            Some(Reason::Missing)
        } else if !(correlation >= self.config.min_correlation) {
            Some(Reason::Correlation)
        } else if most > border as f64 {
            Some(Reason::Moved)
        } else {
            None
        };
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        let (clean, noisy) = match moved {
            Moved::Noisy => (own, values),
            Moved::Clean => (values, own),
        };
        Ok(Patch {
            place,
            shift: [0, 1].map(|a| there[a] - middle[a]),
            local: sum / (patch * patch) as f64,
            missing,
            correlation,
            rejected,
            clean,
            noisy,
        })
    }
}

/// Checks an image of a pair.
fn check(name: &str, image: Image<'_>, config: &Pairing) -> Result<()> {
    let Image { values, shape } = image;
    if shape[0].checked_mul(shape[1]) != Some(values.len()) {
        let message = format!("the {name} image has {} values for {shape:?}", values.len());
        return Err(Error::setting(message, "give as many values as the shape says"));
    }
    if shape.iter().any(|n| *n < config.patch.max(32)) {
        return Err(Error::setting(
            format!(
                "the {name} image of {shape:?} pixels is smaller than a patch of {}",
                config.patch
            ),
            "choose a smaller `patch` (the images need at least 32 pixels a side)",
        ));
    }
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        let place = [i / shape[1], i % shape[1]];
        return Err(Error::setting(
            format!("the {name} image holds {} at {place:?}", values[i]),
            "mend the image or leave it out",
        ));
    }
    Ok(())
}

/// The values as both images are compared: without the rare extremes, 0 to 255.
fn compared(values: &[f32]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    let [low, high] = RANGE.map(|share| {
        let at = (share * (sorted.len() - 1) as f64).round() as usize;
        f64::from(*sorted.select_nth_unstable_by(at, f32::total_cmp).1)
    });
    let scale = if high > low { 255.0 / (high - low) } else { 0.0 };
    values.iter().map(|v| ((f64::from(*v) - low) * scale).clamp(0.0, 255.0)).collect()
}

/// Brings whole images together, by the part that both would show without a shift.
fn register(images: [&[f64]; 2], shapes: [[usize; 2]; 2], global: Global) -> Result<Registration> {
    let rest = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    if global == Global::None {
        return Ok(Registration { matrix: rest, shift: None, affine: None });
    }
    let shape = [0, 1].map(|a| shapes[0][a].min(shapes[1][a]));
    let part =
        |i: usize| -> Vec<f64> { cut(images[i], shapes[i][1], [0, 0], shape).copied().collect() };
    let (clean, noisy) = (part(0), part(1));
    let shift = phase_correlation(&clean, &noisy, shape).map_err(unusable)?;
    let start = [[1.0, 0.0, shift.y], [0.0, 1.0, shift.x]];
    let affine = (global == Global::Affine)
        .then(|| affine_registration(&clean, &noisy, shape, start, LEVELS).map_err(unusable))
        .transpose()?;
    let matrix = affine.map_or(start, |fit| fit.matrix);
    Ok(Registration { matrix, shift: Some(shift), affine })
}

fn unusable(error: limpid_classical::Error) -> Error {
    Error::setting(error, "check that the pair shows the same place")
}

/// A box of a row-major image.
fn cut<T>(
    values: &[T],
    width: usize,
    [y, x]: [usize; 2],
    [h, w]: [usize; 2],
) -> impl Iterator<Item = &T> {
    (y..y + h).flat_map(move |y| &values[y * width + x..][..w])
}

/// The correlation of two patches after smoothing.
fn agreement(a: &[f32], b: &[f64], side: usize) -> Result<f64, limpid_classical::Error> {
    let blur = Gaussian { sigma: JUDGED.into(), ..Gaussian::default() };
    let a: Vec<f64> = a.iter().map(|v| f64::from(*v)).collect();
    let [a, b] = [&a[..], b].map(|image| gaussian(image, &[side, side], &blur));
    let (a, b) = (a?, b?);
    let n = a.len() as f64;
    let [mean_a, mean_b] = [&a, &b].map(|image| image.iter().sum::<f64>() / n);
    let (mut aa, mut ab, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a - mean_a, b - mean_b);
        (aa, ab, bb) = (aa + a * a, ab + a * b, bb + b * b);
    }
    let correlation = ab / (aa * bb).sqrt();
    Ok(if correlation.is_finite() { correlation } else { 0.0 })
}
