//! Progress for people: a bar with time left on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use limpid_engine::{Event, Logs, Outcome, Sink};
use std::io::Write;
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const PLAIN_EVERY: f64 = 5.0;

/// `1h 02m`, `3m 05s` or `7s`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

/// Speed and time left, measured over this process.
#[derive(Debug, Default)]
struct Rate {
    first: Option<(u64, f64)>,
}

impl Rate {
    /// Steps per second and seconds left.
    fn at(&mut self, step: u64, steps: u64, seconds: f64) -> Option<(f64, f64)> {
        let (s0, t0) = *self.first.get_or_insert((step, seconds));
        let rate = (step > s0).then(|| (step - s0) as f64 / (seconds - t0).max(1e-9))?;
        Some((rate, steps.saturating_sub(step) as f64 / rate))
    }
}

/// Speed and time left of work that is told in units, measured by our own clock.
#[derive(Debug)]
struct Work {
    began: Instant,
    task: String,
    done: u64,
    rate: Rate,
}

impl Work {
    fn new() -> Self {
        Self { began: Instant::now(), task: String::new(), done: 0, rate: Rate::default() }
    }

    /// What is said after so many units, `seconds` after some beginning.
    fn pace(&mut self, task: &str, done: u64, total: u64, seconds: f64) -> String {
        if task != self.task || done < self.done {
            // other work, or the same with the next file
            (self.task, self.rate) = (task.to_owned(), Rate::default());
        }
        self.done = done;
        match self.rate.at(done, total, seconds) {
            Some((rate, left)) if rate < 1.0 => {
                format!("  {} each  eta {}", duration(rate.recip()), duration(left))
            }
            Some((rate, left)) => format!("  {}/s  eta {}", short(rate), duration(left)),
            None => String::new(),
        }
    }

    /// The same now.
    fn pace_now(&mut self, task: &str, done: u64, total: u64) -> String {
        self.pace(task, done, total, self.began.elapsed().as_secs_f64())
    }
}

/// The main losses of a step in a few words.
fn losses(logs: &Logs) -> String {
    let main = logs.iter().filter(|(k, _)| k.as_str() == "loss" || k.starts_with("loss/"));
    main.map(|(k, v)| format!("{k} {}", short(*v))).collect::<Vec<_>>().join("  ")
}

fn scores(logs: &Logs) -> String {
    logs.iter().map(|(k, v)| format!("{k} {}", short(*v))).collect::<Vec<_>>().join("  ")
}

/// A number with four significant digits.
fn short(v: f64) -> String {
    if v == 0.0 || (1e-3..1e5).contains(&v.abs()) {
        let digits = (3 - v.abs().max(1e-3).log10().floor() as i32).clamp(0, 6) as usize;
        format!("{v:.digits$}")
    } else {
        format!("{v:.3e}")
    }
}

/// Plain lines on a stream, for logs and pipes.
pub struct Plain<W: Write> {
    out: W,
    rate: Rate,
    work: Work,
    last: Option<Instant>,
}

impl<W: Write> Plain<W> {
    /// Lines to a stream, a few seconds apart.
    pub fn new(out: W) -> Self {
        Self { out, rate: Rate::default(), work: Work::new(), last: None }
    }

    fn line(&mut self, text: &str) {
        // a reader that went away must not stop the run
        let _ = writeln!(self.out, "{text}");
    }

    fn due(&mut self, last_step: bool) -> bool {
        let due = last_step || self.last.is_none_or(|t| t.elapsed().as_secs_f64() >= PLAIN_EVERY);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

impl<W: Write> Sink for Plain<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, steps, logs, seconds, .. } => {
                let rate = self.rate.at(*step, *steps, *seconds);
                if self.due(step == steps) {
                    let pace = rate.map_or_else(String::new, |(rate, left)| {
                        format!("  {} steps/s  eta {}", short(rate), duration(left))
                    });
                    self.line(&format!("step {step}/{steps}  {}{pace}", losses(logs)));
                }
            }
            Event::Progress { task, done, total } => {
                let pace = self.work.pace_now(task, *done, *total);
                if self.due(done == total) {
                    self.line(&format!("{task} {done}/{total}{pace}"));
                }
            }
            other => {
                if let Some(text) = occasional(other) {
                    self.line(&text);
                }
            }
        }
    }
}

