//! `tidy`: the rules of the house that no compiler checks.

mod layers;
mod sources;

use crate::process::root;

/// Checks all rules and prints every violation.
pub(crate) fn run() -> Result<(), String> {
    let mut problems = layers::check()?;
    problems.extend(sources::check(&root())?);
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err("tidy found 1 problem".into()),
        n => Err(format!("tidy found {n} problems")),
    }
}
