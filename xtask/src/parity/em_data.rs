//! The data of EMDiffuse: bytes as Pillow turns, blurs and resizes them, the items of its datasets
//! made from the files beside the fixture, and its grids of patches.

use std::collections::BTreeMap;
use std::path::PathBuf;

use limpid_classical::{from_u8, pillow_blur, pillow_resize, pillow_rotate90, to_u8};
use limpid_datamodule::em_reference as reference;
use limpid_datamodule::normalise::{NormalisationConfig, Normaliser, Normalisers};
use limpid_datamodule::predict::Input;
use limpid_datamodule::split::torch_split;
use limpid_engine::infer::Source;
use limpid_io::{Region, VolumeReader, list_images, open, open_stack};
use serde_json::Value;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, text, values};

/// Bytes are equal or wrong.
const EXACT: Tolerance = absolute(0.0);
/// One rounding of f32 in -1…1.
const ROUNDED: Tolerance = absolute(1e-7);
/// The radius of the blur that the reference trains with.
const RADIUS: f64 = 3.0;
/// The seed of its splits.
const SEED: i64 = -1;

/// A grey image of bytes.
struct Image {
    data: Vec<u8>,
    shape: [usize; 2],
}

impl Image {
    fn of(fixture: &Fixture, name: &str) -> Result<Self, String> {
        let data = fixture.values(name)?.into_iter().map(|v| v as u8).collect();
        match fixture.shape(name)? {
            [rows, columns] => Ok(Self { data, shape: [*rows, *columns] }),
            shape => Err(format!("`{name}` has the shape {shape:?}, it is no image")),
        }
    }

    /// `ImageOps.flip`: top to bottom.
    fn flipped(mut self) -> Self {
        self.data = self.data.rchunks(self.shape[1]).flatten().copied().collect();
        self
    }

    fn turned(mut self) -> Result<Self, String> {
        self.data = pillow_rotate90(&self.data, self.shape).map_err(text)?;
        Ok(self)
    }

    fn blurred(mut self) -> Result<Self, String> {
        self.data = pillow_blur(&self.data, self.shape, RADIUS).map_err(text)?;
        Ok(self)
    }

    fn resized(mut self, shape: [usize; 2]) -> Result<Self, String> {
        self.data = pillow_resize(&self.data, self.shape, shape).map_err(text)?;
        self.shape = shape;
        Ok(self)
    }

    fn matches(&self, worst: &mut Worst, fixture: &Fixture, name: &str) -> Result<(), String> {
        worst.require(&format!("{name}: shape"), self.shape[..] == *fixture.shape(name)?);
        bytes(worst, name, &self.data, fixture)
    }
}

