//! Registration of real micrographs that were moved by known amounts.

use super::*;
use std::path::Path;

/// A slice of a real volume, or says that it is absent and returns `None`.
fn micrograph(name: &str, slice: usize) -> Option<(Vec<f64>, [usize; 2])> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/em");
    let Ok(reader) = limpid_io::open(folder.join(name)) else {
        #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("skipped: no image `{name}` in `{}`", folder.display());
        }
        return None;
    };
    let shape = &reader.info().shape;
    let shape = [shape[shape.len() - 2], shape[shape.len() - 1]];
    let values = reader.read().unwrap().data.to_f32();
    let image = values.chunks(shape[0] * shape[1]).nth(slice).unwrap();
    Some((image.iter().map(|v| f64::from(*v)).collect(), shape))
}

const TISSUE: &str = "fib25_training_sample1_10nm_250x250x250_u8.tif";
const BRAIN: &str = "brain_sem_noisy_3.3nm_1600x1600_u16.tif";

/// Numbers of mean 0 and deviation 1, by counting.
fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..n).map(|_| normal()).collect()
}

/// The image as counts of `dose` electrons in the mean pixel (in the normal limit), with another
/// brightness and contrast.
fn exposed(image: &[f64], dose: f64, seed: u64) -> Vec<f64> {
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    let count = |(v, z): (&f64, f64)| {
        let counts = v / mean * dose;
        300.0 + 25.0 * (counts + counts.sqrt() * z)
    };
    image.iter().zip(noise(image.len(), seed)).map(count).collect()
}

fn crop(image: &[f64], width: usize, [y, x]: [usize; 2], [h, w]: [usize; 2]) -> Vec<f64> {
    (y..y + h).flat_map(|y| &image[y * width + x..][..w]).copied().collect()
}

/// Means of `n`×`n` pixels.
fn bin(image: &[f64], [h, w]: [usize; 2], n: usize) -> Vec<f64> {
    let mean = |y: usize, x: usize| -> f64 {
        crop(image, w, [y * n, x * n], [n, n]).iter().sum::<f64>() / (n * n) as f64
    };
    (0..h / n).flat_map(|y| (0..w / n).map(move |x| mean(y, x))).collect()
}

fn off(shift: &Shift, [y, x]: [f64; 2]) -> f64 {
    (shift.y - y).abs().max((shift.x - x).abs())
}

#[test]
fn phase_correlation_finds_whole_and_broken_shifts() {
    let Some((image, [h, w])) = micrograph(TISSUE, 100) else { return };
    for [y, x] in [[0, 0], [3, 8], [40, 17], [9, 75]] {
        let size = [h - 75, w - 75];
        let (a, b) = (crop(&image, w, [y, x], size), crop(&image, w, [0, 0], size));
        // what `a` shows at p lies in `b` at p + (y, x)
        for (fixed, moving, sign) in [(&a, &b, 1.0), (&b, &a, -1.0)] {
            let found = phase_correlation(fixed, moving, size).unwrap();
            assert!(off(&found, [sign * y as f64, sign * x as f64]) < 0.02, "{y} {x}: {found:?}");
            assert!(found.peak > 0.9, "{found:?}");
        }
    }
    // an image whose pixels are means of 4×4 is moved by quarters of a pixel
    let Some((image, [h, w])) = micrograph(BRAIN, 0) else { return };
    let size = [h - 128, w - 128];
    for [y, x] in [[1, 2], [5, 2], [63, 37], [3, 126]] {
        let [a, b] = [[y, x], [0, 0]].map(|at| bin(&crop(&image, w, at, size), size, 4));
        let found = phase_correlation(&a, &b, size.map(|n| n / 4)).unwrap();
        let truth = [y, x].map(|v| v as f64 / 4.0);
        assert!(off(&found, truth) < 0.1, "{truth:?}: {found:?}");
    }
}

