//! `metrics.jsonl`: one JSON object per line, appended as things happen, so that it survives a
//! killed process; and the same lines on a stream for programs.

use limpid_engine::{Event, Logs, Outcome, Sink};
use serde_json::{Map, Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Appends losses and scores to `metrics.jsonl` in a run directory.
///
/// When a run goes on from a checkpoint, lines of later steps are removed first: the log always
/// tells one history.
pub struct MetricsLog<'a> {
    path: PathBuf,
    complained: bool,
    complain: Box<dyn FnMut(String) + 'a>,
}

impl<'a> MetricsLog<'a> {
    /// The log of a run directory. `complain` is told once when it cannot be written; the log goes
    /// on trying.
    #[must_use]
    pub fn new(run: &Path, complain: impl FnMut(String) + 'a) -> Self {
        let path = run.join("metrics.jsonl");
        Self { path, complained: false, complain: Box::new(complain) }
    }

    fn cut_after(&self, step: u64) -> std::io::Result<()> {
        let Ok(text) = fs::read_to_string(&self.path) else { return Ok(()) };
        let kept: String = text
            .lines()
            .filter(|line| {
                serde_json::from_str::<Value>(line)
                    .ok()
                    .and_then(|v| v.get("step")?.as_u64())
                    .is_some_and(|s| s <= step)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        if kept != text {
            limpid_io::atomic::write_bytes(&self.path, kept.as_bytes())
                .map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    fn append(&self, line: &Value) -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(format!("{line}\n").as_bytes())
    }
}

impl Sink for MetricsLog<'_> {
    fn event(&mut self, event: &Event) {
        let result = match event {
            Event::Started { step, .. } => self.cut_after(*step),
            Event::Step { .. } | Event::Validation { .. } => self.append(&to_json(event)),
            _ => Ok(()),
        };
        if let Err(e) = result
            && !std::mem::replace(&mut self.complained, true)
        {
            (self.complain)(format!(
                "warning: metrics are being lost: {e}\nfile: {}",
                self.path.display()
            ));
        }
    }
}

/// Writes every event as a JSON line, for programs that watch a run.
pub struct JsonLines<W: Write> {
    out: W,
}

impl<W: Write> JsonLines<W> {
    /// Lines to a stream.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn event(&mut self, event: &Event) {
        if matches!(event, Event::Picture { .. }) {
            return;
        }
        // a reader that went away must not stop the run
        let _ = writeln!(self.out, "{}", to_json(event));
        let _ = self.out.flush();
    }
}

fn to_json(event: &Event) -> Value {
    match event {
        Event::Started { run, step, steps, parameters, batches } => json!({
            "event": "started", "run": run, "step": step, "steps": steps,
            "parameters": parameters, "batches": batches,
        }),
        Event::Memory(plan) => json!({
            "event": "memory", "weights": plan.weights, "optimizers": plan.optimizers,
            "passes": plan.passes, "held": plan.held, "free": plan.free,
        }),
        Event::Step { step, steps, epoch, logs, samples, seconds } => json!({
            "event": "step", "split": "train", "step": step, "steps": steps, "epoch": epoch,
            "samples": samples, "seconds": seconds, "values": values(logs),
        }),
        Event::Validation { step, set, scores, cases, seconds } => json!({
            "event": "validation", "split": set, "step": step, "cases": cases.len(),
            "seconds": seconds, "values": values(scores),
        }),
        Event::Picture { step, set, picture } => json!({
            "event": "picture", "split": set, "step": step, "name": picture.name,
        }),
        Event::Checkpoint { step, path, best } => json!({
            "event": "checkpoint", "step": step, "path": path, "best": best,
        }),
        Event::Warning { message } => json!({ "event": "warning", "message": message }),
        Event::Progress { task, done, total } => json!({
            "event": "progress", "task": task, "done": done, "total": total,
        }),
        Event::Ended { step, outcome, seconds } => json!({
            "event": "ended", "step": step, "seconds": seconds,
            "outcome": match outcome {
                Outcome::Finished => "finished",
                Outcome::Interrupted => "interrupted",
                Outcome::Failed => "failed",
            },
        }),
        _ => json!({ "event": "other" }),
    }
}

/// Numbers as JSON; what is not finite becomes a string, since JSON has no such number.
fn values(logs: &Logs) -> Map<String, Value> {
    logs.iter()
        .map(|(k, v)| {
            let number = serde_json::Number::from_f64(*v);
            (k.clone(), number.map_or_else(|| Value::String(v.to_string()), Value::Number))
        })
        .collect()
}

/// One line of a metrics log: step, split (`"train"` or a validation set), values.
pub type MetricsLine = (u64, String, Logs);

/// Reads a metrics log; a last line cut short by a killed process is left out.
///
/// # Errors
/// If the file cannot be read.
pub fn read_metrics(run: &Path) -> std::io::Result<Vec<MetricsLine>> {
    let text = fs::read_to_string(run.join("metrics.jsonl"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let v: Value = serde_json::from_str(line).ok()?;
            let number = |v: &Value| match v {
                Value::String(s) => s.parse().ok(),
                v => v.as_f64(),
            };
            let logs = v.get("values")?.as_object()?;
            let logs = logs.iter().filter_map(|(k, v)| Some((k.clone(), number(v)?))).collect();
            Some((v.get("step")?.as_u64()?, v.get("split")?.as_str()?.to_owned(), logs))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> Event {
        Event::Step {
            step,
            steps: 10,
            epoch: 0,
            logs: Logs::from([("loss".to_owned(), loss)]),
            samples: step,
            seconds: 1.0,
        }
    }

    fn started(step: u64) -> Event {
        Event::Started { run: "r".into(), step, steps: 10, parameters: 1, batches: 1 }
    }

    #[test]
    fn a_resumed_run_tells_one_history() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::new(dir.path(), |m| panic!("{m}"));
        log.event(&started(0));
        for i in 1..=5 {
            log.event(&step(i, i as f64));
        }
        let file = dir.path().join("metrics.jsonl");
        let mut bytes = fs::read(&file).unwrap();
        bytes.extend_from_slice(b"{\"step\": 6, \"val");
        fs::write(&file, bytes).unwrap();
        assert_eq!(read_metrics(dir.path()).unwrap().len(), 5);
        log.event(&started(3));
        log.event(&step(4, f64::NAN));
        let lines = read_metrics(dir.path()).unwrap();
        assert_eq!(lines.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(lines[3].2["loss"].is_nan());
    }
}
