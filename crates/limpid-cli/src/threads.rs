//! The threads of a process: rayon's pool, and one with a stack big enough for deep graphs.

use std::num::NonZeroUsize;
use std::thread;

use crate::failure::Failure;

/// Threads beyond which a number is a slip of the keyboard.
const MOST: usize = 4096;

/// Bytes of the big stack. Only pages that are touched count as memory.
const BIG_STACK: usize = 256 << 20;

/// Starts the pool that everything computes on, with a thread per core unless told otherwise, and
/// returns their number. Results never depend on it.
///
/// The calling thread is one of them, so that an operation need not wake another thread to begin;
/// call it on the thread that will compute. Other threads get the work of the rest of the pool done,
/// which is why a pool of one is a thread of its own.
///
/// # Errors
/// [`Kind::Config`](crate::Kind::Config) for more than 4096; [`Kind::Run`](crate::Kind::Run) if the threads
/// cannot be started, or a pool of another size runs already.
pub fn init_threads(threads: Option<NonZeroUsize>) -> Result<usize, Failure> {
    let threads = match threads {
        Some(n) => n.get(),
        None => thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    if threads > MOST {
        return Err(Failure::config(format!("{threads} threads are more than the {MOST} at most"))
            .hint("leave `--threads` out for one per core"));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("compute-{i}"));
    let pool = if threads > 1 { pool.use_current_thread() } else { pool };
    match pool.build_global() {
        Ok(()) => Ok(threads),
        Err(_) if rayon::current_num_threads() == threads => Ok(threads),
        Err(e) => Err(Failure::run(e).hint("choose another number with `--threads N`")),
    }
}

/// Runs `f` on a thread with a stack of 256 MB and waits for it: walking a deep graph backward
/// recurses once per node, and the stack of the main thread is 8 MB.
///
/// # Errors
/// [`Kind::Run`](crate::Kind::Run) if the thread cannot be started.
///
/// # Panics
/// When `f` panics, with its payload.
pub fn on_big_stack<R: Send>(f: impl FnOnce() -> R + Send) -> Result<R, Failure> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("main".into())
            .stack_size(BIG_STACK)
            .spawn_scoped(scope, f)
            .map_err(|e| Failure::run(e).hint("memory for the stack of a thread is missing"))?;
        match worker.join() {
            Ok(result) => Ok(result),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_started_once_and_asking_again_must_agree() {
        assert_eq!(init_threads(NonZeroUsize::new(2)).unwrap(), 2);
        assert_eq!(rayon::current_num_threads(), 2);
        assert_eq!(init_threads(NonZeroUsize::new(2)).unwrap(), 2);
        assert_eq!(init_threads(NonZeroUsize::new(3)).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn panics_come_through_the_big_stack() {
        assert_eq!(on_big_stack(|| 7).unwrap(), 7);
        let caught = std::panic::catch_unwind(|| on_big_stack(|| std::panic::panic_any(5_i32)));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&5));
    }
}
