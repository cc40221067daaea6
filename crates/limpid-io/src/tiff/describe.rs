//! What the text in a TIFF says about its pages: ImageJ's list, tifffile's shape, OME-XML.

use crate::volume::{Axis, metres};
use std::collections::BTreeMap;

/// Axes along which pages run, and what else the text gives.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Described {
    /// Name and length of each page axis, slowest first.
    pub(super) pages: Vec<(Axis, usize)>,
    /// Spacing by axis, where the text has it.
    pub(super) spacing: BTreeMap<Axis, f64>,
    /// Unit of length.
    pub(super) unit: Option<String>,
    /// Whether `XResolution` counts pixels per [`unit`](Self::unit).
    pub(super) imagej: bool,
    /// What to keep for writing.
    pub(super) text: BTreeMap<String, String>,
}

/// Keys of ImageJ's list that follow from shape and spacing.
const IMAGEJ_OWN: [&str; 10] = [
    "ImageJ",
    "images",
    "channels",
    "slices",
    "frames",
    "hyperstack",
    "mode",
    "unit",
    "spacing",
    "finterval",
];

/// Number of images in an ImageJ stack of which only the first may have a directory.
pub(super) fn imagej_images(text: &str) -> Option<usize> {
    if !text.starts_with("ImageJ=") {
        return None;
    }
    text.lines().find_map(|line| line.strip_prefix("images="))?.trim().parse().ok()
}

/// Interprets the description of the first page. Errors are messages about contradictions.
pub(super) fn describe(text: &str, pages: usize, samples: usize) -> Result<Described, String> {
    let mut found = if text.starts_with("ImageJ=") {
        imagej(text)
    } else if text.trim_start().starts_with('{') {
        shaped(text, samples).unwrap_or_default()
    } else if text.contains("<OME") {
        ome(text, samples)
    } else {
        let mut plain = Described::default();
        if !text.trim().is_empty() {
            plain.text.insert("description".into(), text.to_owned());
        }
        plain
    };
    let promised: usize = found.pages.iter().map(|(_, n)| *n).fold(1, usize::saturating_mul);
    if found.pages.is_empty() && pages > 1 {
        found.pages = vec![(Axis::Z, pages)];
    } else if promised != pages {
        let sizes: Vec<String> =
            found.pages.iter().map(|(axis, n)| format!("{axis:?} = {n}")).collect();
        return Err(format!(
            "the metadata promises {}, but there are {pages} pages; the file is cut short, or give the axes yourself",
            sizes.join(", ")
        ));
    }
    Ok(found)
}

/// `ImageJ=1.53\nimages=6\nchannels=2\nslices=3\nunit=\\u00B5m\n…`; pages run T, Z, C.
fn imagej(text: &str) -> Described {
    let mut found = Described { imagej: true, ..Described::default() };
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let number = |key: &str| fields.get(key).and_then(|v| v.trim().parse::<f64>().ok());
    for (axis, key) in [(Axis::T, "frames"), (Axis::Z, "slices"), (Axis::C, "channels")] {
        if let Some(n) = fields.get(key).and_then(|v| v.trim().parse().ok()) {
            found.pages.push((axis, n));
        }
    }
    if found.pages.is_empty()
        && let Some(n) = imagej_images(text).filter(|n| *n > 1)
    {
        found.pages.push((Axis::Z, n));
    }
    if let Some(z) = number("spacing").map(f64::abs).filter(|z| *z > 0.0 && z.is_finite()) {
        found.spacing.insert(Axis::Z, z);
    }
    if let Some(t) = number("finterval").filter(|t| *t > 0.0 && t.is_finite()) {
        found.spacing.insert(Axis::T, t);
    }
    found.unit = fields.get("unit").map(|unit| unit_name(&unescape(unit.trim())));
    for (key, value) in fields {
        if key == "description" {
            found.text.insert(key.to_owned(), unescape(value)); // of whom we wrote it for
        } else if !IMAGEJ_OWN.contains(&key) {
            found.text.insert(format!("imagej.{key}"), unescape(value));
        }
    }
    found
}

/// `{"shape": [10, 256, 256], "axes": "ZYX"}` of tifffile; without axes they go by rank.
fn shaped(text: &str, samples: usize) -> Option<Described> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let shape = json.get("shape")?.as_array()?;
    let shape: Vec<usize> =
        shape.iter().map(|n| n.as_u64().and_then(|n| n.try_into().ok())).collect::<Option<_>>()?;
    // what is left of Y and X, and of the samples of a pixel on either side of them
    let rank = shape.len().checked_sub(if samples > 1 { 3 } else { 2 })?;
    let by_rank = match (rank, samples) {
        (0 | 1, _) => "Z",
        (2, 1) => "CZ",
        (2, _) => "TZ",
        _ => "TCZ",
    };
    let names = json.get("axes").and_then(|axes| axes.as_str()).and_then(|axes| axes.get(..rank));
    let names = names.filter(|names| names.chars().all(|c| "TCZ".contains(c))).unwrap_or(by_rank);
    let axes = names.chars().filter_map(Axis::from_char);
    (rank <= 3).then(|| Described {
        pages: axes.zip(shape[..rank].iter().copied()).collect(),
        ..Described::default()
    })
}

