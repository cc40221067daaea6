//! End-to-end tests of `denoise`: what a user does, and what may go wrong.

mod bad_input;
mod journey;
mod resume;
