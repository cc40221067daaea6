//! Reading a scan from files.

use super::find::Finder;
use super::{Scan, ScanConfig, Unit, check};
use crate::error::{Error, Result};
use crate::orient::turned;
use limpid_io::arrays::{Array, Arrays, Ismrmrd, Values, is_ismrmrd, open_arrays, read_ismrmrd};
use limpid_mri::{Complex, Trajectory};
use std::path::Path;

/// Reads a scan: NumPy (`.npz`, `.npy`), BART (`.cfl`), ISMRMRD and other HDF5, or MATLAB.
///
/// # Errors
/// A file cannot be read, an array is missing or does not fit to the others, or holds what cannot be
/// measured; with the likely cause.
pub fn open(path: &Path, config: &ScanConfig) -> Result<Scan> {
    let (arrays, header) = load(path, config)?;
    let finder = Finder::new(path, arrays);
    assemble(&finder, config, header).map_err(|e| e.at(path))
}

/// What the header of a raw data file says.
#[derive(Default)]
struct Header {
    /// Positions are in cycles per voxel.
    per_voxel: bool,
    /// Coordinates begin with that of the fastest axis of images.
    slowest_last: bool,
    matrix: Vec<usize>,
    fov_mm: Vec<f64>,
    dwell: Option<f64>,
    /// Samples that every readout leaves out at its start; none if they differ.
    skipped: Option<usize>,
}

fn load(path: &Path, config: &ScanConfig) -> Result<(Arrays, Header)> {
    if !is_ismrmrd(path)? {
        return Ok((open_arrays(path)?, Header::default()));
    }
    let mut raw = read_ismrmrd(path)?;
    select(&mut raw, config).map_err(|e| e.at(path))?;
    let head = raw.acquisitions.first().map(|a| &a.head);
    let dimensions = head.map_or(0, |head| head.trajectory_dimensions);
    let space = head.and_then(|head| raw.header.encodings.get(head.encoding_space_ref));
    let space = space.map(|encoding| encoding.encoded);
    let rank = match space {
        Some(space) if space.matrix[2] > 1 => 3,
        Some(_) => 2,
        None => dimensions.clamp(2, 3),
    };
    let header = Header {
        per_voxel: true,
        slowest_last: true,
        matrix: space.map_or_else(Vec::new, |s| s.matrix[..rank].iter().rev().copied().collect()),
        fov_mm: space.map_or_else(Vec::new, |s| s.fov_mm[..rank].iter().rev().copied().collect()),
        dwell: head.map(|h| f64::from(h.sample_time_us) * 1e-6).filter(|dwell| *dwell > 0.0),
        skipped: head
            .map(|head| head.discard_pre)
            .filter(|skipped| raw.acquisitions.iter().all(|a| a.head.discard_pre == *skipped)),
    };
    Ok((raw.arrays()?, header))
}

/// Keeps the readouts of one image.
fn select(raw: &mut Ismrmrd, config: &ScanConfig) -> Result<()> {
    raw.acquisitions.retain(|a| a.head.is_imaging());
    let wanted =
        [("slice", config.slice), ("contrast", config.contrast), ("repetition", config.repetition)];
    for (i, (what, wanted)) in wanted.into_iter().enumerate() {
        let of = |a: &limpid_io::arrays::Acquisition| {
            [a.head.slice, a.head.contrast, a.head.repetition][i]
        };
        let mut there: Vec<u16> = raw.acquisitions.iter().map(of).collect();
        there.sort_unstable();
        there.dedup();
        match wanted {
            Some(wanted) if !there.contains(&wanted) => {
                let message = format!("there is no {what} {wanted}");
                return Err(Error::scan(message, format!("there are {there:?}")));
            }
            Some(wanted) => raw.acquisitions.retain(|a| of(a) == wanted),
            None if there.len() > 1 => {
                let message = format!("the file holds {} {what}s", there.len());
                let hint = format!("choose one of {there:?} with `--set scan.{what}=N`");
                return Err(Error::scan(message, hint));
            }
            None => {}
        }
    }
    Ok(())
}

