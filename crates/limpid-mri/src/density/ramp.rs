//! Weights of straight lines through the centre of k-space.

use crate::Trajectory;

/// Weights `[shots, samples]` of evenly spaced spokes through the centre, up to a factor: the distance from the
/// centre in two dimensions, its square in three, as the density of spokes falls with it.
pub fn ramp(trajectory: &Trajectory) -> Vec<f64> {
    let power = trajectory.rank() as i32 - 1;
    let distance = |point: &[f64]| point.iter().map(|k| k * k).sum::<f64>().sqrt();
    trajectory.points().chunks_exact(trajectory.rank()).map(|p| distance(p).powi(power)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assert_close, load};

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/dcf") else { return };
        let &[shots, samples, rank] = fixture.shape("radial.trj") else { panic!("a trajectory") };
        let trajectory =
            Trajectory::new(shots, samples, rank, fixture.values("radial.trj").to_vec());
        let weights = ramp(&trajectory.expect("positions"));
        assert_close("ramp", &weights, fixture.values("radial.ramp"), 1e-9);
    }

    #[test]
    fn is_the_square_in_space() {
        let points = vec![0.0, 0.0, 0.0, 2.0, -1.0, 2.0];
        let trajectory = Trajectory::new(1, 2, 3, points).expect("positions");
        assert_close("ramp", &ramp(&trajectory), &[0.0, 9.0], 1e-12);
    }
}
