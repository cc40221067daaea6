//! Model files for use: weights with everything needed to apply them in the header.
//!
//! `model.safetensors` holds the weights under their reference names; its metadata carries the
//! network's configuration, the normalisation, the axes and the training's origin, so that the file
//! alone is enough to predict. Weights that others published carry none of this: [`Published`] tells
//! the network from their names and shapes.

mod bundle;
mod network;
mod published;
#[cfg(test)]
mod tests;

pub use bundle::{Bundle, BundleError, Card, says};
pub use network::CardNetwork;
pub use published::Published;
