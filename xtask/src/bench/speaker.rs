//! The programs that do the works, and the talk with them: a command, a line of JSON back.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::process::{cargo, root, run, shown, target};

/// Layouts of images that PyTorch is measured in.
pub(super) const LAYOUTS: [&str; 2] = ["nchw", "channels_last"];

/// How to start the two programs.
pub(super) struct Programs {
    ours: PathBuf,
    /// Python with PyTorch, if there is a comparison.
    peer: Option<PathBuf>,
    threads: usize,
}

impl Programs {
    /// Builds ours; makes an environment for the other, if wanted and none is given.
    pub(super) fn new(peer: bool, python: Option<&Path>, threads: usize) -> Result<Self, String> {
        run(&mut cargo(&["build", "--release", "-p", "limpid-tests", "--example", "bench"]))?;
        let peer = match (peer, python) {
            (false, _) => None,
            (true, Some(python)) => Some(python.to_owned()),
            (true, None) => Some(environment()?),
        };
        Ok(Self { ours: target().join("release/examples/bench"), peer, threads })
    }

    pub(super) fn compares(&self) -> bool {
        self.peer.is_some()
    }

    /// Our program at a work.
    pub(super) fn ours(&self, words: &str) -> Result<Speaker, String> {
        self.start(Command::new(&self.ours), words)
    }

    /// PyTorch at a work.
    pub(super) fn peer(&self, layout: &str, words: &str) -> Result<Speaker, String> {
        let python = self.peer.as_deref().ok_or("there is nothing to compare with")?;
        let mut command = Command::new(python);
        command.arg(root().join("tests/bench/peer.py")).arg(layout);
        // leave no compiled files in the source tree
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        self.start(command, words)
    }

    fn start(&self, mut command: Command, words: &str) -> Result<Speaker, String> {
        command.args(words.split(' '));
        for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(name, self.threads.to_string());
        }
        Speaker::start(command)
    }
}

/// A virtual environment of what the requirements say.
fn environment() -> Result<PathBuf, String> {
    let folder = target().join("bench/venv");
    let requirements = root().join("tests/bench/requirements.txt");
    let (python, done) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let wanted =
        std::fs::read(&requirements).map_err(|e| format!("{}: {e}", requirements.display()))?;
    if std::fs::read(&done).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "-r"]).arg(&requirements))?;
    std::fs::write(&done, wanted).map_err(|e| format!("{}: {e}", done.display()))?;
    Ok(python)
}

/// A program at its work.
pub(crate) struct Speaker {
    name: String,
    child: Child,
    /// Closing it ends the program.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said of the work after doing it once.
    pub(super) hello: Value,
    /// Seconds until it said so.
    pub(super) start: f64,
}

impl Speaker {
    pub(crate) fn start(mut command: Command) -> Result<Self, String> {
        let name = shown(&command);
        let start = Instant::now();
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|e| format!("cannot run {name}: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or("no standard output")?);
        let mut speaker = Self { name, child, input, output, hello: Value::Null, start: 0.0 };
        speaker.hello = speaker.answer()?;
        speaker.start = start.elapsed().as_secs_f64();
        Ok(speaker)
    }

    /// A command and its answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Value, String> {
        let input = self.input.as_mut().ok_or("no standard input")?;
        writeln!(input, "{command}").map_err(|e| format!("{}: {e}", self.name))?;
        self.answer()
    }

    /// One number of the answer to a command.
    pub(crate) fn number(&mut self, command: &str, key: &str) -> Result<f64, String> {
        let answer = self.ask(command)?;
        number(&answer, key).ok_or_else(|| format!("{}: no `{key}` in {answer}", self.name))
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|e| format!("{}: {e}", self.name))?;
        serde_json::from_str(&line).map_err(|_| format!("{} said no more", self.name))
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.input.take());
        // its memory must be free before the next begins
        let _ = self.child.wait();
    }
}

/// A number in an answer.
pub(super) fn number(answer: &Value, key: &str) -> Option<f64> {
    answer.get(key).and_then(Value::as_f64)
}
