//! The verbs, one file each.

pub(crate) mod config;
pub(crate) mod docs;
pub(crate) mod eval;
pub(crate) mod filter;
pub(crate) mod inspect;
pub(crate) mod predict;
pub(crate) mod runs;
pub(crate) mod train;
