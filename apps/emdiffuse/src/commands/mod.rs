//! The verbs, one file each.

pub mod eval;
pub mod inspect;
pub mod pack;
pub mod predict;
pub mod prepare;
pub mod sample_curve;
pub mod train;
