//! Stopping politely: the first SIGINT (Ctrl-C) or SIGTERM asks the run to stop after its step, with
//! a checkpoint; a SIGINT after that ends the process at once with exit code 130.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Kind};

/// Whether, and by which signal, the process was asked to stop.
#[derive(Debug, Clone)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

static INSTALLED: OnceLock<Interrupt> = OnceLock::new();

/// Listens for the signals from now on. Installing twice gives the same [`Interrupt`].
///
/// # Errors
/// [`Kind::Run`] if the system refuses the handlers.
pub fn install() -> Result<Interrupt, Failure> {
    if let Some(interrupt) = INSTALLED.get() {
        return Ok(interrupt.clone());
    }
    let interrupt = Interrupt { requested: Arc::default(), signal: Arc::default() };
    interrupt
        .register()
        .map_err(|e| Failure::new(Kind::Run, e).hint("cannot listen for signals"))?;
    Ok(INSTALLED.get_or_init(|| interrupt).clone())
}

impl Interrupt {
    /// Handlers run in the order they are registered: the one that ends the process looks at the
    /// flag before the same signal raises it.
    fn register(&self) -> io::Result<()> {
        flag::register_conditional_shutdown(SIGINT, 130, self.requested.clone())?;
        for signal in [SIGINT, SIGTERM] {
            flag::register_usize(signal, self.signal.clone(), signal as usize)?;
            flag::register(signal, self.requested.clone())?;
        }
        Ok(())
    }

    /// The flag to look at after every step.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.requested.clone()
    }

    /// Whether the process was asked to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Name of the last signal, `SIGINT` or `SIGTERM`.
    #[must_use]
    pub fn signal(&self) -> Option<&'static str> {
        match self.signal.load(Ordering::SeqCst) as i32 {
            SIGINT => Some("SIGINT"),
            SIGTERM => Some("SIGTERM"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;
    use std::process::Command;

    /// What a child process does; signals are for whole processes.
    const ROLE: &str = "LIMPID_TEST_SIGNALS";

    #[test]
    fn child() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let interrupt = install().unwrap();
        assert!(!interrupt.requested() && interrupt.signal().is_none());
        let first = if role == "term" { SIGTERM } else { SIGINT };
        raise(first).unwrap();
        assert!(install().unwrap().flag().load(Ordering::SeqCst));
        assert_eq!(interrupt.signal(), Some(if role == "term" { "SIGTERM" } else { "SIGINT" }));
        if role == "term" {
            raise(SIGTERM).unwrap();
            assert!(interrupt.requested(), "a second SIGTERM still waits for the checkpoint");
        }
        raise(SIGINT).unwrap();
        unreachable!("the second signal ends the process");
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends_the_process() {
        for role in ["int", "term"] {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "interrupt::tests::child"])
                .env(ROLE, role)
                .output()
                .unwrap()
                .status;
            assert_eq!(status.code(), Some(130), "{role}");
        }
    }
}
