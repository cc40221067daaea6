//! Numbers in JSON that survive being NaN or infinite, for which JSON has no notation: they are
//! written as strings. Used by `#[serde(with = "crate::number")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { value.serialize(to) } else { value.to_string().serialize(to) }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Other(String),
    }
    match Number::deserialize(from)? {
        Number::Finite(value) => Ok(value),
        Number::Other(text) => text.parse().map_err(D::Error::custom),
    }
}