/// The attributes of the first `<Pixels …>` of OME-XML.
fn ome(text: &str, samples: usize) -> Described {
    let mut found = Described::default();
    let pixels = text.split_once("<Pixels").map_or("", |(_, rest)| rest);
    let pixels = pixels.split_once('>').map_or(pixels, |(inside, _)| inside);
    let pixels = pixels.replace(char::is_whitespace, " ");
    let attribute = |name: &str| {
        let (_, rest) = pixels.split_once(&format!(" {name}="))?;
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(value, _)| value)
    };
    let number = |name: &str| attribute(name)?.parse::<f64>().ok().filter(|n| *n > 0.0);
    // `XYCZT` says that C is the fastest page axis
    for letter in attribute("DimensionOrder").unwrap_or("XYCZT").chars().rev() {
        let (axis, per_page) = match letter {
            'T' => (Axis::T, 1),
            'Z' => (Axis::Z, 1),
            'C' => (Axis::C, samples),
            _ => continue,
        };
        let size = attribute(&format!("Size{letter}")).and_then(|n| n.parse::<usize>().ok());
        if let Some(n) = size.map(|n| n / per_page.max(1)).filter(|n| *n > 1) {
            found.pages.push((axis, n));
        }
    }
    let unit = attribute("PhysicalSizeXUnit").map_or_else(|| "µm".into(), unit_name);
    for (axis, name) in [
        (Axis::X, "PhysicalSizeX"),
        (Axis::Y, "PhysicalSizeY"),
        (Axis::Z, "PhysicalSizeZ"),
        (Axis::T, "TimeIncrement"),
    ] {
        let own = attribute(&format!("{name}Unit")).map_or_else(|| "µm".into(), unit_name);
        let factor = match (metres(&own), metres(&unit)) {
            _ if axis == Axis::T || own == unit => Some(1.0),
            (Some(own), Some(unit)) => Some(own / unit),
            _ => None,
        };
        if let (Some(size), Some(factor)) = (number(name), factor) {
            found.spacing.insert(axis, size * factor);
        }
    }
    found.unit = found.spacing.contains_key(&Axis::X).then_some(unit);
    found
}

/// One spelling for each unit.
pub(super) fn unit_name(unit: &str) -> String {
    match unit {
        "um" | "micron" | "microns" | "μm" | "&#181;m" | "&#956;m" | "&#xB5;m" => "µm".into(),
        _ => unit.into(),
    }
}

/// `\u00B5m` is how ImageJ writes `µm`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\u") {
        out.push_str(before);
        let code = after.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                rest = &after[4..];
            }
            None => {
                out.push_str("\\u");
                rest = after;
            }
        }
    }
    out + rest
}

/// The inverse of [`unescape`].
pub(super) fn escape(text: &str) -> String {
    let mut units = [0; 2];
    text.chars()
        .map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04X}")).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagej_hyperstack() {
        let text = "ImageJ=1.53t\nimages=12\nchannels=2\nslices=3\nframes=2\nhyperstack=true\n\
                    mode=grayscale\nunit=\\u00B5m\nfinterval=0.5\nspacing=-2.0\nmin=3.0\nloop=false\n";
        let found = describe(text, 12, 1).unwrap();
        assert_eq!(found.pages, [(Axis::T, 2), (Axis::Z, 3), (Axis::C, 2)]);
        assert_eq!(found.unit.as_deref(), Some("µm"));
        assert_eq!((found.spacing[&Axis::Z], found.spacing[&Axis::T]), (2.0, 0.5));
        assert_eq!(found.text["imagej.min"], "3.0");
        assert!(describe(text, 11, 1).unwrap_err().contains("T = 2, Z = 3, C = 2"));
    }

    #[test]
    fn tifffile_shapes() {
        let pages = |text: &str, pages| describe(text, pages, 1).unwrap().pages;
        assert_eq!(pages(r#"{"shape": [5, 8, 8], "axes": "TYX"}"#, 5), [(Axis::T, 5)]);
        assert_eq!(pages(r#"{"shape": [5, 8, 8]}"#, 5), [(Axis::Z, 5)]);
        assert_eq!(pages(r#"{"shape": [2, 3, 8, 8]}"#, 6), [(Axis::C, 2), (Axis::Z, 3)]);
        assert_eq!(pages(r#"{"shape": [8, 8]}"#, 1), []);
        assert_eq!(pages("{not json", 3), [(Axis::Z, 3)]);
        let colour = |text: &str| describe(text, 4, 3).unwrap().pages;
        assert_eq!(colour(r#"{"shape": [4, 8, 8, 3], "axes": "TYXS"}"#), [(Axis::T, 4)]);
        assert_eq!(colour(r#"{"shape": [4, 3, 8, 8], "axes": "ZSYX"}"#), [(Axis::Z, 4)]);
        assert!(describe(r#"{"shape": [5, 8, 8]}"#, 4, 1).unwrap_err().contains("Z = 5"));
    }

    #[test]
    fn ome_xml() {
        let text = r#"<?xml version="1.0"?><OME xmlns="x"><Image ID="Image:0"><Pixels ID="Pixels:0"
            DimensionOrder="XYZCT" SizeX="8" SizeY="8" SizeC="2" SizeZ="3" SizeT="1" Type="uint8"
            PhysicalSizeX="0.1" PhysicalSizeY="0.2" PhysicalSizeZ="300" PhysicalSizeZUnit="nm"
            ><TiffData/></Pixels></Image></OME>"#;
        let found = describe(text, 6, 1).unwrap();
        assert_eq!(found.pages, [(Axis::C, 2), (Axis::Z, 3)]);
        assert_eq!((found.spacing[&Axis::X], found.spacing[&Axis::Y]), (0.1, 0.2));
        assert!((found.spacing[&Axis::Z] - 0.3).abs() < 1e-12); // given in nm
        assert_eq!(found.unit.as_deref(), Some("µm"));
    }

    #[test]
    fn escapes_are_inverse() {
        assert_eq!(escape("µm"), "\\u00B5m");
        for text in ["µm", "Å", "plain", "a\\u12", "\\uzzzz"] {
            assert_eq!(unescape(&escape(text)), text);
        }
    }
}
