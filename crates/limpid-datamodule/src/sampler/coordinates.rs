//! Lists of patch centres.

use super::{Place, around};
use crate::dataset::{Collection, Scene};
use crate::images::ImageFile;
use crate::{Error, Result};
use limpid_io::Axis;
use std::path::Path;

/// Reads the centres that lie in the scenes; those in a part kept for validation are left out.
pub(super) fn read(
    list: &str,
    collection: &Collection,
    scenes: &[Scene],
    patch: &[usize],
) -> Result<Vec<Place>> {
    let path = Path::new(list);
    let text = std::fs::read_to_string(path).map_err(|e| limpid_io::Error::io("read", path, e))?;
    let bad = |line: usize, message: String| {
        Error::file(
            path,
            format!("line {line}: {message}"),
            "expected a header such as `file,z,y,x`, then one centre per line in pixels from 0",
        )
    };
    let mut lines =
        text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty());
    let (_, header) = lines.next().ok_or_else(|| bad(1, "the list is empty".into()))?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let axes = columns.iter().skip(1).map(|c| axis(c)).collect::<Option<Vec<Axis>>>();
    let Some(axes) = axes.filter(|_| columns[0] == "file") else {
        return Err(bad(1, format!("`{header}` is not a header")));
    };
    let mut places = Vec::new();
    for (number, line) in lines {
        let mut fields = line.split(',').map(str::trim);
        let name = fields.next().unwrap_or_default();
        let values = fields.map(str::parse).collect::<Result<Vec<usize>, _>>();
        let Some(values) = values.ok().filter(|v| v.len() == axes.len()) else {
            return Err(bad(number, format!("`{line}` does not match the header `{header}`")));
        };
        let named =
            |f: &ImageFile| f.path.ends_with(name) || f.path.file_stem().is_some_and(|s| s == name);
        let Some(file) = collection.files.iter().position(named) else {
            return Err(bad(number, format!("no training image is named `{name}`")));
        };
        let of = |axis: Axis| axes.iter().position(|a| *a == axis).map(|i| values[i]);
        let (frame, centre) = locate(&collection.files[file], of).map_err(|m| bad(number, m))?;
        let within = |scene: &Scene| {
            let view = scene.views[0];
            let inside =
                |a: usize| (scene.start[a]..scene.start[a] + scene.size[a]).contains(&centre[a]);
            view.file == file && view.frame == frame && (0..centre.len()).all(inside)
        };
        if let Some(scene) = scenes.iter().position(within) {
            places.push(around(scene, &centre, &scenes[scene], patch));
        }
    }
    if places.is_empty() {
        return Err(Error::file(
            path,
            "no centre lies in a training image",
            "centres in the part kept for validation are left out; list others, or change `validation`",
        ));
    }
    Ok(places)
}

/// The frame and the place in it that a line means.
fn locate(
    file: &ImageFile,
    of: impl Fn(Axis) -> Option<usize>,
) -> Result<(usize, Vec<usize>), String> {
    let get = |axis: Axis, count: usize| match of(axis) {
        Some(i) if i < count => Ok(i),
        Some(i) => Err(format!("{axis:?} is {i}, but the image has {count}")),
        None if count == 1 => Ok(0),
        None => {
            Err(format!("the image has {count} places along {axis:?}, but there is no such column"))
        }
    };
    let mut frame = 0;
    for (axis, count) in file.leading() {
        frame = frame * count + get(axis, count)?;
    }
    let axes = [Axis::Z, Axis::Y, Axis::X];
    let spatial = axes[3 - file.spatial.len()..].iter().zip(&file.spatial);
    let centre = spatial.map(|(axis, n)| get(*axis, *n)).collect::<Result<_, _>>()?;
    Ok((frame, centre))
}

fn axis(name: &str) -> Option<Axis> {
    Some(match name {
        "t" => Axis::T,
        "z" => Axis::Z,
        "y" => Axis::Y,
        "x" => Axis::X,
        _ => return None,
    })
}
