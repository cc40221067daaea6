//! Comparison of the names and shapes a network has with those a checkpoint gives, in words that say
//! what to do.

use candle_core::Tensor;
use std::collections::BTreeMap;
use std::fmt;

/// Names shown per kind of trouble.
const SHOWN: usize = 8;
/// Least similarity (1 = equal) of a suggested name.
const SIMILAR: f64 = 0.7;

/// A tensor whose shape is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the tensor.
    pub name: String,
    /// Shape in the network.
    pub expected: Vec<usize>,
    /// Shape in the checkpoint.
    pub got: Vec<usize>,
}

/// How the tensors of a checkpoint differ from those of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Names the network has and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Names the checkpoint has and the network lacks.
    pub unexpected: Vec<String>,
    /// Names that both have, with different shapes.
    pub mismatched: Vec<Mismatch>,
    /// For some of the missing names, the unexpected name that is most like it.
    pub suggestions: BTreeMap<String, String>,
    /// A prefix whose removal from the checkpoint's names would give at least half the missing ones.
    pub prefix: Option<String>,
}

impl KeyReport {
    /// Whether names and shapes agree exactly.
    #[must_use]
    pub fn is_match(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

/// Compares the shapes a network expects with the tensors of a checkpoint.
#[must_use]
pub fn compare(
    expected: &BTreeMap<String, Vec<usize>>,
    got: &BTreeMap<String, Tensor>,
) -> KeyReport {
    let missing: Vec<_> = expected.keys().filter(|n| !got.contains_key(*n)).cloned().collect();
    let unexpected: Vec<_> = got.keys().filter(|n| !expected.contains_key(*n)).cloned().collect();
    let mismatched = expected.iter().filter_map(|(name, shape)| {
        let tensor = got.get(name).filter(|t| t.dims() != shape.as_slice())?;
        Some(Mismatch { name: name.clone(), expected: shape.clone(), got: tensor.dims().to_vec() })
    });
    let mismatched = mismatched.collect();
    let prefix = missing.iter().take(SHOWN).find_map(|name| {
        let longer = unexpected.iter().find(|u| u.ends_with(&format!(".{name}")))?;
        let prefix = &longer[..longer.len() - name.len()];
        let cured = missing.iter().filter(|m| got.contains_key(&format!("{prefix}{m}"))).count();
        (2 * cured >= missing.len()).then(|| prefix.to_owned())
    });
    let mut suggestions = BTreeMap::new();
    if prefix.is_none() {
        for name in missing.iter().take(SHOWN) {
            let alike = |u: &&String| got[*u].dims() == expected[name].as_slice();
            let scored = unexpected.iter().filter(alike).map(|u| (strsim::jaro(name, u), u));
            let best = scored.filter(|(s, _)| *s >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((_, best)) = best {
                suggestions.insert(name.clone(), best.clone());
            }
        }
    }
    KeyReport { missing, unexpected, mismatched, suggestions, prefix }
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_match() {
            return f.write_str("all names and shapes agree");
        }
        let missing = self.missing.iter().map(|name| match self.suggestions.get(name) {
            Some(similar) => format!("`{name}` (is it `{similar}` there?)"),
            None => format!("`{name}`"),
        });
        let unexpected = self.unexpected.iter().map(|name| format!("`{name}`"));
        let mismatched = self
            .mismatched
            .iter()
            .map(|m| format!("`{}`: expected {:?}, got {:?}", m.name, m.expected, m.got));
        let mut sections = Vec::new();
        section(&mut sections, "missing from the checkpoint", missing);
        section(&mut sections, "not in the network", unexpected);
        section(&mut sections, "of another shape", mismatched);
        if let Some(prefix) = &self.prefix {
            sections
                .push(format!("the checkpoint's names begin with `{prefix}`: strip this prefix"));
        }
        f.write_str(&sections.join("\n"))
    }
}

fn section(out: &mut Vec<String>, title: &str, lines: impl ExactSizeIterator<Item = String>) {
    let count = lines.len();
    if count > 0 {
        out.push(format!("{count} {title}:"));
        out.extend(lines.take(SHOWN).map(|line| format!("  {line}")));
    }
    if count > SHOWN {
        out.push(format!("  and {} more", count - SHOWN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn network() -> BTreeMap<String, Vec<usize>> {
        let conv = |i: usize| {
            [(format!("conv{i}.weight"), vec![4, i + 1, 3]), (format!("conv{i}.bias"), vec![4])]
        };
        (0..12).flat_map(conv).collect()
    }

    fn checkpoint(rename: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        network().iter().map(|(n, s)| (rename(n), zeros(s))).collect()
    }

    #[test]
    fn equal_sets_match() {
        let report = compare(&network(), &checkpoint(str::to_owned));
        assert!(report.is_match());
        assert_eq!(report.to_string(), "all names and shapes agree");
    }

    #[test]
    fn a_prefix_is_noticed_and_the_report_stays_short() {
        let report = compare(&network(), &checkpoint(|n| format!("net.model.{n}")));
        assert_eq!((report.missing.len(), report.unexpected.len()), (24, 24));
        assert_eq!(report.prefix.as_deref(), Some("net.model."));
        let text = report.to_string();
        assert!(text.lines().count() <= 3 * (SHOWN + 2) + 1, "{text}");
        assert!(text.contains("and 16 more") && text.ends_with("strip this prefix"), "{text}");
    }

    #[test]
    fn a_renamed_tensor_is_suggested_and_a_wrong_shape_reported() {
        let mut got = checkpoint(|n| n.replace("conv3.weight", "conv_3.weight"));
        got.insert("conv1.bias".into(), Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap());
        let report = compare(&network(), &got);
        assert_eq!(report.suggestions["conv3.weight"], "conv_3.weight");
        let text = report.to_string();
        let wanted = "1 missing from the checkpoint:\n  `conv3.weight` (is it `conv_3.weight` there?)\n\
                      1 not in the network:\n  `conv_3.weight`\n\
                      1 of another shape:\n  `conv1.bias`: expected [4], got [5]";
        assert_eq!(text, wanted);
    }
}
