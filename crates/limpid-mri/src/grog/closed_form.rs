//! Kernels of least squares for every geometry (Luo et al., "A GRAPPA algorithm for arbitrary 2D/3D
//! non-Cartesian sampling trajectories with rapid calibration", MRM 2019).
//!
//! With `A` the coils at the offsets of the sources and `B` those at the target, over all voxels, the kernel
//! is the transpose of `(AᴴA + μ I)⁻¹ AᴴB`. Both products are cross images at differences of offsets, which
//! a table gives.
//!
//! Kernels that also move the phase of a field have one time for all their sources. The field then cancels in
//! `AᴴA`, and `AᴴB` are cross images under its phase.

use super::calibration::Calibration;
use super::clusters::Clusters;
use super::cross::CrossImages;
use super::geometry::Geometry;
use super::gridding::{Kernels, check_block, check_coils};
use super::moves::PhaseMoves;
use super::samples::FieldShift;
use super::systems::{LANES, Lanes, Systems, zero};
use crate::{Complex, Error, FieldSign, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "closed form";
/// Sources farther than this from the target, in cycles per field of view in a coordinate, say nothing of
/// it. They are where readouts start from rest.
const FARTHEST: f64 = 4.0;

/// Kernels of least squares, found as they are needed.
pub struct ClosedForm<T: Real> {
    coils: usize,
    rank: usize,
    lam: f64,
    /// The largest differences that cross images are kept for.
    reach: f64,
    cross: CrossImages<T>,
    /// `X(0)`.
    centre: Vec<T>,
    moves: Option<PhaseMoves<T>>,
}

impl<T: Real> ClosedForm<T> {
    /// For geometries whose offsets differ by no more than those of this one. `lam` is the regularisation
    /// `μ`, relative to the mean power of a coil: 1e-3 suits little noise, 1e-2 more. Sources that are more
    /// than four cycles per field of view from their target in a coordinate are left out.
    ///
    /// # Errors
    /// If `lam` is not above zero and finite, the ranks of images and geometry differ, or the table of cross
    /// images would take more than 2 GiB.
    pub fn new(calibration: &Calibration<T>, geometry: &Geometry, lam: f64) -> Result<Self> {
        if !(lam > 0.0 && lam.is_finite()) {
            return Err(Error::value(OP, format!("lam must be above zero, is {lam}")));
        }
        let (coils, rank) = (calibration.coils(), calibration.dims().len());
        if rank != geometry.rank() {
            let expected = format!("images of {} dimensions", geometry.rank());
            return Err(Error::shape(OP, expected, format!("{:?}", calibration.dims())));
        }
        let reach = reach(geometry);
        let cross = CrossImages::new(calibration, reach)?;
        let mut centre = vec![T::default(); cross.numbers()];
        cross.lookup([0.0; 3], &mut centre);
        Ok(Self { coils, rank, lam, reach, cross, centre, moves: None })
    }

    /// Kernels that move samples in time as well: from their own in the readout to those of `shift`, one a
    /// sample of the geometry, at which the target then has the phase of the field. With the
    /// [centres](crate::segment_centres) of segments, the targets are what
    /// [zero-order](crate::FieldMethod::ZeroOrder) segments say of them. A kernel takes its sources to be
    /// sampled when its sample was. Voxels that no coil sees do not count.
    ///
    /// They serve geometries of as many samples, moved in time by no more than those of this one.
    ///
    /// # Errors
    /// As [`ClosedForm::new`], whose memory is that of all tables here, a few more than one; or if the field has
    /// not one finite value a voxel, the times are not one a sample and finite, or kernels would turn voxels from
    /// each other by more than about ten turns.
    pub fn with_field(
        calibration: &Calibration<T>,
        geometry: &Geometry,
        lam: f64,
        shift: FieldShift,
        sign: FieldSign,
    ) -> Result<Self> {
        let mut form = Self::new(calibration, geometry, lam)?;
        form.moves = Some(PhaseMoves::new(calibration, geometry, form.reach, shift, sign)?);
        Ok(form)
    }

    fn check(&self, geometry: &Geometry) -> Result<()> {
        if geometry.rank() != self.rank {
            let got = format!("rank {}", geometry.rank());
            return Err(Error::shape(OP, format!("a geometry of rank {}", self.rank), got));
        }
        let reach = reach(geometry);
        if reach > self.reach {
            let problem = format!(
                "offsets of this geometry differ by up to {reach:.3} cycles per field of view, those that the \
                 kernels were prepared for by {:.3}; prepare them for this geometry",
                self.reach
            );
            return Err(Error::value(OP, problem));
        }
        self.moves.as_ref().map_or(Ok(()), |moves| moves.check(geometry))
    }

    #[cfg(test)]
    pub(super) fn moves(&self) -> Option<&PhaseMoves<T>> {
        self.moves.as_ref()
    }

    /// By how much time the kernel of a sample moves it, in seconds.
    fn moved(&self, geometry: &Geometry, sample: usize) -> f64 {
        self.moves.as_ref().map_or(0.0, |moves| moves.time(geometry, sample))
    }
}

impl<T: Real> Kernels<T> for ClosedForm<T> {
    fn coils(&self) -> usize {
        self.coils
    }

    fn kernels(
        &self,
        geometry: &Geometry,
        block: Range<usize>,
        out: &mut [Complex<T>],
    ) -> Result<()> {
        self.check(geometry)?;
        check_block(OP, self.coils, geometry, &block, out)?;
        let size = self.coils * geometry.sources();
        let kernels = out.par_chunks_mut(LANES * self.coils * size).enumerate();
        kernels.for_each_init(
            || Group::new(self, geometry),
            |group, (i, kernels)| {
                let first = block.start + i * LANES;
                let last = first + kernels.len() / (self.coils * size) - 1;
                vectorised(
                    #[inline(always)]
                    || {
                        group.prepare(|lane| (first + lane).min(last));
                        group.write_kernels(kernels);
                    },
                );
            },
        );
        Ok(())
    }

    /// As the trait says, but no kernels are made: the values of the target follow from one solution for the
    /// values of the sources. Samples of equal offsets, and moves in time, share their factors.
    fn grid(&self, samples: &[Complex<T>], geometry: &Geometry) -> Result<Vec<Complex<T>>> {
        self.check(geometry)?;
        check_coils(OP, self.coils, samples, geometry)?;
        let clusters = Clusters::of(geometry, |sample| self.moved(geometry, sample));
        let mut moved = vec![Complex::default(); samples.len()];
        let (mut rest, mut groups) = (&mut moved[..], Vec::new());
        for clusters in clusters.groups(LANES) {
            let members: usize = clusters.iter().map(|cluster| cluster.len()).sum();
            let (rows, others) = rest.split_at_mut(members * self.coils);
            groups.push((clusters, rows));
            rest = others;
        }
        groups.into_par_iter().for_each_init(
            || Group::new(self, geometry),
            |group, (clusters, rows)| {
                vectorised(
                    #[inline(always)]
                    || {
                        group.prepare(|lane| clusters[lane.min(clusters.len() - 1)][0]);
                        group.move_members(samples, &clusters, rows);
                    },
                );
            },
        );
        let mut out = vec![Complex::default(); samples.len()];
        for (c, out) in out.chunks_exact_mut(geometry.len()).enumerate() {
            for (&sample, row) in clusters.members().iter().zip(moved.chunks_exact(self.coils)) {
                out[sample] = row[c];
            }
        }
        Ok(out)
    }
}

/// As many geometries as systems are solved together.
struct Group<'a, T: Real> {
    form: &'a ClosedForm<T>,
    geometry: &'a Geometry,
    systems: Systems<T>,
    /// `X(−d)` of every lane and source, under the phase of a field if there is one, `[LANES, S, 2, C²]`: the
    /// right-hand sides `AᴴB`.
    targets: Vec<T>,
    /// A right-hand side, and then the solution.
    values: Vec<Lanes<T>>,
    sources: Vec<Complex<T>>,
    pair: Vec<T>,
}