/// Compares bytes one by one.
fn bytes(worst: &mut Worst, name: &str, got: &[u8], fixture: &Fixture) -> Result<(), String> {
    let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
    worst.compare(name, &got, &fixture.values(name)?, EXACT);
    Ok(())
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// `image_ops`: what Pillow and torchvision do to bytes.
pub(super) fn image_ops(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for name in fixture.names().filter_map(|name| name.strip_prefix("out.")) {
        let result = format!("out.{name}");
        let part: Vec<&str> = name.split('.').collect();
        match &part[..] {
            ["resize", image, sizes] => {
                let unknown = || format!("`{result}` does not name its sizes");
                let (from, to) = sizes.split_once('_').ok_or_else(unknown)?;
                let (rows, columns) = to.split_once('x').ok_or_else(unknown)?;
                let size = |text: &str| text.parse::<usize>().map_err(|_| unknown());
                let size = [size(rows)?, size(columns)?];
                let image = Image::of(fixture, &format!("in.resize.{image}.{from}"))?;
                image.resized(size)?.matches(&mut worst, fixture, &result)?;
            }
            ["u16", how @ ..] => sixteen_bits(fixture, &mut worst, &result, how)?,
            ["tensor2img"] => {
                let input: Vec<f32> =
                    fixture.values("in.tensor2img")?.into_iter().map(|v| v as f32).collect();
                bytes(&mut worst, &result, &to_u8(&input), fixture)?;
            }
            [kind @ ("aug2d" | "aug3d"), bits, which] => {
                let bits = bits.parse().map_err(|_| format!("no draws in `{result}`"))?;
                let image = augmented(fixture, kind, bits, which)?;
                image.matches(&mut worst, fixture, &result)?;
            }
            [image, operation] => {
                let image = Image::of(fixture, &format!("in.{image}"))?;
                match *operation {
                    "flip" => image.flipped(),
                    "rotate90" => image.turned()?,
                    "gaussian_blur_r3" => image.blurred()?,
                    "tensor" => {
                        let got = wide(&from_u8(&image.data));
                        worst.compare(&result, &got, &fixture.values(&result)?, EXACT);
                        continue;
                    }
                    _ => return Err(format!("`{result}` is of no operation that we know")),
                }
                .matches(&mut worst, fixture, &result)?;
            }
            _ => return Err(format!("`{result}` is of no operation that we know")),
        }
    }
    worst.done()
}

/// The ways from 16 bits to 8.
fn sixteen_bits(
    fixture: &Fixture,
    worst: &mut Worst,
    result: &str,
    how: &[&str],
) -> Result<(), String> {
    /// Side of the block that the reference cropped.
    const BLOCK: usize = 20;
    let values: Vec<u16> = fixture.values("in.u16")?.into_iter().map(|v| v as u16).collect();
    let got = match how {
        ["pil_loader"] => reference::saturated_u8(&values),
        ["cv2_imread_gray"] => reference::high_u8(&values),
        ["crop_to_u8", _] => {
            let [rows, columns] = *fixture.shape(result)? else {
                return Err(format!("`{result}` is no image"));
            };
            let width = fixture.shape("in.u16")?.last().copied().unwrap_or(1);
            let lines = values.chunks_exact(width).take(BLOCK);
            let block: Vec<u16> = lines.flat_map(|line| &line[..BLOCK]).copied().collect();
            let block = reference::minmax_u8(&block);
            let kept = block.chunks_exact(BLOCK).take(rows);
            kept.flat_map(|line| &line[..columns]).copied().collect()
        }
        _ => return Err(format!("`{result}` is of no operation that we know")),
    };
    bytes(worst, result, &got, fixture)
}

/// An image of an item whose successive draws below one half are the bits of `draws`.
fn augmented(fixture: &Fixture, kind: &str, draws: u32, which: &str) -> Result<Image, String> {
    let fires = |draw: u32| draws >> draw & 1 == 1;
    let volume = kind == "aug3d";
    // in 2-D the image comes turned to the blur, in volumes the two slices are blurred first
    let (source, blur, flip) = match (volume, which) {
        (false, "img") => ("img", Some(2), 0),
        (true, "up") => ("img", Some(0), 2),
        (true, "below") => ("img2", Some(1), 2),
        _ => ("gt", None, if volume { 2 } else { 0 }),
    };
    let mut image = Image::of(fixture, &format!("in.aug.{source}"))?;
    let blurred = blur.is_some_and(fires);
    if volume && blurred {
        image = image.blurred()?;
    }
    if fires(flip) {
        image = image.flipped();
    }
    if fires(flip + 1) {
        image = image.turned()?;
    }
    if !volume && blurred { image.blurred() } else { Ok(image) }
}

/// `datasets`: items of the reference's datasets from the tree of files beside the fixture, and its
/// splits.
pub(super) fn datasets(fixture: &Fixture) -> Result<Outcome, String> {
    let config: Value = fixture.json("config")?;
    let tree = fixture.path.with_file_name("dataset_tree");
    let mut worst = Worst::default();
    pairs(fixture, &config, &tree, &mut worst)?;
    for z in [3, 4, 5] {
        between(fixture, &config, &tree, z, &mut worst)?;
        neighbours(fixture, &config, &tree, z, &mut worst)?;
        crops(fixture, &config, &tree, z, &mut worst)?;
    }
    for (name, expected) in fixture.part("out.vem_transpose.") {
        let stack = open_stack(&list_images(tree.join("vol")).map_err(text)?).map_err(text)?;
        let [slices, rows, columns] = stack.info().shape[..] else {
            return Err("the volume has no three axes".into());
        };
        match name.parse::<usize>() {
            Ok(row) => {
                let kept = reference::transposed_slices(slices);
                let size = vec![kept.len(), 1, columns];
                let start = vec![kept.start, row, 0];
                let plane = stack.read_region(&Region { start, size }).map_err(text)?;
                let (got, name) = (wide(&plane.to_f32()), format!("row {row} as an image"));
                worst.compare(&name, &got, &values(&expected)?, EXACT);
            }
            Err(_) => {
                worst.compare("images of rows", &[rows as f64], &values(&expected)?, EXACT);
            }
        }
    }
    for (name, _) in fixture.part("out.split.") {
        let Some(split) = name.strip_suffix(".train") else { continue };
        let unknown = || format!("`out.split.{name}` does not name its numbers");
        let (n, share) = split.split_once('_').ok_or_else(unknown)?;
        let (n, share) = (n.parse().map_err(|_| unknown())?, share.parse().map_err(|_| unknown())?);
        let (train, held) = torch_split(n, share, SEED).map_err(text)?;
        for (part, got) in [("train", train), ("val", held)] {
            let name = format!("out.split.{split}.{part}");
            let got: Vec<f64> = got.into_iter().map(|i| i as f64).collect();
            worst.compare(&name, &got, &fixture.values(&name)?, EXACT);
        }
    }
    worst.done()
}

/// The names in a list of the metadata; none if there is no such list.
fn names(config: &Value, key: &str) -> Vec<String> {
    let list = config[key].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// A file of bytes.
fn image(path: &std::path::Path) -> Result<Image, String> {
    let volume = open(path).and_then(|reader| reader.read()).map_err(text)?;
    let limpid_io::Data::U8(data) = volume.data else {
        return Err(format!("`{}` does not hold bytes", path.display()));
    };
    match volume.info.shape[..] {
        [rows, columns] => Ok(Image { data, shape: [rows, columns] }),
        _ => Err(format!("`{}` is no single image", path.display())),
    }
}

/// Noisy and clean images, resized to what the network takes.
fn pairs(
    fixture: &Fixture,
    config: &Value,
    tree: &std::path::Path,
    worst: &mut Worst,
) -> Result<(), String> {
    let size = [0, 1].map(|i| config["n_image_size"][i].as_u64().unwrap_or(0) as usize);
    // the reference names an item by the last three parts of its path, joined
    let mut listed = BTreeMap::new();
    for path in list_images(tree.join("n/test_wf/*/*/*.tif")).map_err(text)? {
        let parts = path.strip_prefix(tree.join("n/test_wf")).map_err(text)?;
        let parts: Vec<_> = parts.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        listed.insert(parts.join("_"), path.clone());
    }
    let expected = names(config, "n_paths");
    worst.require("the names of all pairs", listed.keys().eq(&expected));
    for (name, path) in listed {
        let clean = PathBuf::from(path.to_string_lossy().replace("wf", "gt"));
        for (part, path) in [("cond", &path), ("gt", &clean)] {
            let got = wide(&from_u8(&image(path)?.resized(size)?.data));
            let name = format!("out.n.{name}.{part}");
            worst.compare(&name, &got, &fixture.values(&name)?, ROUNDED);
        }
    }
    Ok(())
}

/// The volumes of patches: for each patch its slices.
fn volumes(tree: &std::path::Path) -> Result<Vec<(String, Box<dyn VolumeReader>)>, String> {
    let mut patches = Vec::new();
    for path in list_images(tree.join("v/0/*.tif")).map_err(text)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let slices = list_images(tree.join("v/*").join(&file)).map_err(text)?;
        patches.push((file, open_stack(&slices).map_err(text)?));
    }
    Ok(patches)
}

/// Slices as the network takes them, in the order given.
fn slices(
    stack: &dyn VolumeReader,
    which: impl IntoIterator<Item = usize>,
    start: [usize; 2],
    size: [usize; 2],
) -> Result<Vec<f64>, String> {
    let mut all = Vec::new();
    for z in which {
        let region = Region { start: vec![z, start[0], start[1]], size: vec![1, size[0], size[1]] };
        let limpid_io::Data::U8(data) = stack.read_region(&region).map_err(text)? else {
            return Err("the slices do not hold bytes".into());
        };
        all.extend(wide(&from_u8(&data)));
    }
    Ok(all)
}

/// Condition and layers around every centre of an isotropic volume.
fn between(
    fixture: &Fixture,
    config: &Value,
    tree: &std::path::Path,
    z: usize,
    worst: &mut Worst,
) -> Result<(), String> {
    let mut listed = Vec::new();
    let patches = volumes(tree)?;
    let last = patches.first().map_or(1, |(_, stack)| stack.info().shape[0]) - 1;
    for centre in reference::isotropic_centres(last, z) {
        for (file, stack) in &patches {
            listed.push(format!("{centre}/{file}"));
            let size = [stack.info().shape[1], stack.info().shape[2]];
            let stem = file.trim_end_matches(".tif");
            let cond = slices(&**stack, reference::condition_slices(centre, z), [0; 2], size)?;
            let gt = slices(&**stack, reference::target_slices(centre, z), [0; 2], size)?;
            for (part, got) in [("cond", cond), ("gt", gt)] {
                let name = format!("out.iso.z{z}.v_{centre}_{stem}.tif.{part}");
                worst.compare(&name, &got, &fixture.values(&name)?, ROUNDED);
            }
        }
    }
    worst.require(
        &format!("the centres for z = {z}"),
        listed == names(config, &format!("iso_z{z}")),
    );
    Ok(())
}

/// Pairs of neighbouring slices of an anisotropic volume, as our predictions read them.
fn neighbours(
    fixture: &Fixture,
    config: &Value,
    tree: &std::path::Path,
    z: usize,
    worst: &mut Worst,
) -> Result<(), String> {
    let normalisation = NormalisationConfig::Scale { divide: 255.0 }.fit(&[], 1);
    let normalisers = Normalisers { input: Normaliser::Dataset { normalisation }, target: None };
    let mut inputs = Vec::new();
    for path in list_images(tree.join("v/0/*.tif")).map_err(text)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = tree.join("v/*").join(&file);
        inputs.push((file, Input::open(&place, 2, None, &normalisers).map_err(text)?));
    }
    let mut listed = Vec::new();
    let count = inputs.first().map_or(Ok(0), |(_, input)| input.pairs()).map_err(text)?;
    for index in 0..count {
        for (file, input) in &inputs {
            listed.push(format!("{index}/{file}"));
            let pair = input.pair(index).map_err(text)?;
            let name = format!("out.aniso.z{z}.v_{index}_{file}");
            if !fixture.tensors.contains_key(&format!("{name}.cond")) {
                continue; // the file holds those of one z
            }
            let size = pair.shape()[1..].to_vec();
            let cond = pair.read(&[0, 0], &size).map_err(text)?;
            let unit: Vec<f32> = cond.iter().map(|v| 2.0 * v - 1.0).collect();
            let expected = fixture.values(&format!("{name}.cond"))?;
            worst.compare(&format!("{name}.cond"), &wide(&unit), &expected, ROUNDED);
            // where there is no truth, the reference has copies of the lower slice in its place
            let lower = wide(&unit[unit.len() / 2..]).repeat(z - 1);
            let expected = fixture.values(&format!("{name}.gt"))?;
            worst.compare(&format!("{name}.gt"), &lower, &expected, ROUNDED);
        }
    }
    let expected = names(config, &format!("aniso_z{z}"));
    worst.require(&format!("the pairs for z = {z}"), listed == expected);
    Ok(())
}