#[test]
fn phase_correlation_bears_noise_and_knows_strangers() {
    let Some((image, [_, w])) = micrograph(TISSUE, 100) else { return };
    let size = [200, 200];
    let fixed = crop(&image, w, [20, 9], size);
    let mut least = f64::INFINITY;
    for seed in 0..8 {
        let moving = exposed(&crop(&image, w, [0, 30], size), 10.0, seed);
        let found = phase_correlation(&fixed, &moving, size).unwrap();
        assert!(off(&found, [20.0, -21.0]) < 0.1, "{found:?}");
        least = least.min(found.peak);
    }
    let stranger = noise(size[0] * size[1], 77);
    let found = phase_correlation(&fixed, &stranger, size).unwrap();
    assert!(found.peak < 0.5 * least, "{found:?} against {least}");
    let flat = phase_correlation(&fixed, &vec![3.0; 40_000], size).unwrap();
    assert_eq!(flat, Shift { y: 0.0, x: 0.0, peak: 0.0 });
}

/// Turn by `degrees`, growth and shift about the middle of an image.
fn similar(shape: [usize; 2], degrees: f64, growth: f64, shift: [f64; 2]) -> [[f64; 3]; 2] {
    let (s, c) = degrees.to_radians().sin_cos();
    let [cy, cx] = shape.map(|n| (n as f64 - 1.0) / 2.0);
    let (s, c) = (s * growth, c * growth);
    [
        [c, s, cy + shift[0] - c * cy - s * cx],
        [-s, 1.01 * c, cx + shift[1] + s * cy - 1.01 * c * cx],
    ]
}

/// The largest distance between what two maps do to an image's corners.
fn apart(a: &[[f64; 3]; 2], b: &[[f64; 3]; 2], [h, w]: [usize; 2]) -> f64 {
    let corners = [[0, 0], [0, w], [h, 0], [h, w]].map(|c| c.map(|v| v as f64));
    let distance = |[y, x]: [f64; 2]| {
        let [p, q] = [a, b].map(|m| apply_affine(m, y, x));
        (p[0] - q[0]).hypot(p[1] - q[1])
    };
    corners.map(distance).into_iter().fold(0.0, f64::max)
}

const REST: [[f64; 3]; 2] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];

#[test]
fn affine_registration_finds_the_map() {
    let Some((image, shape)) = micrograph(TISSUE, 60) else { return };
    for (degrees, growth, shift) in
        [(0.0, 1.0, [0.0; 2]), (2.0, 1.02, [3.3, -4.7]), (-4.0, 0.97, [-6.0, 2.5])]
    {
        let truth = similar(shape, degrees, growth, shift);
        let (fixed, _) = warp_affine(&image, shape, shape, &truth, Border::Reflect).unwrap();
        let clean = affine_registration(&fixed, &image, shape, REST, 4).unwrap();
        assert!(clean.converged && clean.correlation > 0.99, "{clean:?}");
        assert!(apart(&clean.matrix, &truth, shape) < 0.02, "{clean:?}");
        let noisy = exposed(&image, 10.0, 5);
        let noisy = affine_registration(&fixed, &noisy, shape, REST, 4).unwrap();
        assert!(noisy.converged && noisy.correlation < clean.correlation, "{noisy:?}");
        assert!(apart(&noisy.matrix, &truth, shape) < 0.35, "{noisy:?}");
    }
}

#[test]
fn affine_registration_returns_to_its_start_where_there_is_nothing_to_find() {
    let Some((image, shape)) = micrograph(TISSUE, 60) else { return };
    let start = similar(shape, 1.0, 1.0, [2.0, 0.0]);
    let flat = vec![7.0; image.len()];
    let far = [[1.0, 0.0, 1e4], [0.0, 1.0, 0.0]];
    for (moving, start) in [(&flat, start), (&image, far)] {
        let fit = affine_registration(&image, moving, shape, start, 3).unwrap();
        assert_eq!((fit.matrix, fit.converged, fit.correlation), (start, false, 0.0));
    }
}