fn assemble(finder: &Finder<'_>, config: &ScanConfig, header: Header) -> Result<Scan> {
    const KSP: [&str; 3] = ["ksp", "kspace", "data"];
    let mut ksp = match finder.only() {
        // the file of one array that the user named is that of the samples
        Some(only) if config.kspace.is_empty() => only.clone(),
        _ => finder.need("kspace", &config.kspace, &KSP)?,
    };
    let usual = ["trj", "traj", "trajectory", "coord", "coords", "k"];
    let trajectory = finder.need("trajectory", &config.trajectory, &usual)?;
    let maps = finder.find("maps", &config.maps, &["mps", "maps", "smaps", "sens"])?;
    let field = finder.find("field", &config.field, &["b0", "b0_hz", "field"])?;
    let truth = finder.find("truth", &config.truth, &["img", "image", "truth"])?;
    let (mut shape, mut points) = positions(trajectory)?;
    if header.slowest_last || finder.is_bart(&config.trajectory) {
        // their axes of images run from the fastest on, ours from the slowest
        points.chunks_mut(shape[2]).for_each(<[f64]>::reverse);
    }

    let sizes = |dims: &[usize]| dims.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    let given = [
        (!config.matrix.is_empty()).then(|| config.matrix.clone()),
        maps.as_ref().map(|maps| sizes(complex_dims(maps).get(1..).unwrap_or_default())),
        field.as_ref().map(|field| sizes(field.dims())),
        truth.as_ref().map(|truth| sizes(&complex_dims(truth))),
        (!header.matrix.is_empty()).then(|| header.matrix.clone()),
    ];
    let matrix = given.into_iter().flatten().find(|m| (2..=3).contains(&m.len()));
    let matrix = matrix.ok_or_else(|| {
        let hint =
            "give them as `--set scan.matrix=[256,256]`: the field of view over the voxel's size";
        Error::scan("the sizes of the image are not known", hint)
    })?;
    flatten(&mut shape, &mut points, matrix.len())?;
    let [shots, length, rank] = shape;

    let expected_coils = maps.as_ref().and_then(|maps| complex_dims(maps).first().copied());
    let (coils, samples) = samples(&mut ksp, [shots, length], expected_coils)?;
    let unit = unit(config, &header);
    check::unit(&points, &matrix, unit)?;
    let trajectory = Trajectory::from_unit(unit, &matrix, [shots, length], points)?;
    let trajectory = match config.axes.len() {
        0 => trajectory,
        axes if axes == rank => turned(&trajectory, &config.axes)?,
        axes => {
            let message =
                format!("`scan.axes` names {axes} coordinates, the image has {rank} sizes");
            return Err(Error::scan(message, "name one for each axis"));
        }
    };
    let times = finder.find("times", &config.times, &["t", "times"])?;
    let dwell = config.dwell.or(header.dwell);
    let timed = times.is_some() || dwell.is_some();
    let times = match times {
        Some(times) => readout_times(times, shots, length)?,
        None => {
            let first = if header.per_voxel { header.skipped } else { Some(0) };
            if first.is_none() && field.is_some() && dwell.is_some() {
                return Err(Error::scan(
                    "readouts leave out different numbers of samples at their start: they have no times in common",
                    "give the readouts of one number only, or no field",
                ));
            }
            let time = |i: usize| (first.unwrap_or(0) + i) as f64 * dwell.unwrap_or(0.0);
            (0..length).map(time).collect()
        }
    };
    let density = finder.find("density", &config.density, &["dcf", "density", "weights"])?;
    let density = density.map(|d| reals("density", d, &[shots, length])).transpose()?;
    let maps = maps.map(|maps| complex("maps", maps, &[&[coils], &matrix[..]].concat()));
    let usual = ["kcal", "calib", "calibration"];
    let calibration = finder.find("calibration", &config.calibration, &usual)?;
    let calibration = calibration.map(|array| region(array, coils, rank)).transpose()?;
    let noise = finder.find("noise", &config.noise, &["noise"])?;
    let noise = noise.map(|noise| noise_samples(noise, coils)).transpose()?;
    let fov = if config.fov_mm.is_empty() { header.fov_mm } else { config.fov_mm.clone() };
    if !fov.is_empty() && fov.len() != matrix.len() {
        let message = format!("the field of view has {} sizes, the image {}", fov.len(), rank);
        return Err(Error::scan(message, "give `scan.fov_mm` a size for each axis"));
    }
    let voxel = fov.iter().zip(&matrix).map(|(fov, &n)| fov / n as f64).collect();
    let mut scan = Scan {
        trajectory,
        times,
        timed,
        coils,
        samples,
        noise,
        density,
        maps: maps.transpose()?,
        calibration,
        field: field.map(|f| reals("field", f, &matrix)).transpose()?,
        truth: truth.map(|t| complex("truth", t, &matrix)).transpose()?,
        voxel_mm: (!fov.is_empty()).then_some(voxel),
        matrix,
        oversampling: oversampling(finder)?,
        files: finder.files(),
        findings: Vec::new(),
    };
    check::values(&mut scan)?;
    Ok(scan)
}

