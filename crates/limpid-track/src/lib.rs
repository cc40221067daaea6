//! Consumers of engine events: the metrics log, progress for people and for programs, pictures, and
//! the report of a finished run.
//!
//! Invariants: nothing here changes a run. A sink that cannot write says so once.

mod jsonl;
mod pictures;
mod progress;
pub mod report;

pub use jsonl::{JsonLines, MetricsLine, MetricsLog, read_metrics};
pub use pictures::{Pictures, png};
pub use progress::{Plain, Terminal, duration};
