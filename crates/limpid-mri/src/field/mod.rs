//! Fields that turn the phase of samples while they are taken: off-resonance, concomitant and eddy fields.
//!
//! A [`FieldPhase`] says how far: by `±Σ_b φ_b(r) α_b(t)` turns. [`Segments`] make it a sum of few products
//! `Σ_l b_l(r) h_l(t)`, with which a [`FieldOperator`] needs only as many transforms of any other operator
//! (Noll et al., IEEE TMI 1991; Sutton et al., IEEE TMI 2003; Fessler et al., IEEE TSP 2005; Wilm et al., MRM
//! 2012).

mod bases;
mod nodes;
mod operator;
mod phase;
mod segments;
mod singular;
#[cfg(test)]
mod tests;

pub use bases::{PROTON, concomitant_bases, concomitant_phase, spherical_harmonics};
pub use operator::FieldOperator;
pub use phase::{FieldPhase, FieldSign};
pub use segments::{FieldAccuracy, FieldMethod, Segments, segment_centres};