/// Points of the grid per cycle per field of view, of samples that `grid` has written.
fn oversampling(finder: &Finder<'_>) -> Result<Option<f64>> {
    let found = finder.find("oversampling", "", &["oversampling"])?;
    let values = found.map(|array| array.into_parts().1.into_f64().unwrap_or_default());
    Ok(values.and_then(|values| values.first().copied()).filter(|os| (1.0..=8.0).contains(os)))
}

fn unit(config: &ScanConfig, header: &Header) -> limpid_mri::Unit {
    match config.unit {
        Unit::Auto if header.per_voxel => limpid_mri::Unit::CyclesPerVoxel,
        Unit::Auto | Unit::CyclesPerFov => limpid_mri::Unit::CyclesPerFov,
        Unit::CyclesPerVoxel => limpid_mri::Unit::CyclesPerVoxel,
        Unit::RadiansPerVoxel => limpid_mri::Unit::RadiansPerVoxel,
    }
}

/// The sizes of complex numbers, which may also be pairs of real ones along a last axis of two.
fn complex_dims(array: &Array) -> Vec<usize> {
    let dims = array.dims();
    match dims.split_last() {
        Some((2, rest)) if !array.data().is_complex() && rest.len() > 1 => rest.to_vec(),
        _ => dims.to_vec(),
    }
}

/// The complex numbers themselves.
fn numbers(array: Array) -> Vec<Complex<f32>> {
    let pairs = !array.data().is_complex() && complex_dims(&array).len() < array.dims().len();
    let (_, values) = array.into_parts();
    let of = |[re, im]: [f32; 2]| Complex::new(re, im);
    if pairs {
        let parts = values.into_c64();
        return parts.as_chunks::<2>().0.iter().map(|[a, b]| of([a[0], b[0]])).collect();
    }
    values.into_c64().into_iter().map(of).collect()
}

/// Positions and their shape: shots, samples, coordinates.
fn positions(array: Array) -> Result<([usize; 3], Vec<f64>)> {
    let dims: Vec<usize> = array.dims().to_vec();
    let Some((&rank, before)) = dims.split_last().filter(|(rank, _)| (2..=3).contains(*rank))
    else {
        let message = format!("the trajectory has the shape {dims:?}");
        return Err(Error::scan(
            message,
            "it must be [shots, samples, 2 or 3]; transpose it so that the coordinate comes last",
        ));
    };
    let before: Vec<usize> = before.iter().copied().filter(|&n| n != 1).collect();
    let shape = match before[..] {
        [] => [1, 1, rank],
        [samples] => [1, samples, rank],
        [shots, samples] => [shots, samples, rank],
        _ => {
            let message = format!("the trajectory has the shape {dims:?}");
            return Err(Error::scan(
                message,
                "it must be [shots, samples, 2 or 3]; merge its first axes",
            ));
        }
    };
    let (_, values) = array.into_parts();
    let values = values.into_f64().ok_or_else(|| {
        Error::scan("the trajectory has imaginary parts", "is it the k-space data instead?")
    })?;
    Ok((shape, values))
}

/// Leaves out a third coordinate that is zero throughout, for images of two sizes.
fn flatten(shape: &mut [usize; 3], points: &mut Vec<f64>, rank: usize) -> Result<()> {
    if shape[2] == rank {
        return Ok(());
    }
    let is_zero = |axis: usize| points.iter().skip(axis).step_by(3).all(|z| *z == 0.0);
    let flat = [2, 0].into_iter().find(|&axis| shape[2] == 3 && rank == 2 && is_zero(axis));
    let Some(flat) = flat else {
        let message = format!("positions have {} coordinates, the image {rank} sizes", shape[2]);
        let hint = "is `scan.matrix` that of a slice, or the trajectory that of a volume?";
        return Err(Error::scan(message, hint));
    };
    let first = usize::from(flat == 0);
    *points = points.as_chunks::<3>().0.iter().flat_map(|p| [p[first], p[first + 1]]).collect();
    shape[2] = 2;
    Ok(())
}

