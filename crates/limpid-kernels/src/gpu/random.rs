//! Operations on shapes that are drawn, for what nobody thought of.

use super::cases::Case;
use crate::rng::{Draws, Stream};
use crate::{Activation, ConvSpec, ConvTransposeSpec, Pad, PoolSpec, Resize};

const EPS: f64 = 1e-5;

/// How many cases are drawn.
const DRAWN: usize = 120;

/// Cases whose shapes the seed determines; the name of each has them.
#[must_use]
pub fn random_cases(seed: u64) -> Vec<Case> {
    const KINDS: [fn(&mut Shapes) -> Case; 12] = [
        convolution,
        transposed,
        normalised,
        of_rows,
        pooled,
        resized,
        padded,
        attended,
        multiplied,
        joined,
        activated,
        dropped,
    ];
    let case = |i: usize| {
        let mut shapes = Shapes(Stream::new(seed, "gpu shapes").at(0, i as u64).draws());
        KINDS[i % KINDS.len()](&mut shapes)
    };
    (0..DRAWN).map(case).collect()
}

/// Draws sizes.
struct Shapes(Draws);

impl Shapes {
    /// From `least` to `most`.
    fn size(&mut self, least: usize, most: usize) -> usize {
        least + self.0.below((most - least + 1) as u64) as usize
    }

    fn sizes(&mut self, count: usize, least: usize, most: usize) -> Vec<usize> {
        (0..count).map(|_| self.size(least, most)).collect()
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.size(0, of.len() - 1)]
    }

    /// Channels: any, or whole packs of eight, which have kernels of their own.
    fn channels(&mut self) -> usize {
        if self.0.chance(0.5) { 8 * self.size(1, 4) } else { self.size(1, 13) }
    }

    /// `[N, C, s..]` with fewer pixels in each dimension the more there are, odd more often than not.
    fn image(&mut self, channels: usize) -> Vec<usize> {
        let rank = self.size(1, 3);
        let mut shape = vec![self.size(1, 3), channels];
        let most = [700, 40, 12][rank - 1];
        for _ in 0..rank {
            let size = self.size(4, most);
            shape.push(if self.0.chance(0.5) { size | 1 } else { size });
        }
        shape
    }

    fn activation(&mut self) -> Activation {
        self.one_of(&[
            Activation::Identity,
            Activation::Relu,
            Activation::LeakyRelu { slope: 0.2 },
            Activation::Silu,
            Activation::Gelu,
            Activation::Tanh,
        ])
    }
}

fn convolution(s: &mut Shapes) -> Case {
    let groups = s.one_of(&[1, 1, 1, 2, 3]);
    let (inputs, outputs) = match groups {
        1 => (s.channels(), s.channels()),
        _ => (groups * s.size(1, 4), groups * s.size(1, 4)),
    };
    let image = s.image(inputs);
    let rank = image.len() - 2;
    // of four pixels and more in each dimension
    let kernel = s.sizes(rank, 1, 4);
    let dilation = kernel
        .iter()
        .zip(&image[2..])
        .map(|(k, n)| if 2 * (k - 1) < *n { s.size(1, 2) } else { 1 });
    let dilation = dilation.collect();
    let padding = kernel.iter().map(|k| s.size(0, k - 1)).collect();
    let spec = ConvSpec { stride: s.sizes(rank, 1, 3), padding, dilation, groups };
    let weight = [&[outputs, inputs / groups], kernel.as_slice()].concat();
    let name = format!("random conv {image:?} by {weight:?}, {spec:?}");
    Case::new(name, &[&image, &weight, &[outputs]], move |x| {
        crate::conv(&x[0], &x[1], Some(&x[2]), &spec)
    })
    .rounded()
}

fn transposed(s: &mut Shapes) -> Case {
    let (inputs, outputs) = (s.channels(), s.channels());
    let mut image = s.image(inputs);
    image[2..].iter_mut().for_each(|n| *n = n.div_ceil(2));
    let rank = image.len() - 2;
    let kernel = s.sizes(rank, 1, 4);
    let stride = s.sizes(rank, 1, 3);
    let spec = ConvTransposeSpec {
        padding: kernel.iter().map(|k| s.size(0, k / 2)).collect(),
        output_padding: stride.iter().map(|n| s.size(0, n - 1)).collect(),
        stride,
        ..ConvTransposeSpec::unit(rank)
    };
    let weight = [&[inputs, outputs], kernel.as_slice()].concat();
    let name = format!("random conv_transpose {image:?} by {weight:?}, {spec:?}");
    Case::new(name, &[&image, &weight, &[outputs]], move |x| {
        crate::conv_transpose(&x[0], &x[1], Some(&x[2]), &spec)
    })
    .rounded()
}

fn normalised(s: &mut Shapes) -> Case {
    let groups = s.size(1, 4);
    let channels = groups * s.one_of(&[1, 2, 3, 8]);
    let mut image = s.image(channels);
    // of few pixels there is nothing but rounding left
    image[2] += 8;
    let f = s.activation();
    let parameters: &[usize] = &[channels];
    let (shapes, is_bare) = ([image.as_slice(), parameters, parameters], s.0.chance(0.2));
    let shapes = if is_bare { &shapes[..1] } else { &shapes[..] };
    match s.size(0, 2) {
        0 => Case::new(
            format!("random group_norm of {groups}, {f:?}, {image:?}"),
            shapes,
            move |x| crate::group_norm_act(&x[0], groups, x.get(1), x.get(2), EPS, f),
        ),
        1 => Case::new(format!("random instance_norm, {f:?}, {image:?}"), shapes, move |x| {
            crate::instance_norm_act(&x[0], x.get(1), x.get(2), EPS, f)
        }),
        _ => Case::new(format!("random batch_norm, {f:?}, {image:?}"), shapes, move |x| {
            Ok(crate::batch_norm_train_act(&x[0], x.get(1), x.get(2), EPS, f)?.0)
        }),
    }
}

