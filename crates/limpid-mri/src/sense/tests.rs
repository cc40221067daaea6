//! Operators of operators against their definitions.

use super::*;
use crate::Weighted;
use crate::operator::tests::{check_adjoint, distance, random};
use crate::real::turn;

/// A matrix `[range, domain]`.
#[derive(Clone)]
pub(crate) struct Dense<T> {
    entries: Vec<Complex<T>>,
    domain: usize,
}

impl<T: Real> Dense<T> {
    pub(crate) fn random(seed: u64, range: usize, domain: usize) -> Self {
        Self { entries: random(seed, range * domain), domain }
    }

    /// The definition of samples of an image of the sizes `dims` at positions in cycles per field of view.
    pub(crate) fn fourier(positions: &[f64], dims: &[usize]) -> Self {
        let domain: usize = dims.iter().product();
        let scale = T::of((domain as f64).sqrt().recip());
        let entry = |k: &[f64], mut voxel: usize| {
            let mut phase = 0.0;
            for (&size, k) in dims.iter().zip(k).rev() {
                let r = (voxel % size) as f64 - (size / 2) as f64;
                phase -= k * r / size as f64;
                voxel /= size;
            }
            turn::<T>(phase).scale(scale)
        };
        let rows = positions.chunks(dims.len());
        let entries = rows.flat_map(|k| (0..domain).map(move |voxel| entry(k, voxel))).collect();
        Self { entries, domain }
    }
}

impl<T: Real> Operator<T> for Dense<T> {
    fn domain(&self) -> usize {
        self.domain
    }

    fn range(&self) -> usize {
        self.entries.len() / self.domain
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        for (sample, row) in samples.iter_mut().zip(self.entries.chunks(self.domain)) {
            *sample = row.iter().zip(image).map(|(a, x)| a * x).sum();
        }
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        image.fill(Complex::default());
        for (sample, row) in samples.iter().zip(self.entries.chunks(self.domain)) {
            image.iter_mut().zip(row).for_each(|(x, a)| *x = *x + a.conj() * sample);
        }
    }
}

/// `A x` of an operator.
pub(crate) fn apply<T: Real>(operator: &impl Operator<T>, image: &[Complex<T>]) -> Vec<Complex<T>> {
    let mut samples = vec![Complex::default(); operator.range()];
    operator.forward(image, &mut samples);
    samples
}

#[test]
fn coils_see_the_image_through_their_maps() {
    // more coils than are held at a time
    let (coils, dims, samples) = (19, [3, 4], 7);
    let (maps, image) = (random::<f64>(1, coils * 12), random(2, 12));
    let one = Dense::random(3, samples, 12);
    let sense = Sense::new(one.clone(), coils, &dims, maps.clone()).unwrap();
    assert_eq!((sense.coils(), sense.domain(), sense.range()), (coils, 12, coils * samples));
    let got = apply(&sense, &image);
    for (map, got) in maps.chunks(12).zip(got.chunks(samples)) {
        let seen: Vec<_> = map.iter().zip(&image).map(|(s, x)| s * x).collect();
        assert!(distance(got, &apply(&one, &seen)) < 1e-14);
    }
    check_adjoint(&sense, 1e-13);
    let narrow = Sense::new(Dense::<f32>::random(3, samples, 12), 2, &dims, random(1, 24)).unwrap();
    check_adjoint(&narrow, 1e-5);
}

#[test]
fn weights_stand_in_the_normal_equations() {
    let (image, one) = (random::<f64>(2, 6), Dense::random(3, 9, 6));
    let weights: Vec<f64> = (0..9).map(|i| i as f64 / 4.0).collect();
    let weighted = Weighted::new(one.clone(), weights.clone()).unwrap();
    check_adjoint(&weighted, 1e-13);
    let mut samples = apply(&one, &image);
    samples.iter_mut().zip(&weights).for_each(|(s, w)| *s *= w);
    let (mut expected, mut got) = (image.clone(), image.clone());
    one.adjoint(&samples, &mut expected);
    weighted.normal(&image, &mut got);
    assert!(distance(&got, &expected) < 1e-14);
    let mut measured = [apply(&one, &image), apply(&one, &image)].concat();
    weighted.weigh(&mut measured).unwrap();
    weighted.adjoint(&measured[9..], &mut got);
    assert!(distance(&got, &expected) < 1e-14);
    assert!(weighted.weigh(&mut measured[..8]).is_err());
}

