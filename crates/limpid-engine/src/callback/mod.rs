//! Callbacks: everything usual that happens around the steps, each replaceable.
//!
//! A callback reads and edits the [`TrainState`] at the [`Hook`]s it cares for, and asks the
//! trainer for things through [`Control`]. It names the callbacks that must run before it; the
//! trainer orders them topologically.

mod usual;

pub(crate) use usual::decisive_score;
pub use usual::{
    CheckpointPolicy, EarlyStop, LearningRates, StepLog, UpdateEma, ValidateEvery, usual,
};

use crate::{Error, Event, Result, TrainState};
use std::collections::BTreeMap;

/// A point of the training loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before the first step of this process; after a checkpoint was loaded.
    TrainStarted,
    /// After the last step of this process.
    TrainEnded,
    /// Before the first batch of an epoch.
    EpochStarted,
    /// After the last batch of an epoch.
    EpochEnded,
    /// Before an optimizer step; `state.batch` may be edited.
    TrainStepStarted,
    /// After an optimizer step.
    TrainStepEnded,
    /// Before a validation.
    ValidationStarted,
    /// After a validation; `state.scores` is new.
    ValidationEnded,
    /// After a checkpoint was written.
    CheckpointSaved,
    /// An error ends the run.
    Exception,
}

/// What a callback asks of the trainer.
#[derive(Debug, Default)]
pub struct Control {
    /// End training after this step.
    pub stop: bool,
    /// Leave the current batch out (at [`Hook::TrainStepStarted`]).
    pub skip: bool,
    /// Validate after this step.
    pub validate: bool,
    /// Write a checkpoint after this step.
    pub checkpoint: bool,
    /// The state is among the best so far (with `checkpoint`).
    pub best: bool,
    /// Events to send out.
    pub events: Vec<Event>,
}

/// Something that happens around the steps.
pub trait Callback {
    /// Its name, unique among the callbacks of a run.
    fn name(&self) -> &str;

    /// Names of the callbacks that must run before it at every hook.
    fn dependencies(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Reads or edits the state at a hook.
    ///
    /// # Errors
    /// An error ends the run.
    fn on(&mut self, hook: Hook, state: &mut TrainState<'_>, control: &mut Control) -> Result<()>;

    /// What a checkpoint must hold for the callback to go on exactly.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes back what [`Callback::save`] gave.
    ///
    /// # Errors
    /// If the value cannot be understood.
    fn load(&mut self, value: &serde_json::Value) -> Result<()> {
        let _ = value;
        Ok(())
    }
}

/// Orders callbacks depth first: in the order they were given, each right after the dependencies that are not
/// there yet, in the order in which it names them.
///
/// # Errors
/// [`Error::UnknownDependency`], [`Error::DependencyCycle`], [`Error::DuplicateCallback`].
pub fn order(callbacks: &mut Vec<Box<dyn Callback + '_>>) -> Result<()> {
    let mut index = BTreeMap::new();
    for (i, c) in callbacks.iter().enumerate() {
        if index.insert(c.name().to_owned(), i).is_some() {
            return Err(Error::DuplicateCallback(c.name().to_owned()));
        }
    }
    let needs = callbacks
        .iter()
        .map(|c| {
            c.dependencies()
                .into_iter()
                .map(|d| {
                    index.get(d).copied().ok_or_else(|| Error::UnknownDependency {
                        name: c.name().to_owned(),
                        dependency: d.to_owned(),
                    })
                })
                .collect::<Result<Vec<_>>>()
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut placed, mut path) = (Vec::with_capacity(needs.len()), Vec::new());
    for i in 0..needs.len() {
        place(i, &needs, &mut path, &mut placed).map_err(|circle| {
            let names: Vec<_> = circle.iter().map(|&i| callbacks[i].name()).collect();
            Error::DependencyCycle(names.join(", "))
        })?;
    }
    let mut given: Vec<_> = callbacks.drain(..).map(Some).collect();
    callbacks.extend(placed.into_iter().filter_map(|i| given[i].take()));
    Ok(())
}

/// Places a callback after what it needs; `path` leads to it. An error is the circle that it is part of.
fn place(
    i: usize,
    needs: &[Vec<usize>],
    path: &mut Vec<usize>,
    placed: &mut Vec<usize>,
) -> Result<(), Vec<usize>> {
    if placed.contains(&i) {
        return Ok(());
    }
    if let Some(first) = path.iter().position(|&p| p == i) {
        return Err(path[first..].to_vec());
    }
    path.push(i);
    for &need in &needs[i] {
        place(need, needs, path, placed)?;
    }
    path.pop();
    placed.push(i);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str, Vec<&'static str>);

    impl Callback for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn dependencies(&self) -> Vec<&str> {
            self.1.clone()
        }
        fn on(&mut self, _: Hook, _: &mut TrainState<'_>, _: &mut Control) -> Result<()> {
            Ok(())
        }
    }

    fn ordered(list: &[(&'static str, &[&'static str])]) -> Result<Vec<String>> {
        let mut callbacks: Vec<Box<dyn Callback>> =
            list.iter().map(|(n, d)| Box::new(Named(n, d.to_vec())) as Box<dyn Callback>).collect();
        order(&mut callbacks)?;
        Ok(callbacks.iter().map(|c| c.name().to_owned()).collect())
    }

    #[test]
    fn dependencies_come_first_and_the_given_order_is_kept_otherwise() {
        let names = ordered(&[("d", &["b"]), ("a", &[]), ("b", &["c"]), ("c", &[])]).unwrap();
        assert_eq!(names, ["c", "b", "d", "a"]);
        let names = ordered(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &["c", "b"])]).unwrap();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn unknown_circular_and_duplicate_names_are_errors() {
        let unknown = ordered(&[("a", &["x"])]).unwrap_err().to_string();
        assert!(unknown.contains("`a` needs `x`"), "{unknown}");
        let cycle = ordered(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]).unwrap_err().to_string();
        assert!(cycle.contains("circle: a, b"), "{cycle}");
        assert!(ordered(&[("a", &[]), ("a", &[])]).is_err());
    }
}