fn of_rows(s: &mut Shapes) -> Case {
    let width = s.size(9, 700);
    let count = s.size(1, 2);
    let rows = s.sizes(count, 3, 9);
    let shape = [rows.as_slice(), &[width]].concat();
    let dim = s.size(0, shape.len() - 1);
    match s.size(0, 2) {
        0 => {
            Case::new(format!("random layer_norm {shape:?}"), &[&shape, &[width], &[width]], |x| {
                crate::layer_norm(&x[0], 1, Some(&x[1]), Some(&x[2]), EPS)
            })
        }
        1 => Case::new(format!("random softmax {shape:?} over {dim}"), &[&shape], move |x| {
            crate::softmax(&x[0], dim)
        }),
        _ => Case::new(format!("random log_softmax {shape:?} over {dim}"), &[&shape], move |x| {
            crate::log_softmax(&x[0], dim)
        }),
    }
}

fn pooled(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let image = s.image(channels);
    let rank = image.len() - 2;
    let kernel = s.sizes(rank, 1, 4);
    let padding = kernel.iter().map(|k| s.size(0, k / 2)).collect();
    let spec = PoolSpec { stride: s.sizes(rank, 1, 3), padding, kernel };
    let (is_max, counts) = (s.0.chance(0.5), s.0.chance(0.5));
    let what = if is_max { "max_pool" } else { "avg_pool" };
    Case::new(format!("random {what} {image:?}, {spec:?}"), &[&image], move |x| match is_max {
        true => crate::max_pool(&x[0], &spec),
        false => crate::avg_pool(&x[0], &spec, counts),
    })
}

fn resized(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let image = s.image(channels);
    let size: Vec<usize> = image[2..].iter().map(|n| s.size(1, 2 * n)).collect();
    let mode = s.one_of(&[
        Resize::Nearest,
        Resize::Linear { align_corners: false },
        Resize::Linear { align_corners: true },
        Resize::Cubic { align_corners: false },
        Resize::LinearSmoothed,
    ]);
    let name = format!("random resize {mode:?} of {image:?} to {size:?}");
    Case::new(name, &[&image], move |x| crate::resize(&x[0], &size, mode))
}

fn padded(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let image = s.image(channels);
    let amounts: Vec<(usize, usize)> =
        image[2..].iter().map(|_| (s.size(0, 3), s.size(0, 3))).collect();
    let mode = s.one_of(&[Pad::Zero, Pad::Constant(0.5), Pad::Reflect, Pad::Replicate]);
    let name = format!("random pad {mode:?} of {image:?} by {amounts:?}");
    Case::new(name, &[&image], move |x| crate::pad(&x[0], &amounts, mode))
}

fn attended(s: &mut Shapes) -> Case {
    let count = s.size(1, 2);
    let leading = s.sizes(count, 1, 3);
    let (queries, keys) = (s.size(2, 140), s.size(3, 140));
    let (width, of_values) = (s.size(2, 80), s.size(1, 80));
    let shape = |rows, columns| [leading.as_slice(), &[rows, columns]].concat();
    let (q, k, v) = (shape(queries, width), shape(keys, width), shape(keys, of_values));
    let bias = shape(queries, keys);
    let shapes: [&[usize]; 4] = [&q, &k, &v, &bias];
    let has_bias = s.0.chance(0.5);
    let scale = 1.0 / (width as f64).sqrt();
    let name =
        format!("random attention {q:?} to {v:?}{}", if has_bias { " with a bias" } else { "" });
    Case::new(name, if has_bias { &shapes } else { &shapes[..3] }, move |x| {
        crate::attention(&x[0], &x[1], &x[2], scale, x.get(3))
    })
    .range(-2.0, 2.0)
}

fn multiplied(s: &mut Shapes) -> Case {
    let count = s.size(0, 2);
    let leading = s.sizes(count, 1, 4);
    let [rows, inner, columns] = [s.size(1, 90), s.size(1, 90), s.size(1, 90)];
    let a = [leading.as_slice(), &[rows, inner]].concat();
    let b = [leading.as_slice(), &[inner, columns]].concat();
    let name = format!("random matmul {a:?} by {b:?}");
    Case::new(name, &[&a, &b], |x| crate::matmul(&x[0], &x[1])).rounded()
}

fn joined(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let first = s.image(channels);
    let mut second = first.clone();
    second[1] = s.channels();
    let from = s.size(0, first[1] - 1);
    let count = s.size(1, first[1] + second[1] - from);
    let name = format!("random parts {from}, {count} of {first:?} and {second:?}");
    Case::new(name, &[&first, &second], move |x| {
        crate::narrow(&crate::cat(&[&x[0], &x[1]], 1)?, 1, from, count)
    })
}

fn activated(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let image = s.image(channels);
    let f = s.activation();
    let name = format!("random {f:?} after a shift of {image:?}");
    Case::new(name, &[&image, &[image[0], channels]], move |x| {
        f.apply(&crate::add_to_channels(&x[0], &x[1])?)
    })
}

fn dropped(s: &mut Shapes) -> Case {
    let channels = s.channels();
    let image = s.image(channels);
    let (p, stream) = (s.0.range(0.1, 0.9), Stream::new(s.0.u64(), "dropout"));
    let of_channels = s.0.chance(0.3);
    let name = format!("random dropout by {p:.2} of {image:?}, {of_channels}");
    Case::new(name, &[&image], move |x| match of_channels {
        true => crate::dropout_channels(&x[0], p, stream),
        false => crate::dropout(&x[0], p, stream),
    })
}
