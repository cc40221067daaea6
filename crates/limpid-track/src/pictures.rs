//! Pictures of a run: grey panels side by side as PNG files.

use image::{GrayImage, ImageEncoder as _, Luma, codecs::png::PngEncoder};
use limpid_engine::{Event, Picture, Sink};
use std::path::{Path, PathBuf};

/// Pixels between panels.
const GAP: u32 = 4;

/// Writes pictures to `samples/` of a run directory, one folder per validation.
#[derive(Debug)]
pub struct Pictures {
    dir: PathBuf,
}

impl Pictures {
    /// Pictures of a run directory.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self { dir: run.join("samples") }
    }
}

impl Sink for Pictures {
    fn event(&mut self, event: &Event) {
        if let Event::Picture { step, set, picture } = event {
            let dir = self.dir.join(format!("step-{step:09}"));
            let safe: String = format!("{set}-{}", picture.name)
                .chars()
                .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' })
                .collect();
            // a picture that cannot be written is not worth stopping a run for
            if std::fs::create_dir_all(&dir).is_ok()
                && let Some(bytes) = side_by_side(picture)
            {
                let _ = limpid_io::atomic::write_bytes(dir.join(format!("{safe}.png")), &bytes);
            }
        }
    }
}

/// The panels of a picture side by side, as PNG.
fn side_by_side(picture: &Picture) -> Option<Vec<u8>> {
    let [h, w] = picture.size.map(|n| n as u32);
    let n = u32::try_from(picture.panels.len()).ok().filter(|n| *n > 0)?;
    let mut out = GrayImage::from_pixel(n * w + (n - 1) * GAP, h, Luma([255]));
    for (i, (_, pixels)) in (0u32..).zip(&picture.panels) {
        for (p, v) in (0u32..).zip(pixels) {
            let grey = Luma([to_grey(*v, picture.window)]);
            out.put_pixel(i * (w + GAP) + p % w, p / w, grey);
        }
    }
    encode(&out)
}

/// A row-major image of `[height, width]` as PNG, `window` shown black and white.
#[must_use]
pub fn png(pixels: &[f32], size: [usize; 2], window: [f32; 2]) -> Option<Vec<u8>> {
    let bytes = pixels.iter().map(|v| to_grey(*v, window)).collect();
    encode(&GrayImage::from_raw(size[1] as u32, size[0] as u32, bytes)?)
}

fn to_grey(v: f32, [low, high]: [f32; 2]) -> u8 {
    let span = if high > low { high - low } else { 1.0 };
    // what is not a number becomes black
    ((v - low) / span * 255.0).round().clamp(0.0, 255.0) as u8
}

fn encode(image: &GrayImage) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(image.as_raw(), image.width(), image.height(), image::ExtendedColorType::L8)
        .ok()?;
    Some(bytes)
}
