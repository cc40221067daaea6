//! What `emdiffuse` and `vemdiffuse` share: two programs of one package, since they differ in what
//! the network is conditioned on and in how results are put together, and in nothing else.
//!
//! ```text
//! config → task (data, model) → commands::train
//! model (trained, built in, published) → commands::predict → restoring → files
//! axial (layers in one pass) → commands::predict → files
//! ```

pub mod axial;
pub mod commands;
pub mod config;
pub mod model;
pub mod restoring;
pub mod start;
pub mod task;
