//! Gridding by GRAPPA operators: kernels, geometry and training samples, in f64.

use limpid_mri::{
    Calibration, Complex, FieldShift, Geometry, GeometryConfig, GrappaOperators, Kernels,
    ReadoutInterpolation, exact_kernel, image_samples, kspace_samples,
};

use super::fixture::{Fixture, Outcome, Worst, absolute, text};
use super::mri::{Numbers, close, complex, dims, trajectory};

const CLOSE: f64 = 1e-9;

fn whole(values: &[f64]) -> Vec<usize> {
    values.iter().map(|&v| v as usize).collect()
}

/// `grappa_operator`: operators of one step, their powers, and samples that they move.
pub(super) fn operator(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (&coils, region) = dims(fixture, "kcal")?.split_first().ok_or("`kcal` has no coils")?;
    let kcal = complex(fixture, "kcal")?;
    let operators =
        GrappaOperators::fit(coils, region, &kcal, fixture.meta("lam")?).map_err(text)?;
    for axis in 0..region.len() {
        let name = format!("G{axis}");
        close(&mut worst, &name, &operators.power(axis, 1.0), &complex(fixture, &name)?, CLOSE);
    }
    close(&mut worst, "logG0", &operators.logarithm(0), &complex(fixture, "logG0")?, CLOSE);
    let powers = complex(fixture, "G0_pow")?;
    for (&p, expected) in fixture.values("powers")?.iter().zip(powers.chunks(coils * coils)) {
        close(&mut worst, "G0_pow", &operators.power(0, p), expected, CLOSE);
    }
    let (shifts, expected) = (fixture.values("shift")?, complex(fixture, "G_shift")?);
    for (shift, expected) in shifts.chunks(region.len()).zip(expected.chunks(coils * coils)) {
        close(&mut worst, "G_shift", &operators.shift(shift), expected, CLOSE);
    }
    let (trajectory, samples) = (trajectory(fixture, "trj")?, complex(fixture, "ksp")?);
    for name in fixture.names().filter_map(|name| name.strip_prefix("grid_os")) {
        let oversamp_grid = name.replace('p', ".").parse().map_err(text)?;
        let config = GeometryConfig {
            num_inputs: 1,
            kern_width: 0.0,
            oversamp_grid,
            ..GeometryConfig::default()
        };
        let times = vec![0.0; trajectory.samples()];
        let geometry = Geometry::new(&trajectory, &times, &config).map_err(text)?;
        let target = format!("target_os{name}");
        let expected = fixture.values(&target)?;
        worst.compare(&target, geometry.targets(), &expected, absolute(1e-12));
        let name = format!("grid_os{name}");
        let got: Numbers = operators.grid(&samples, &geometry).map_err(text)?;
        close(&mut worst, &name, &got, &complex(fixture, &name)?, CLOSE);
    }
    Ok(Outcome::Compared(worst))
}

/// What a name like `S5_kw2_os1.5_i1` says.
fn config(name: &str) -> Result<GeometryConfig, String> {
    let number = |prefix: &str| {
        let part = name.split('_').find_map(|part| part.strip_prefix(prefix)?.parse::<f64>().ok());
        part.ok_or_else(|| format!("`{name}` does not say `{prefix}`"))
    };
    let readout = match number("i")? {
        0.0 => ReadoutInterpolation::Nearest,
        _ => ReadoutInterpolation::Linear,
    };
    Ok(GeometryConfig {
        num_inputs: number("S")? as usize,
        kern_width: number("kw")?,
        oversamp_grid: number("os")?,
        readout,
        grid: true,
    })
}

/// `geometry`: sources and targets along readouts, and the values at the sources.
pub(super) fn geometry(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let (trajectory, times) = (trajectory(fixture, "trj")?, fixture.values("t")?);
    let mut interpolating = None;
    for name in fixture.names().filter_map(|name| name.strip_suffix(".dk")) {
        let config = config(name)?;
        let geometry = Geometry::new(&trajectory, &times, &config).map_err(text)?;
        let mut compare = |what: &str, got: &[f64]| -> Result<(), String> {
            let what = format!("{name}.{what}");
            worst.compare(&what, got, &fixture.values(&what)?, absolute(CLOSE));
            Ok(())
        };
        compare("dk", geometry.offsets())?;
        compare("idx", geometry.places())?;
        compare("src_t", geometry.times())?;
        compare("target", geometry.targets())?;
        if (config.num_inputs, config.oversamp_grid) == (5, 1.0) {
            interpolating = Some(config);
        }
    }
    let config = interpolating.ok_or("the file has no geometry of five sources")?;
    let samples = complex(fixture, "readout_ksp")?;
    for (readout, name) in [
        (ReadoutInterpolation::Nearest, "sampled_integer"),
        (ReadoutInterpolation::Linear, "sampled_up1_linear"),
        (ReadoutInterpolation::Upsampled, "sampled_up4_linear"),
    ] {
        let config = GeometryConfig { readout, ..config.clone() };
        let geometry = Geometry::new(&trajectory, &times, &config).map_err(text)?;
        let got = geometry.source_values(&samples).map_err(text)?;
        close(&mut worst, name, &got, &complex(fixture, name)?, CLOSE);
    }
    Ok(Outcome::Compared(worst))
}

