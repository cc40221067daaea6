//! Which way positions in k-space run, told by how well the samples fit the maps of their coils.

use crate::error::Result;
use crate::prepare::Prepared;
use crate::recon::misfit;
use limpid_mri::{
    Centre, Complex, ConjugateGradient, Nufft, Operator, Sense, Trajectory, Weighted,
    conjugate_gradient,
};
use std::ops::ControlFlow;

/// A way of reading positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    /// As [`ScanConfig::axes`](crate::scan::ScanConfig::axes).
    pub axes: Vec<i8>,
    /// Part of the samples in the middle of k-space that no image explains with it.
    pub misfit: f64,
}

/// Cycles per field of view of the middle that is looked at, in planes and in volumes.
const MIDDLE: [usize; 2] = [32, 16];
/// Iterations of conjugate gradients, enough to tell right from wrong.
const ITERATIONS: usize = 8;

/// How well samples fit: first with positions as they are, then turned around along axes and with axes in
/// the other order.
///
/// # Errors
/// If no samples lie in the middle of k-space.
pub(crate) fn ways(prepared: &Prepared) -> Result<Vec<Way>> {
    let scan = &prepared.scan;
    let matrix = &scan.matrix;
    let rank = matrix.len();
    let most = MIDDLE[usize::from(rank == 3)];
    let size = matrix.iter().copied().fold(most, usize::min);
    let sizes = vec![size; rank];
    let centre = Centre::of(&scan.trajectory, &sizes)?;
    let samples = centre.select(&scan.samples)?;
    let weights = centre.select(&prepared.weights)?;
    let maps = coarse(&prepared.maps, matrix, &sizes);
    let try_way = |axes: Vec<i8>| {
        let trajectory = turned(centre.trajectory(), &axes)?;
        let weighted = Weighted::new(Nufft::new(&trajectory, &sizes, 1e-3)?, weights.clone())?;
        let mut samples = samples.clone();
        weighted.weigh(&mut samples)?;
        let operator = Sense::new(weighted, scan.coils, &sizes, maps.clone())?;
        let mut right = vec![Complex::default(); operator.domain()];
        operator.adjoint(&samples, &mut right);
        let mut image = vec![Complex::default(); right.len()];
        let settings = ConjugateGradient { lambda: 0.0, iterations: ITERATIONS, tolerance: 0.0 };
        let go_on = &mut |_: limpid_mri::Step<'_, f32>| ControlFlow::Continue(());
        conjugate_gradient(&operator, &right, &mut image, &settings, go_on)?;
        Ok(Way { axes, misfit: misfit(&operator, &samples, &image) })
    };
    let forth: Vec<i8> = (1..=rank as i8).collect();
    let back: Vec<i8> = forth.iter().rev().copied().collect();
    let square = matrix.iter().all(|n| *n == matrix[0]);
    let orders = [Some(forth), square.then_some(back)];
    let signs = |order: Vec<i8>| {
        (0..1 << rank).map(move |turned: usize| {
            let sign = |(d, axis): (usize, &i8)| if turned >> d & 1 == 1 { -axis } else { *axis };
            order.iter().enumerate().map(sign).collect::<Vec<i8>>()
        })
    };
    orders.into_iter().flatten().flat_map(signs).map(try_way).collect()
}

/// Positions whose axes are those coordinates of the given ones, counted from one, negative ones turned
/// around.
///
/// # Errors
/// If a coordinate is not finite.
pub(crate) fn turned(trajectory: &Trajectory, axes: &[i8]) -> Result<Trajectory> {
    let mut points = trajectory.points().to_vec();
    for (to, from) in
        points.chunks_exact_mut(axes.len()).zip(trajectory.points().chunks_exact(axes.len()))
    {
        for (k, &axis) in to.iter_mut().zip(axes) {
            *k = from[usize::from(axis.unsigned_abs()) - 1] * f64::from(axis.signum());
        }
    }
    let (shots, samples) = (trajectory.shots(), trajectory.samples());
    Ok(Trajectory::new(shots, samples, axes.len(), points)?)
}

/// What one way of reading makes of what another has read.
pub(crate) fn composed(first: &[i8], then: &[i8]) -> Vec<i8> {
    let of = |axis: &i8| {
        let at = usize::from(axis.unsigned_abs());
        axis.signum() * first.get(at - 1).copied().unwrap_or(at as i8)
    };
    then.iter().map(of).collect()
}

/// Maps `[coils, matrix…]` at the voxels of a smaller image of the same field of view.
fn coarse(maps: &[Complex<f32>], matrix: &[usize], sizes: &[usize]) -> Vec<Complex<f32>> {
    let voxels: usize = matrix.iter().product();
    let places: Vec<usize> = (0..sizes.iter().product::<usize>())
        .map(|at| {
            let (mut rest, mut place, mut step) = (at, 0, 1);
            for (&n, &size) in matrix.iter().zip(sizes).rev() {
                let offset = (rest % size) as f64 - (size / 2) as f64;
                let near = (n / 2) as f64 + (offset * n as f64 / size as f64).round();
                place += step * (near as usize).min(n - 1);
                (rest, step) = (rest / size, step * n);
            }
            place
        })
        .collect();
    maps.chunks_exact(voxels).flat_map(|map| places.iter().map(|&place| map[place])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_add_up() {
        assert_eq!(composed(&[], &[-2, 1]), [-2, 1]);
        assert_eq!(composed(&[2, -1], &[-2, 1]), [1, 2]);
        let trajectory = Trajectory::new(1, 2, 2, vec![1.0, 2.0, 3.0, 4.0]);
        let turned = turned(&trajectory.unwrap_or_else(|e| panic!("{e}")), &[-2, 1]);
        assert_eq!(turned.unwrap_or_else(|e| panic!("{e}")).points(), [-2.0, 1.0, -4.0, 3.0]);
    }

    #[test]
    fn coarse_maps_keep_their_centre() {
        let map: Vec<Complex<f32>> = (0..6 * 8).map(|i| Complex::new(i as f32, 0.0)).collect();
        let small = coarse(&map, &[6, 8], &[3, 4]);
        // the centre of the small image, (1, 2), is that of the large one, (3, 4)
        assert_eq!(small[4 + 2], map[3 * 8 + 4]);
        assert_eq!(small[0], map[8]);
    }
}