/// A random crop of a volume, at the place that the reference drew.
fn crops(
    fixture: &Fixture,
    config: &Value,
    tree: &std::path::Path,
    z: usize,
    worst: &mut Worst,
) -> Result<(), String> {
    let drawn = &config[format!("vol_z{z}")];
    let number = |value: &Value| value.as_u64().map(|v| v as usize);
    let pick = |axis: &str| number(&drawn["picks"][axis]);
    let (Some(x), Some(y), Some(centre)) = (pick("x"), pick("y"), pick("z")) else {
        return Ok(()); // none for this z
    };
    let stack = open_stack(&list_images(tree.join("vol")).map_err(text)?).map_err(text)?;
    let last = stack.info().shape[0] - 1;
    let range = reference::layer_range(last, z);
    let expected = [0, 1].map(|i| number(&drawn["randint_ranges"]["z"][i]));
    let got = [*range.start(), *range.end()].map(Some);
    worst.require(&format!("the range of centres for z = {z}"), got == expected);
    for (part, which) in [
        ("cond", reference::condition_slices(centre, z).to_vec()),
        ("gt", reference::target_slices(centre, z).collect()),
    ] {
        let name = format!("out.vol.z{z}.{part}");
        let [_, rows, columns] = *fixture.shape(&name)? else {
            return Err(format!("`{name}` has no three axes"));
        };
        let got = slices(&*stack, which, [y, x], [rows, columns])?;
        worst.compare(&name, &got, &fixture.values(&name)?, ROUNDED);
    }
    Ok(())
}

