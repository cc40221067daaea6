//! What the engine tells the outside world. It prints nothing and writes no log itself: consumers
//! of these events do.

use crate::SampleId;
use limpid_kernels::memory::shown;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Named numbers in order of name.
pub type Logs = BTreeMap<String, f64>;

/// Something that happened in a run, in the order it happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Training begins or goes on.
    Started {
        /// Name of the run.
        run: String,
        /// Steps already done (0 unless resumed).
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Trainable parameters.
        parameters: usize,
        /// Batches in an epoch.
        batches: u64,
    },
    /// The memory that training is going to take of a GPU, before it begins.
    Memory(MemoryPlan),
    /// An optimizer step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Epoch, from 0.
        epoch: u64,
        /// Losses and other values of the step, learning rates (`lr/NAME`), gradient norms.
        logs: Logs,
        /// Samples seen since the run began.
        samples: u64,
        /// Seconds of this process since training began or went on.
        seconds: f64,
    },
    /// A validation is done.
    Validation {
        /// Steps done.
        step: u64,
        /// Name of the set.
        set: String,
        /// Mean of each score over the cases.
        scores: Logs,
        /// Scores of each case.
        cases: Vec<(SampleId, Logs)>,
        /// Seconds it took.
        seconds: f64,
    },
    /// A picture to look at.
    Picture {
        /// Steps done.
        step: u64,
        /// Name of the set it belongs to.
        set: String,
        /// What it shows.
        picture: Picture,
    },
    /// A checkpoint has been written.
    Checkpoint {
        /// Steps done.
        step: u64,
        /// Its directory.
        path: PathBuf,
        /// Whether it is the best so far.
        best: bool,
    },
    /// Something the user should know that does not stop the run.
    Warning {
        /// What.
        message: String,
    },
    /// Work with a known amount moves on: tiles of a prediction, files of a preparation.
    Progress {
        /// What is being done.
        task: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// The run has ended.
    Ended {
        /// Steps done.
        step: u64,
        /// Why.
        outcome: Outcome,
        /// Seconds of this process.
        seconds: f64,
    },
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters, buffers and averaged weights.
    pub weights: u64,
    /// What optimizers keep.
    pub optimizers: u64,
    /// Passes over a batch, with its gradients.
    pub passes: u64,
    /// What is left on the device beside what is held already.
    pub free: u64,
    /// Of all this, what is held already.
    pub held: u64,
}

impl MemoryPlan {
    /// What has still to be found.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        (self.weights + self.optimizers + self.passes).saturating_sub(self.held)
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "memory: weights {}, optimizers {}, passes over a batch {}; {} to find, {} free",
            shown(self.weights),
            shown(self.optimizers),
            shown(self.passes),
            shown(self.wanted()),
            shown(self.free)
        )
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done, or a callback asked to stop.
    Finished,
    /// Ctrl-C, SIGTERM or a stop file; the same command goes on.
    Interrupted,
    /// An error.
    Failed,
}

/// Grey images side by side, values in a common window.
#[derive(Clone, Debug)]
pub struct Picture {
    /// File name without extension.
    pub name: String,
    /// Height and width of each panel.
    pub size: [usize; 2],
    /// Title and row-major pixels of each panel.
    pub panels: Vec<(String, Vec<f32>)>,
    /// Values shown black and white.
    pub window: [f32; 2],
}

/// A consumer of events.
pub trait Sink {
    /// Takes note of an event. A sink that fails must not stop the run: it reports by itself.
    fn event(&mut self, event: &Event);
}

impl Sink for Vec<Box<dyn Sink + '_>> {
    fn event(&mut self, event: &Event) {
        for sink in self {
            sink.event(event);
        }
    }
}

/// A sink that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Sink for Silent {
    fn event(&mut self, _: &Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_memory_reads_well() {
        let (mib, gib) = (1 << 20, 1 << 30);
        let plan = MemoryPlan {
            weights: 250 * mib,
            optimizers: 500 * mib,
            passes: 3 * gib,
            free: 7 * gib + gib / 2,
            held: 250 * mib,
        };
        let said = "memory: weights 250 MiB, optimizers 500 MiB, passes over a batch 3.00 GiB; 3.49 GiB to find, 7.50 GiB free";
        assert_eq!(plan.to_string(), said);
    }
}