/// A smooth flow of up to `amplitude` pixels, with waves of `length` pixels.
fn waves([h, w]: [usize; 2], amplitude: f64, length: f64) -> [Vec<f64>; 2] {
    let k = std::f64::consts::TAU / length;
    let at = |i: usize| ((i / w) as f64, (i % w) as f64);
    let down = |i| amplitude * (k * (at(i).1 + 0.3 * at(i).0)).sin();
    let right = |i| amplitude * (k * (at(i).0 - 0.2 * at(i).1) + 1.0).cos();
    [(0..h * w).map(down).collect(), (0..h * w).map(right).collect()]
}

/// Mean distance of two flows.
fn mean_error(a: &[Vec<f64>; 2], b: &[Vec<f64>; 2]) -> f64 {
    let n = a[0].len();
    (0..n).map(|i| (a[0][i] - b[0][i]).hypot(a[1][i] - b[1][i])).sum::<f64>() / n as f64
}

/// The image, and how it looks through a flow: what `optical_flow` should find.
fn moved(amplitude: f64, length: f64) -> Option<(Vec<f64>, Vec<f64>, [usize; 2], [Vec<f64>; 2])> {
    let (image, shape) = micrograph(TISSUE, 150)?;
    let flow = waves(shape, amplitude, length);
    let (fixed, _) = warp(&image, shape, [&flow[0], &flow[1]], Border::Reflect).unwrap();
    Some((fixed, image, shape, flow))
}

#[test]
fn optical_flow_finds_smooth_ways() {
    for (amplitude, length, most) in [(0.0, 100.0, 1e-9), (2.0, 120.0, 0.1), (6.0, 250.0, 0.1)] {
        let Some((fixed, moving, shape, truth)) = moved(amplitude, length) else { return };
        let found = optical_flow(&fixed, &moving, shape, &FlowConfig::default()).unwrap();
        let error = mean_error(&found, &truth);
        assert!(error <= most, "{amplitude} px over {length} px: {error}");
    }
}

#[test]
fn optical_flow_bears_noise_and_contrast() {
    let Some((fixed, moving, shape, truth)) = moved(3.0, 150.0) else { return };
    for (dose, most) in [(100.0, 0.15), (10.0, 0.3)] {
        let noisy = exposed(&moving, dose, 3);
        let found = optical_flow(&fixed, &noisy, shape, &FlowConfig::default()).unwrap();
        let error = mean_error(&found, &truth);
        assert!(error < most, "dose {dose}: {error}");
    }
    // brightness and contrast alone change nothing
    let plain = optical_flow(&fixed, &moving, shape, &FlowConfig::default()).unwrap();
    let other: Vec<f64> = moving.iter().map(|v| 900.0 - 3.0 + 12.5 * v).collect();
    let same = optical_flow(&fixed, &other, shape, &FlowConfig::default()).unwrap();
    assert!(mean_error(&plain, &same) < 1e-6);
}

#[test]
fn inverted_flows_lead_back() {
    let shape = [60, 80];
    let flow = waves(shape, 3.0, 50.0);
    let back = invert_flow([&flow[0], &flow[1]], shape).unwrap();
    let [down, right] = [0, 1].map(|a| {
        // what the flow says at the place that the inverse leads to, which may lie outside
        warp(&flow[a], shape, [&back[0], &back[1]], Border::Nearest).unwrap().0
    });
    let mut worst = 0.0f64;
    for i in 0..shape[0] * shape[1] {
        let (y, x) = (i / shape[1], i % shape[1]);
        if (5..55).contains(&y) && (5..75).contains(&x) {
            worst = worst.max((down[i] + back[0][i]).hypot(right[i] + back[1][i]));
        }
    }
    assert!(worst < 0.02, "{worst}"); // cubic here, linear there
    let rest = vec![0.0; 4800];
    let shift = vec![1.25; 4800];
    let back = invert_flow([&shift, &rest], shape).unwrap();
    assert!(back[0].iter().all(|v| *v == -1.25) && back[1].iter().all(|v| *v == 0.0));
}

