//! Weights as areas of Voronoi cells (Rasche et al., "Resampling of data between arbitrary grids using convolution
//! interpolation", IEEE TMI 18, 1999).

use crate::{Error, Result, Trajectory};
use nalgebra::{Matrix4, Vector4};
use rayon::prelude::*;
use spade::{DelaunayTriangulation, HasPosition, Point2, Triangulation};

const OP: &str = "voronoi";

/// Weights `[shots, samples]` of a trajectory in two dimensions: the area of k-space that is nearest to a sample,
/// which samples at the same position share. They are scaled so that their reciprocals add up to one.
///
/// The cells at the edge are open, or close far outside. The areas of open cells, and of the largest 5 % of all,
/// are replaced by a cubic polynomial of the squared distance from the centre, fitted to the other cells beyond
/// 0.6 of the largest, but not below the smallest of those.
///
/// # Errors
/// If the trajectory has three dimensions, or so few cells are closed that there are none to fit.
pub fn voronoi(trajectory: &Trajectory) -> Result<Vec<f64>> {
    if trajectory.rank() != 2 {
        let got = format!("{} dimensions", trajectory.rank());
        return Err(Error::shape(OP, "a trajectory in two dimensions", got));
    }
    let (sites, site_of, shared) = sites(trajectory);
    let cells = areas(sites)?;
    let mut areas: Vec<f64> = site_of.iter().map(|&site| cells[site]).collect();
    replace_edge(trajectory, &mut areas)?;
    for (area, &site) in areas.iter_mut().zip(&site_of) {
        *area /= shared[site] as f64;
    }
    let reciprocals: f64 = areas.iter().map(|area| area.recip()).sum();
    areas.iter_mut().for_each(|area| *area *= reciprocals);
    Ok(areas)
}

/// The different positions, the one of each sample, and how many samples share each.
fn sites(trajectory: &Trajectory) -> (Vec<Point2<f64>>, Vec<usize>, Vec<usize>) {
    let point = |sample: usize| {
        let point = &trajectory.points()[2 * sample..][..2];
        // negative zero is zero
        Point2::new(point[0] + 0.0, point[1] + 0.0)
    };
    let mut order: Vec<usize> = (0..trajectory.len()).collect();
    order.par_sort_by(|&a, &b| {
        let (a, b) = (point(a), point(b));
        a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y))
    });
    let mut sites: Vec<Point2<f64>> = Vec::with_capacity(order.len());
    let mut shared: Vec<usize> = Vec::with_capacity(order.len());
    let mut site_of = vec![0; order.len()];
    for sample in order {
        if sites.last() != Some(&point(sample)) {
            sites.push(point(sample));
            shared.push(0);
        }
        site_of[sample] = sites.len() - 1;
        shared[sites.len() - 1] += 1;
    }
    (sites, site_of, shared)
}

/// The areas of the Voronoi cells of different positions; infinite where a cell is open.
fn areas(sites: Vec<Point2<f64>>) -> Result<Vec<f64>> {
    let mut areas = vec![f64::INFINITY; sites.len()];
    let triangles = DelaunayTriangulation::<Site>::bulk_load(
        sites.into_iter().enumerate().map(|(index, position)| Site { index, position }).collect(),
    );
    let triangles = triangles.map_err(|error| {
        Error::value(
            OP,
            format!("a position cannot be triangulated ({error}): is it next to zero?"),
        )
    })?;
    for vertex in triangles.vertices() {
        let site = vertex.position();
        let corner = |triangle: [Point2<f64>; 3]| {
            let [a, b] = match triangle.iter().position(|&p| p == site) {
                Some(0) => [triangle[1], triangle[2]],
                Some(1) => [triangle[2], triangle[0]],
                _ => [triangle[0], triangle[1]],
            };
            circumcentre([a.x - site.x, a.y - site.y], [b.x - site.x, b.y - site.y])
        };
        let faces = vertex.out_edges().map(|edge| edge.face().as_inner());
        let corners: Option<Vec<[f64; 2]>> =
            faces.map(|face| face.map(|face| corner(face.positions()))).collect();
        // a lone site has no edges
        let Some(corners) = corners.filter(|corners| corners.len() > 2) else { continue };
        let next = corners.iter().cycle().skip(1);
        let twice: f64 = corners.iter().zip(next).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum();
        areas[vertex.data().index] = twice.abs() / 2.0;
    }
    Ok(areas)
}