/// Coils and samples `[coils, shots, samples]`, whichever way around they came.
fn samples(
    ksp: &mut Array,
    [shots, length]: [usize; 2],
    coils: Option<usize>,
) -> Result<(usize, Vec<Complex<f32>>)> {
    let all = complex_dims(ksp);
    let dims: Vec<usize> = all.iter().copied().filter(|&n| n != 1).collect();
    let readouts: Vec<usize> = [shots, length].into_iter().filter(|&n| n != 1).collect();
    let taken = std::mem::replace(ksp, Array::new(vec![0], Values::F32(Vec::new()))?);
    let (front, back) = dims.split_at(dims.len().saturating_sub(readouts.len()));
    if back == readouts && front.len() > 1 && coils.is_none() {
        let message = format!("samples of shape {all:?} are of several images");
        return Err(Error::scan(message, "choose one, as [coils, shots, samples]"));
    }
    if back == readouts || (dims.len() == 2 && dims[1] == shots * length) {
        let own = if back == readouts { front } else { &dims[..1] };
        let own: usize = own.iter().product();
        if coils.is_none_or(|coils| coils == own) {
            return Ok((own, numbers(taken)));
        }
        let message = format!("the maps are of {} coils, the samples of {own}", coils.unwrap_or(0));
        return Err(Error::scan(message, "were the coils compressed after the maps were made?"));
    }
    let message = format!(
        "samples of shape {all:?} do not fit a trajectory of {shots} shots of {length} samples"
    );
    let mut sorted = [dims.clone(), readouts.clone()];
    sorted.iter_mut().for_each(|dims| dims.sort_unstable());
    let hint = if readouts.iter().all(|n| dims.contains(n)) {
        "the order of axes must be [coils, shots, samples]; transpose them"
    } else if dims.iter().product::<usize>().is_multiple_of(shots * length) {
        "the number of samples fits, their shape does not: reshape them to [coils, shots, samples]"
    } else {
        "do the trajectory and the samples belong to the same scan, with the same readouts left out?"
    };
    Err(Error::scan(message, hint))
}

/// The times of a readout, from those of a readout or of all of them.
fn readout_times(times: Array, shots: usize, length: usize) -> Result<Vec<f64>> {
    let dims = times.dims().to_vec();
    let values = times.into_parts().1.into_f64().unwrap_or_default();
    if values.len() == length {
        return Ok(values);
    }
    if values.len() == shots * length {
        let first = &values[..length];
        let alike = |shot: &[f64]| {
            shot.iter().zip(first).all(|(a, b)| (a - b).abs() <= 1e-9 + 1e-6 * b.abs())
        };
        if values.chunks(length).all(alike) {
            return Ok(first.to_vec());
        }
        let hint =
            "times count from the excitation of each shot; subtract its start from each readout";
        return Err(Error::scan("the times of the shots differ", hint));
    }
    let message = format!("times of shape {dims:?} do not fit readouts of {length} samples");
    Err(Error::scan(message, "they must be seconds from the excitation, [samples]"))
}

fn reals(what: &str, array: Array, expected: &[usize]) -> Result<Vec<f64>> {
    let squeezed = |dims: &[usize]| dims.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    let dims = array.dims().to_vec();
    let values = array.into_parts().1.into_f64();
    let fits = squeezed(&dims) == squeezed(expected);
    values.filter(|_| fits).ok_or_else(|| {
        let message = format!("the {what} has the shape {dims:?}, not {expected:?}");
        Error::scan(message, "it must be real; is it another array, or transposed?")
    })
}

fn complex(what: &str, array: Array, expected: &[usize]) -> Result<Vec<Complex<f32>>> {
    let squeezed = |dims: &[usize]| dims.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    let dims = complex_dims(&array);
    if squeezed(&dims) != squeezed(expected) {
        let message = format!("the {what} have the shape {dims:?}, not {expected:?}");
        return Err(Error::scan(message, "are they of another scan, or transposed?"));
    }
    Ok(numbers(array))
}

/// A middle of k-space `[coils, sizes…]`.
fn region(array: Array, coils: usize, rank: usize) -> Result<(Vec<usize>, Vec<Complex<f32>>)> {
    let dims = complex_dims(&array);
    if dims.len() != rank + 1 || dims[0] != coils {
        let message = format!("the calibration has the shape {dims:?}");
        return Err(Error::scan(message, format!("it must be [{coils}, {rank} sizes]")));
    }
    Ok((dims[1..].to_vec(), numbers(array)))
}

/// Noise `[coils, any]`.
fn noise_samples(array: Array, coils: usize) -> Result<Vec<Complex<f32>>> {
    let dims = complex_dims(&array);
    if dims.first() != Some(&coils) {
        let message = format!("the noise has the shape {dims:?}");
        return Err(Error::scan(message, format!("its first axis must be the {coils} coils")));
    }
    Ok(numbers(array))
}