#[test]
fn images_without_structure_do_not_move() {
    let shape = [40, 50];
    let (flat, wild) = (vec![2.0; 2000], noise(2000, 1));
    for (fixed, moving) in [(&flat, &flat), (&flat, &wild), (&wild, &flat)] {
        let [down, right] = optical_flow(fixed, moving, shape, &FlowConfig::default()).unwrap();
        assert!(down.iter().chain(&right).all(|v| v.abs() < 1e-9));
    }
}

#[test]
fn warping_is_exact_for_parabolas_and_at_rest() {
    let shape = [12, 17];
    let place = |i: usize| ((i / 17) as f64, (i % 17) as f64);
    let parabola =
        |(y, x): (f64, f64)| 1.0 + 2.0 * y - x + 0.5 * y * y - 0.25 * x * x + 0.1 * x * y;
    let image: Vec<f64> = (0..204).map(|i| parabola(place(i))).collect();
    let rest = vec![0.0; 204];
    let (same, inside) = warp(&image, shape, [&rest, &rest], Border::Reflect).unwrap();
    assert!(same == image && inside.iter().all(|i| *i));

    let (down, right) = (vec![0.3; 204], vec![-1.6; 204]);
    let (moved, inside) = warp(&image, shape, [&down, &right], Border::Reflect).unwrap();
    let mut known = 0;
    for i in 0..204 {
        let (y, x) = (place(i).0 + 0.3, place(i).1 - 1.6);
        assert_eq!(inside[i], y <= 11.0 && x >= 0.0);
        if (1.0..10.0).contains(&y) && (1.0..15.0).contains(&x) {
            assert!((moved[i] - parabola((y, x))).abs() < 1e-12);
            known += 1;
        }
    }
    assert!(known > 90);
    let (outside, _) = warp_affine(
        &image,
        shape,
        [2, 3],
        &[[1.0, 0.0, 100.0], [0.0, 1.0, 0.0]],
        Border::Constant(7.0),
    )
    .unwrap();
    assert_eq!(outside, [7.0; 6]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let Some((fixed, moving, shape, _)) = moved(2.0, 120.0) else { return };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let shift = phase_correlation(&fixed, &moving, shape).unwrap();
            let fit = affine_registration(&fixed, &moving, shape, REST, 3).unwrap();
            (shift, fit, optical_flow(&fixed, &moving, shape, &FlowConfig::default()).unwrap())
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    let shape = [40, 40];
    let good = noise(1600, 2);
    let mut nan = good.clone();
    nan[45] = f64::NAN;
    let config = FlowConfig::default();
    let phase = |m: &[f64], s| phase_correlation(&good, m, s).unwrap_err().to_string();
    let flow =
        |m: &[f64], c: &FlowConfig| optical_flow(&good, m, shape, c).unwrap_err().to_string();
    let affine = |start, levels| {
        affine_registration(&good, &good, shape, start, levels).unwrap_err().to_string()
    };
    for (error, told) in [
        (phase(&nan, shape), "holds NaN at [1, 5]"),
        (phase(&good[1..], shape), "got 1599 values for shape [40, 40]"),
        (phase(&good, [1600, 1]), "expected at least 16 rows and columns"),
        (phase(&good, [usize::MAX, 2]), "as many values"),
        (flow(&nan, &config), "optical_flow: the image holds NaN"),
        (flow(&good, &FlowConfig { window: 0.0, ..config.clone() }), "`window`"),
        (flow(&good, &FlowConfig { damping: f64::NAN, ..config.clone() }), "`damping`"),
        (flow(&good, &FlowConfig { levels: 0, ..config.clone() }), "`levels`"),
        (affine(REST, 0), "`levels` must be at least 1"),
        (affine([[f64::INFINITY; 3]; 2], 1), "`start`"),
        (
            warp(&good, shape, [&nan, &good], Border::Reflect).unwrap_err().to_string(),
            "warp: the image holds NaN",
        ),
        (
            resample(&good, shape, [1, 1], |_, _| [f64::INFINITY, 0.0], Border::Reflect)
                .unwrap_err()
                .to_string(),
            "pixel [0, 0] is sent to",
        ),
    ] {
        assert!(error.contains(told), "`{error}` does not tell `{told}`");
    }
}
