//! The verbs, one file each.

pub mod predict;
pub mod train;
