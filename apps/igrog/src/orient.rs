//! Which way positions in k-space run, told by how well samples fit the maps of their coils.

use crate::error::Result;
use crate::recon::misfit;
use crate::scan::Scan;
use limpid_mri::{
    Centre, Complex, ConjugateGradient, Nufft, Operator, Sense, Step, Trajectory, Weighted,
    conjugate_gradient, ramp,
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

/// Cycles per field of view of the middle that is looked at, and samples of it at most: in planes, in volumes.
const MIDDLE: [(usize, usize); 2] = [(32, 16_384), (12, 8_192)];
/// Iterations of conjugate gradients, enough to tell right from wrong.
const ITERATIONS: usize = 8;

/// How well the samples of a scan fit its maps: first with positions as they are, then with axes in all
/// orders and turned around. Fields are left alone, which makes all ways fit worse.
///
/// # Errors
/// If no samples lie in the middle of k-space.
pub(crate) fn ways(scan: &Scan, maps: &[Complex<f32>]) -> Result<Vec<Way>> {
    let matrix = &scan.matrix;
    let rank = matrix.len();
    let (most, samples) = MIDDLE[usize::from(rank == 3)];
    let size = matrix.iter().copied().fold(most, usize::min);
    let sizes = vec![size; rank];
    let centre = Centre::of(&scan.trajectory, &sizes)?;
    let every = centre.trajectory().len().div_ceil(samples);
    let trajectory = {
        let points = centre.trajectory().points().chunks_exact(rank).step_by(every);
        let points: Vec<f64> = points.flatten().copied().collect();
        Trajectory::new(1, points.len() / rank, rank, points)?
    };
    let samples: Vec<Complex<f32>> = centre
        .select(&scan.samples)?
        .chunks_exact(centre.trajectory().len())
        .flat_map(|coil| coil.iter().step_by(every).copied())
        .collect();
    let weights: Vec<f32> = ramp(&trajectory).into_iter().map(|w| w as f32).collect();
    let maps = coarse(maps, matrix, &sizes);
    let try_way = |axes: Vec<i8>| {
        let nufft = Nufft::new(&turned(&trajectory, &axes)?, &sizes, 1e-3)?;
        let weighted = Weighted::new(nufft, weights.clone())?;
        let mut samples = samples.clone();
        weighted.weigh(&mut samples)?;
        let operator = Sense::new(weighted, scan.coils, &sizes, maps.clone())?;
        let mut right = vec![Complex::default(); operator.domain()];
        operator.adjoint(&samples, &mut right);
        let mut image = vec![Complex::default(); right.len()];
        let settings = ConjugateGradient { lambda: 0.0, iterations: ITERATIONS, tolerance: 0.0 };
        let go_on = &mut |_: Step<'_, f32>| ControlFlow::Continue(());
        conjugate_gradient(&operator, &right, &mut image, &settings, go_on)?;
        Ok(Way { axes, misfit: misfit(&operator, &samples, &image) })
    };
    let signs = |order: Vec<i8>| {
        (0..1 << rank).map(move |turned: usize| {
            let sign = |(d, axis): (usize, &i8)| if turned >> d & 1 == 1 { -axis } else { *axis };
            order.iter().enumerate().map(sign).collect::<Vec<i8>>()
        })
    };
    orders(rank).into_iter().flat_map(signs).map(try_way).collect()
}

/// What ways tell: the best of them if it is clearly better than the first, and whether they differ at all.
///
/// What no way explains (noise, a field) adds to all of them, so that the first is judged by where it lies
/// between the best and the crowd.
pub(crate) fn verdict(ways: &[Way]) -> (Option<&Way>, bool) {
    let power = |way: &Way| way.misfit * way.misfit;
    let mut sorted: Vec<&Way> = ways.iter().collect();
    sorted.sort_by(|a, b| a.misfit.total_cmp(&b.misfit));
    let (Some(best), Some(own)) = (sorted.first(), ways.first()) else { return (None, false) };
    let crowd = power(sorted[sorted.len() / 2]);
    let apart = crowd - power(best);
    let differ = apart > 0.1 * crowd;
    let wrong = differ && power(own) - power(best) > 0.5 * apart;
    (wrong.then_some(*best), differ)
}

/// All orders of axes, counted from one; that of the image first.
fn orders(rank: usize) -> Vec<Vec<i8>> {
    let mut orders = vec![Vec::new()];
    for axis in 1..=rank as i8 {
        let with = |order: &Vec<i8>| {
            let order = order.clone();
            (0..=order.len()).rev().map(move |at| {
                let mut longer = order.clone();
                longer.insert(at, axis);
                longer
            })
        };
        orders = orders.iter().flat_map(with).collect();
    }
    orders
}

/// Positions whose axes are those coordinates of the given ones, counted from one, negative ones turned
/// around.
///
/// # Errors
/// If a coordinate is not finite.
pub(crate) fn turned(trajectory: &Trajectory, axes: &[i8]) -> Result<Trajectory> {
    let mut points = trajectory.points().to_vec();
    let pairs = points.chunks_exact_mut(axes.len());
    for (to, from) in pairs.zip(trajectory.points().chunks_exact(axes.len())) {
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
        let trajectory = Trajectory::new(1, 2, 2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(turned(&trajectory, &[-2, 1]).unwrap().points(), [-2.0, 1.0, -4.0, 3.0]);
    }

    #[test]
    fn all_orders_are_tried_and_the_images_first() {
        assert_eq!(orders(2), [[1, 2], [2, 1]]);
        let orders = orders(3);
        assert_eq!((orders.len(), &orders[0][..]), (6, &[1, 2, 3][..]));
        assert_eq!(orders.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn the_first_way_is_judged_by_the_crowd() {
        let ways = |misfits: &[f64]| -> Vec<Way> {
            misfits.iter().map(|&misfit| Way { axes: Vec::new(), misfit }).collect()
        };
        let wrong = |misfits: &[f64]| verdict(&ways(misfits)).0.map(|way| way.misfit);
        assert_eq!(wrong(&[0.03, 0.4, 0.5, 0.45]), None);
        assert_eq!(wrong(&[0.4, 0.03, 0.5, 0.45]), Some(0.03));
        // a field or noise under all of them
        assert_eq!(wrong(&[0.69, 0.56, 0.70, 0.71]), Some(0.56));
        assert_eq!(wrong(&[0.56, 0.69, 0.70, 0.71]), None);
        // maps that are alike along an axis
        assert_eq!(wrong(&[0.066, 0.067, 0.4, 0.4, 0.4]), None);
        assert_eq!(verdict(&ways(&[0.5, 0.499, 0.5])), (None, false));
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