/// What both kinds of progress say of the rarer events.
fn occasional(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { step: 0, parameters, batches, steps, .. } => format!(
            "training {} parameters for {steps} steps, {batches} batches an epoch",
            thousands(*parameters)
        ),
        Event::Started { step, steps, .. } => format!("going on at step {step} of {steps}"),
        Event::Memory(plan) => plan.to_string(),
        Event::Validation { step, set, scores: s, seconds, .. } => {
            format!("step {step}  {set}: {}  ({})", scores(s), duration(*seconds))
        }
        Event::Warning { message } => format!("warning: {message}"),
        Event::Ended { step, outcome, seconds } => match outcome {
            Outcome::Finished => format!("finished at step {step} in {}", duration(*seconds)),
            Outcome::Interrupted => {
                format!("stopped at step {step}; run the same command to continue")
            }
            Outcome::Failed => format!("failed at step {step}"),
        },
        _ => return None,
    })
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
    parts.join(" ")
}

/// A progress bar on a terminal.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    rate: Rate,
    work: Work,
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    /// A bar on standard error.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, rate: Rate::default(), work: Work::new() }
    }
}

impl Sink for Terminal {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, steps, logs, seconds, .. } => {
                self.bar.set_length(*steps);
                self.bar.set_position(*step);
                let pace = self.rate.at(*step, *steps, *seconds).map_or_else(String::new, |r| {
                    format!("  {} steps/s  eta {}", short(r.0), duration(r.1))
                });
                self.bar.set_message(format!("{}{pace}", losses(logs)));
            }
            Event::Progress { task, done, total } => {
                self.bar.set_length(*total);
                self.bar.set_position(*done);
                let pace = self.work.pace_now(task, *done, *total);
                self.bar.set_message(format!("{task}{pace}"));
                if done == total {
                    self.bar.finish_and_clear();
                }
            }
            other => {
                if let Some(text) = occasional(other) {
                    self.bar.suspend(|| {
                        // the bar's own stream: standard error
                        let _ = writeln!(std::io::stderr(), "{text}");
                    });
                }
                if matches!(other, Event::Ended { .. }) {
                    self.bar.finish_and_clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(
            [short(0.02134), short(34.127), short(1.5e-6)],
            ["0.02134", "34.13", "1.500e-6"]
        );
        assert_eq!([duration(7.2), duration(185.0), duration(3720.0)], ["7s", "3m 05s", "1h 02m"]);
        assert_eq!([thousands(999), thousands(1_234_567)], ["999", "1 234 567"]);
    }

    #[test]
    fn plain_lines_tell_pace_scores_and_how_to_go_on() {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        let step = |step, seconds| Event::Step {
            step,
            steps: 100,
            epoch: 0,
            logs: Logs::from([("loss".into(), 0.5), ("lr/net".into(), 0.1)]),
            samples: 0,
            seconds,
        };
        plain.event(&step(10, 1.0));
        plain.event(&step(100, 10.0));
        let scores = Logs::from([("psnr".into(), 30.0)]);
        plain.event(&Event::Validation {
            step: 100,
            set: "validation".into(),
            scores,
            cases: Vec::new(),
            seconds: 2.0,
        });
        plain.event(&Event::Ended { step: 50, outcome: Outcome::Interrupted, seconds: 1.0 });
        let text = String::from_utf8(out).unwrap();
        let expected = "step 10/100  loss 0.5000\n\
            step 100/100  loss 0.5000  10.00 steps/s  eta 0s\n\
            step 100  validation: psnr 30.00  (2s)\n\
            stopped at step 50; run the same command to continue\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn work_tells_its_pace_anew_for_every_task() {
        let mut work = Work::new();
        let mut pace = |task: &str, done, seconds| work.pace(task, done, 10, seconds);
        assert_eq!(pace("restoring", 1, 5.0), "", "one unit has no pace yet");
        assert_eq!(pace("restoring", 6, 7.5), "  2.000/s  eta 2s");
        assert_eq!(pace("restoring", 1, 8.0), "", "the next file");
        assert_eq!(pace("restoring", 3, 108.0), "  50s each  eta 5m 50s");
        assert_eq!(pace("reading", 4, 109.0), "");
    }
}
