//! The verbs, one file each.

pub(crate) mod eval;
pub(crate) mod filter;
pub(crate) mod inspect;
pub(crate) mod predict;
pub(crate) mod train;
