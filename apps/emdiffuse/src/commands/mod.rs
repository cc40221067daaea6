//! The verbs, one file each.

pub mod eval;
pub mod inspect;
pub mod pack;
mod planes;
pub mod predict;
pub mod prepare;
pub mod sample_curve;
pub mod thin;
pub mod train;
