//! Layered TOML configuration: one struct, filled from defaults, files, environment, `--set` and
//! flags, where every value knows its origin and every error points at the line that caused it.
//!
//! [`load`] does it all: it lays the layers of a [`Request`] over each other, checks the result
//! against the schema of the struct ([`schema`]), hands it to serde, and lets the struct
//! [`Validate`] itself. Each stage reports all of its problems at once, as a [`ConfigError`] that
//! prints like a compiler's.
//!
//! A config struct derives `Serialize, Deserialize, JsonSchema` with `#[serde(default,
//! deny_unknown_fields)]`; variants are enums with `#[serde(tag = "kind")]`. Two rules about layers:
//!
//! - tables merge key by key, everything else is replaced, and so is a table whose `kind` changes;
//! - the lowest layer is the default of the *root* struct: `[optimizer]` with only `lr` in a file
//!   keeps the other keys that `Config::default().optimizer` has.

mod check;
mod conform;
mod error;
mod key;
mod layers;
mod load;
mod node;
mod reference;
mod schema;
mod show;
mod suggest;
#[cfg(test)]
mod tests;

pub use check::{Check, Finding, Validate, check};
pub use error::{ConfigError, Problem};
pub use load::{Request, load};
pub use node::{Origin, Source};
pub use reference::reference_markdown;
pub use schema::schema;
pub use show::Loaded;