impl<'a, T: Real> Group<'a, T> {
    fn new(form: &'a ClosedForm<T>, geometry: &'a Geometry) -> Self {
        let (numbers, sources) = (form.cross.numbers(), geometry.sources());
        let size = sources * form.coils;
        Self {
            form,
            geometry,
            systems: Systems::new(size),
            targets: vec![T::default(); LANES * sources * numbers],
            values: vec![zero(); size],
            sources: vec![Complex::default(); size],
            pair: vec![T::default(); numbers],
        }
    }

    /// Factors the systems of the sample of each lane.
    #[inline(always)]
    fn prepare(&mut self, sample: impl Fn(usize) -> usize) {
        for lane in 0..LANES {
            self.assemble(lane, sample(lane));
        }
        // cross images are relative to the mean power of a coil, and so is the regularisation
        self.systems.factor(T::of(self.form.lam));
    }

    /// Fills one lane of the systems.
    #[inline(always)]
    fn assemble(&mut self, lane: usize, sample: usize) {
        let ClosedForm { coils, rank, ref cross, lam, ref centre, ref moves, .. } = *self.form;
        let (square, offsets) = (coils * coils, self.geometry.offsets_of(sample));
        let phase = moves.as_ref().map(|moves| moves.phase(self.geometry, sample));
        for (s, row) in offsets.chunks_exact(rank).enumerate() {
            let row_near = is_near(row);
            for (other, column) in offsets.chunks_exact(rank).take(s).enumerate() {
                if row_near && is_near(column) {
                    cross.lookup(difference(column, row), &mut self.pair);
                } else {
                    self.pair.fill(T::default());
                }
                for a in 0..coils {
                    for b in 0..coils {
                        let [re, im] = self.systems.at(s * coils + a, other * coils + b);
                        re[lane] = self.pair[a * coils + b];
                        im[lane] = self.pair[square + a * coils + b];
                    }
                }
            }
            for a in 0..coils {
                for b in 0..=a {
                    let [re, im] = self.systems.at(s * coils + a, s * coils + b);
                    re[lane] = centre[a * coils + b];
                    im[lane] = centre[square + a * coils + b];
                }
                self.systems.at(s * coils + a, s * coils + a)[0][lane] += T::of(lam);
            }
            let sources = self.geometry.sources();
            let target = &mut self.targets[(lane * sources + s) * 2 * square..][..2 * square];
            let u = difference(&[0.0; 3][..rank], row);
            match &phase {
                _ if !row_near => target.fill(T::default()),
                Some(phase) => phase.lookup(u, target),
                None => cross.lookup(u, target),
            }
        }
    }

