//! End-to-end tests of the programs: what a user does, and what may go wrong.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod diffusion;
mod journey;
mod mri;
mod resume;
mod weights;