#[test]
fn frames_are_sums_of_coefficients() {
    let (frames, coefficients, pixels) = (11, 3, 6);
    let operators: Vec<_> =
        (0..frames).map(|t| Dense::<f64>::random(t as u64, 2 + t % 3, pixels)).collect();
    let (basis, image) = (random(1, coefficients * frames), random(2, coefficients * pixels));
    let subspace = Subspace::new(operators.clone(), basis.clone()).unwrap();
    assert_eq!((subspace.coefficients(), subspace.domain()), (coefficients, 18));
    let mut expected = Vec::new();
    for (t, operator) in operators.iter().enumerate() {
        let value = |r: usize| {
            (0..coefficients).map(|k| basis[k * frames + t] * image[k * pixels + r]).sum()
        };
        expected.extend(apply(operator, &(0..pixels).map(value).collect::<Vec<_>>()));
    }
    assert!(distance(&apply(&subspace, &image), &expected) < 1e-14);
    check_adjoint(&subspace, 1e-13);
    // coils of frames of weighted samples
    let weighted = operators.into_iter().map(|o| {
        let weights = (0..o.range()).map(|i| 0.5 + i as f64).collect();
        Weighted::new(o, weights).unwrap()
    });
    let subspace = Subspace::new(weighted.collect(), basis).unwrap();
    let sense = Sense::new(subspace, 4, &[2, 3], random(5, 4 * pixels)).unwrap();
    check_adjoint(&sense, 1e-13);
}

#[test]
fn threads_change_no_bit() {
    let one = Dense::<f32>::random(3, 40, 60);
    let sense = Sense::new(one, 20, &[6, 10], random(4, 20 * 60)).unwrap();
    let (image, samples) = (random(5, 60), random(6, 800));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut out = [image.clone(), image.clone()];
            sense.adjoint(&samples, &mut out[0]);
            sense.normal(&image, &mut out[1]);
            out
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn refuses_what_does_not_fit() {
    let one = || Dense::<f64>::random(1, 5, 6);
    let error = |coils, dims: &[usize], maps| {
        Sense::new(one(), coils, dims, maps).err().expect("refused").to_string()
    };
    assert!(error(0, &[2, 3], vec![]).contains("one coil map or more"));
    assert!(error(2, &[2, 3], random(1, 11)).contains("11 values"));
    assert!(error(2, &[2, 2], random(1, 8)).contains("6 values"));
    let mut maps = random(1, 12);
    maps[7].im = f64::NAN;
    assert!(error(2, &[2, 3], maps).contains("the map of coil 1"));
    let error = |weights| Weighted::new(one(), weights).err().expect("refused").to_string();
    assert!(error(vec![1.0; 4]).contains("4 values"));
    assert!(error(vec![1.0, 1.0, 1.0, -1.0, 1.0]).contains("weight 3 is -1"));
    let error =
        |frames, basis| Subspace::<f64, _>::new(frames, basis).err().expect("refused").to_string();
    assert!(error(vec![], random(1, 2)).contains("one frame or more"));
    assert!(error(vec![one(), one()], random(1, 3)).contains("[K, 2]"));
    assert!(error(vec![one(), Dense::random(1, 5, 7)], random(1, 2)).contains("for frame 1"));
    let infinite = vec![Complex::new(f64::INFINITY, 0.0); 2];
    assert!(error(vec![one(), one()], infinite).contains("function 0"));
}