/// `tiling.json`: names and shapes of the patches of images of several sizes.
pub(super) fn tiling(fixture: &Fixture) -> Result<Outcome, String> {
    type Patches = BTreeMap<String, Option<Vec<usize>>>;
    let images: BTreeMap<String, BTreeMap<String, Patches>> = fixture.json("shapes")?;
    let mut worst = Worst::default();
    for (size, programs) in images {
        let numbers: Vec<f64> = numbers(&size);
        let [rows, columns] = numbers[..] else { return Err(format!("`{size}` is no size")) };
        let shape = [rows as usize, columns as usize];
        for (program, expected) in programs {
            let unknown = || format!("no grid of ours is that of `{program}`");
            let (name, arguments) = program.split_once('(').unwrap_or((&program, ""));
            let grid = match (name, &self::numbers(arguments)[..]) {
                ("crop_single_file.crop", [patch, overlap]) => {
                    let stride = (patch * (1.0 - overlap)) as usize;
                    reference::crop_grid(shape, *patch as usize, stride)
                }
                ("test_pre.process_denoise_pair", [patch, stride]) => {
                    reference::crop_grid(shape, *patch as usize, *stride as usize)
                }
                ("vEM_test_pre.recon_pre", []) => reference::recon_grid(shape),
                _ => return Err(unknown()),
            };
            let got: Patches = grid
                .iter()
                .map(|p| (format!("{}_{}.tif", p.name[0], p.name[1]), Some(p.size.to_vec())))
                .collect();
            let what = format!("{program} of {size}");
            worst.require(&format!("{what}: names"), got.keys().eq(expected.keys()));
            // of some programs the file has names only
            let same = expected.iter().all(|(name, shape)| {
                shape.is_none() || got.get(name).is_some_and(|got| got == shape)
            });
            worst.require(&format!("{what}: shapes"), same);
        }
    }
    worst.done()
}

/// The numbers in a text.
fn numbers(text: &str) -> Vec<f64> {
    let parts = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    parts.filter_map(|part| part.parse().ok()).collect()
}
