//! Model files for use: weights with everything needed to apply them in the header.
//!
//! `model.safetensors` holds the weights under their reference names; its metadata carries the
//! network's configuration, the normalisation, the axes and the training's origin, so that the file
//! alone is enough to predict.

mod bundle;

pub use bundle::{Bundle, BundleError, Card};
