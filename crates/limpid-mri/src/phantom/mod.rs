//! Phantoms, coil and field maps, and their simulated samples.
//!
//! Positions in phantoms are in halves of the field of view: `2 (n − ⌊N/2⌋) / N`, from −1 to 1.

mod bessel;
mod birdcage;
mod brain;
mod ellipsoid;
mod field_map;
mod shepp_logan;
mod simulate;

pub use birdcage::Birdcage;
pub use brain::Brain;
pub use ellipsoid::{Ellipsoid, phantom_image, phantom_kspace};
pub use field_map::FieldMap;
pub use shepp_logan::{shepp_logan, shepp_logan_3d};
pub use simulate::{Scene, add_noise, simulate_with};

/// The position of voxel `n` of `size`.
fn position(n: usize, size: usize) -> f64 {
    2.0 * (n as f64 - (size / 2) as f64) / size as f64
}

/// The indices of an element of an array.
fn indices<const D: usize>(mut element: usize, matrix: &[usize]) -> [usize; D] {
    let mut at = [0; D];
    for d in (0..matrix.len()).rev() {
        at[d] = element % matrix[d];
        element /= matrix[d];
    }
    at
}