/// `training_samples`, with the geometry of the file `geometry` beside it.
pub(super) fn samples(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let beside = Fixture::load(&fixture.path.with_file_name("geometry.safetensors"))?;
    let readout = ReadoutInterpolation::Upsampled;
    let config = GeometryConfig { readout, ..config("S5_kw2_os1_i1")? };
    let geometry = Geometry::new(&trajectory(&beside, "trj")?, &beside.values("t")?, &config);
    let geometry = geometry.map_err(text)?;
    let indices = whole(&fixture.values("geom_index")?);

    let (&coils, size) = dims(fixture, "mps")?.split_first().ok_or("`mps` has no coils")?;
    let maps = Calibration::new(coils, size, complex(fixture, "mps")?).map_err(text)?;
    let index = |at: &[usize]| at.iter().zip(size).fold(0, |index, (at, size)| index * size + at);
    let voxels: Vec<usize> =
        whole(&fixture.values("voxel")?).chunks(size.len()).map(index).collect();
    let plain = image_samples(&maps, &geometry, &indices, &voxels, None).map_err(text)?;
    let field = fixture.values("b0")?;
    let times = vec![fixture.meta("tau")?; indices.len()];
    let shift = FieldShift { field: &field, times: &times };
    let turned = image_samples(&maps, &geometry, &indices, &voxels, Some(shift)).map_err(text)?;

    let (&coils, size) = dims(fixture, "kcal")?.split_first().ok_or("`kcal` has no coils")?;
    let kcal = complex(fixture, "kcal")?;
    let kspace = Calibration::from_kspace(coils, size, kcal).map_err(text)?;
    let points = fixture.values("k_target")?;
    let basic = kspace_samples(&kspace, &geometry, &indices, &points).map_err(text)?;
    let pairs: [(&str, &[Complex<f64>]); 5] = [
        ("img_src", &plain.sources),
        ("img_trg", &plain.targets),
        ("img_src_field", &turned.sources),
        ("ksp_src", &basic.sources),
        ("ksp_trg", &basic.targets),
    ];
    for (name, got) in pairs {
        close(&mut worst, name, got, &complex(fixture, name)?, CLOSE);
    }
    Ok(Outcome::Compared(worst))
}

/// `closed_form`: kernels of least squares.
pub(super) fn closed_form(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let [_, sources, rank] = *fixture.shape("dk")? else { return Err("`dk` is flat".into()) };
    let (&coils, size) = dims(fixture, "mps")?.split_first().ok_or("`mps` has no coils")?;
    let maps = Calibration::new(coils, size, complex(fixture, "mps")?).map_err(text)?;
    let lam = fixture.meta("lam")?;
    let (unknowns, offsets) = (sources * coils, fixture.values("dk")?);
    let expected = ["AHA", "AHb", "kernel", "out"].map(|name| complex(fixture, name));
    let [normal, target, kernel, out] = expected;
    let (normal, target, kernel, out) = (normal?, target?, kernel?, out?);
    let values = complex(fixture, "src")?;
    for (m, offsets) in offsets.chunks(sources * rank).enumerate() {
        let got = exact_kernel(&maps, offsets, lam).map_err(text)?;
        let part = |all: &[Complex<f64>], len: usize| all[m * len..][..len].to_vec();
        let mut check = |what: &str, got: &[Complex<f64>], all: &[Complex<f64>]| {
            close(&mut worst, what, got, &part(all, got.len()), CLOSE);
        };
        check("AHA", &got.normal, &normal);
        check("AHb", &got.target, &target);
        check("kernel", &got.kernel, &kernel);
        let source = part(&values, unknowns);
        let moved: Numbers = got
            .kernel
            .chunks(unknowns)
            .map(|row| row.iter().zip(&source).map(|(w, v)| w * v).sum())
            .collect();
        check("out", &moved, &out);
    }
    Ok(Outcome::Compared(worst))
}