    /// Solves for every coil of the target, and writes as many kernels `[C, S·C]` as there is room for.
    #[inline(always)]
    fn write_kernels(&mut self, kernels: &mut [Complex<T>]) {
        let coils = self.form.coils;
        let (square, size) = (coils * coils, self.values.len());
        for c in 0..coils {
            for lane in 0..LANES {
                let targets = &self.targets[lane * size * 2 * coils..][..size * 2 * coils];
                for (j, [re, im]) in self.values.iter_mut().enumerate() {
                    let at = j / coils * 2 * square + j % coils * coils + c;
                    (re[lane], im[lane]) = (targets[at], targets[square + at]);
                }
            }
            self.systems.solve(&mut self.values);
            for (lane, kernel) in kernels.chunks_exact_mut(coils * size).enumerate() {
                for (weight, [re, im]) in kernel[c * size..].iter_mut().zip(&self.values) {
                    *weight = Complex::new(re[lane], im[lane]);
                }
            }
        }
    }

    /// Moves the members of a cluster per lane, to rows `[members, C]` of one cluster after the other.
    #[inline(always)]
    fn move_members(
        &mut self,
        samples: &[Complex<T>],
        clusters: &[&[usize]],
        rows: &mut [Complex<T>],
    ) {
        let coils = self.form.coils;
        let most = clusters.iter().map(|members| members.len()).max().unwrap_or_default();
        for round in 0..most {
            for (lane, members) in clusters.iter().enumerate() {
                let Some(&sample) = members.get(round) else { continue };
                self.geometry.gather(samples, coils, sample..sample + 1, &mut self.sources);
                for ([re, im], source) in self.values.iter_mut().zip(&self.sources) {
                    // Gᵀ v = (AᴴB)ᵀ conj((AᴴA + μ)⁻¹ conj(v)), as the matrix is Hermitian
                    (re[lane], im[lane]) = (source.re, -source.im);
                }
            }
            self.systems.solve(&mut self.values);
            let mut first = 0;
            for (lane, members) in clusters.iter().enumerate() {
                if round < members.len() {
                    let row = &mut rows[(first + round) * coils..][..coils];
                    self.project(lane, row);
                }
                first += members.len();
            }
        }
    }

    /// The values of the target, from the solution of a lane.
    #[inline(always)]
    fn project(&mut self, lane: usize, row: &mut [Complex<T>]) {
        let coils = self.form.coils;
        let (square, size) = (coils * coils, self.values.len());
        let (re, im) = self.pair[..2 * coils].split_at_mut(coils);
        re.fill(T::default());
        im.fill(T::default());
        let targets = &self.targets[lane * size * 2 * coils..][..size * 2 * coils];
        for (source, values) in targets.chunks_exact(2 * square).zip(self.values.chunks(coils)) {
            let (tr, ti) = source.split_at(square);
            for ((tr, ti), [wr, wi]) in tr.chunks(coils).zip(ti.chunks(coils)).zip(values) {
                let (wr, wi) = (wr[lane], -wi[lane]);
                for c in 0..coils {
                    re[c] += tr[c] * wr - ti[c] * wi;
                    im[c] += tr[c] * wi + ti[c] * wr;
                }
            }
        }
        for ((value, &re), &im) in row.iter_mut().zip(&*re).zip(&*im) {
            *value = Complex::new(re, im);
        }
    }
}

#[inline(always)]
fn is_near(offset: &[f64]) -> bool {
    offset.iter().all(|d| d.abs() <= FARTHEST)
}

#[inline(always)]
fn difference(a: &[f64], b: &[f64]) -> [f64; 3] {
    let mut u = [0.0; 3];
    for d in 0..a.len() {
        u[d] = a[d] - b[d];
    }
    u
}

/// The largest coordinate of an offset and of a difference of two of a sample, of sources that count.
fn reach(geometry: &Geometry) -> f64 {
    let (rank, row) = (geometry.rank(), geometry.sources() * geometry.rank());
    let of_sample = |offsets: &[f64]| {
        let (mut low, mut high) = ([0f64; 3], [0f64; 3]);
        for offset in offsets.chunks_exact(rank).filter(|offset| is_near(offset)) {
            for d in 0..rank {
                low[d] = low[d].min(offset[d]);
                high[d] = high[d].max(offset[d]);
            }
        }
        (0..rank).map(|d| high[d] - low[d]).fold(0.0, f64::max)
    };
    geometry.offsets().chunks_exact(row).map(of_sample).fold(0.0, f64::max)
}