/// A position, with its place among all.
struct Site {
    index: usize,
    position: Point2<f64>,
}

impl HasPosition for Site {
    type Scalar = f64;

    fn position(&self) -> Point2<f64> {
        self.position
    }
}

/// The centre of the circle through two points and the origin.
fn circumcentre(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    let [square_a, square_b] = [a, b].map(|p| p[0] * p[0] + p[1] * p[1]);
    let twice = 2.0 * (a[0] * b[1] - a[1] * b[0]);
    [(b[1] * square_a - a[1] * square_b) / twice, (a[0] * square_b - b[0] * square_a) / twice]
}

/// The samples with the largest 5 % of areas; of equal ones, those that come first.
fn largest(areas: &[f64]) -> Vec<usize> {
    let below = (0.95 * (areas.len() - 1) as f64) as usize;
    let mut order: Vec<usize> = (0..areas.len()).collect();
    order.sort_by(|&a, &b| areas[b].total_cmp(&areas[a]));
    order.truncate(areas.len() - 1 - below);
    order
}

/// Replaces the areas of cells at the edge.
fn replace_edge(trajectory: &Trajectory, areas: &mut [f64]) -> Result<()> {
    for sample in largest(areas) {
        areas[sample] = f64::INFINITY;
    }
    let squares: Vec<f64> =
        trajectory.points().as_chunks::<2>().0.iter().map(|[x, y]| x * x + y * y).collect();
    let beyond = 0.6 * squares.iter().copied().fold(0.0, f64::max);
    let known: Vec<(f64, f64)> = squares
        .iter()
        .zip(areas.iter())
        .filter(|(square, area)| **square > beyond && area.is_finite())
        .map(|(&square, &area)| (square, area))
        .collect();
    if known.is_empty() {
        let problem =
            "all cells near the edge are open; are there only a few samples, or all on a line?";
        return Err(Error::value(OP, problem));
    }
    let bound = |start: f64, of: fn(f64, f64) -> f64, value: fn(&(f64, f64)) -> f64| {
        known.iter().map(value).fold(start, of)
    };
    let near = bound(f64::INFINITY, f64::min, |known| known.0);
    let far = bound(0.0, f64::max, |known| known.0);
    let smallest = bound(f64::INFINITY, f64::min, |known| known.1);
    // from -1 to 1 where areas are known, which keeps the powers apart
    let half = if far > near { (far - near) / 2.0 } else { 1.0 };
    let powers = |square: f64| {
        let x = (square - (near + far) / 2.0) / half;
        Vector4::new(1.0, x, x * x, x * x * x)
    };
    let (mut gram, mut right) = (Matrix4::zeros(), Vector4::zeros());
    for &(square, area) in &known {
        let powers = powers(square);
        gram += powers * powers.transpose();
        right += powers * area;
    }
    // fewer distances than coefficients leave some of them open
    let svd = gram.svd(true, true);
    let eps = 1e-13 * svd.singular_values.max();
    let fit = svd.solve(&right, eps).map_err(|problem| Error::value(OP, problem))?;
    for (area, &square) in areas.iter_mut().zip(&squares).filter(|(area, _)| !area.is_finite()) {
        *area = fit.dot(&powers(square)).max(smallest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::load;
    use limpid_kernels::rng::Stream;

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/dcf") else { return };
        for name in ["radial", "spiral"] {
            let points = format!("{name}.trj");
            let &[shots, samples, rank] = fixture.shape(&points) else { panic!("a trajectory") };
            let trajectory =
                Trajectory::new(shots, samples, rank, fixture.values(&points).to_vec());
            let trajectory = trajectory.expect("positions");
            let weights = voronoi(&trajectory).expect("weights");
            let expected = fixture.values(&format!("{name}.voronoi"));
            // Cells that are equal by symmetry may lie on both sides of the limit of the largest 5 %: which
            // of them are replaced is decided by rounding, in the fixture too.
            let (positions, site_of, _) = sites(&trajectory);
            let cells = areas(positions).expect("areas");
            let all: Vec<f64> = site_of.iter().map(|&site| cells[site]).collect();
            let limit = largest(&all).last().map_or(f64::INFINITY, |&sample| all[sample]);
            let mut apart = 0;
            for (sample, (got, expected)) in weights.iter().zip(expected).enumerate() {
                let gap = (got / expected - 1.0).abs();
                let tied = (all[sample] / limit - 1.0).abs() < 1e-9;
                assert!(gap < 1e-9 || tied, "{name}: sample {sample} is off by {gap:e}");
                apart += usize::from(gap >= 1e-9);
            }
            assert!(apart < all.len() / 100, "{name}: {apart} tied samples differ");
        }
    }

    #[test]
    fn cells_are_nearest_to_their_sites() {
        let mut draws = Stream::new(2, "samples").draws();
        let points: Vec<f64> = (0..80).map(|_| draws.uniform() * 4.0 - 2.0).collect();
        let trajectory = Trajectory::new(1, 40, 2, points).expect("positions");
        let (sites, site_of, _) = sites(&trajectory);
        let all = areas(sites.clone()).expect("areas");
        assert!(site_of.iter().all(|&site| site < 40));
        // count the points of a fine grid around, which holds all closed cells that do not close far outside
        let (step, reach) = (0.02, 600);
        let mut counts = [0; 40];
        let mut beyond = [false; 40];
        for i in 0..2 * reach {
            for j in 0..2 * reach {
                let at = [i, j].map(|i| (i as f64 - reach as f64) * step);
                let distance = |p: &Point2<f64>| (p.x - at[0]).powi(2) + (p.y - at[1]).powi(2);
                let nearest = (0..40)
                    .min_by(|&a, &b| distance(&sites[a]).total_cmp(&distance(&sites[b])))
                    .expect("a site");
                counts[nearest] += 1;
                beyond[nearest] |= [i, j].iter().any(|&i| i == 0 || i == 2 * reach - 1);
            }
        }
        let mut closed = 0;
        for site in (0..40).filter(|&site| !beyond[site]) {
            let counted = f64::from(counts[site]) * step * step;
            assert!((counted - all[site]).abs() < 0.03 + 0.02 * counted, "{counted} {}", all[site]);
            closed += 1;
        }
        assert!(closed > 20, "{closed}");
    }

    #[test]
    fn samples_at_the_same_position_share() {
        let grid = (0..100).flat_map(|i| [f64::from(i / 10) - 5.0, f64::from(i % 10) - 5.0]);
        let mut points: Vec<f64> = grid.collect();
        let once = voronoi(&Trajectory::new(1, 100, 2, points.clone()).expect("positions"));
        let once = once.expect("weights");
        // a grid has cells of one size, also at its edge
        assert!(once.iter().all(|w| (w / once[0] - 1.0).abs() < 1e-9));
        assert!((once.iter().map(|w| w.recip()).sum::<f64>() - 1.0).abs() < 1e-12);
        points.extend([-0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 2.0, 1.0]);
        let more = voronoi(&Trajectory::new(1, 104, 2, points).expect("positions"));
        let more = more.expect("weights");
        for (sample, share) in [(55, 3.0), (100, 3.0), (66, 2.0), (101, 2.0), (44, 1.0)] {
            assert!((more[sample] * share / more[0] - 1.0).abs() < 1e-9, "{sample}");
        }
    }

    #[test]
    fn refuses_what_has_no_cells() {
        let error = |rank, points: Vec<f64>| {
            let trajectory = Trajectory::new(1, points.len() / rank, rank, points);
            voronoi(&trajectory.expect("positions")).expect_err("refused").to_string()
        };
        assert!(error(3, vec![1.0; 6]).contains("two dimensions"));
        let line = (0..20).flat_map(|i| [f64::from(i), 2.0 * f64::from(i)]).collect();
        assert!(error(2, line).contains("on a line"));
        assert!(error(2, vec![1.0, 1.0]).contains("few samples"));
        assert!(error(2, vec![1.0, 1.0, 2.0, 2.0, 1e-60, 0.0]).contains("next to zero"));
    }
}
