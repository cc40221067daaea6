//! Batches prepared ahead by threads, handed out in order.
//!
//! Threads take the next batch number as they become free and may run ahead of the reader by a
//! fixed number of batches and of bytes, so memory is bounded even if one batch takes long. A batch
//! in the making counts as much as the largest so far. What is in a batch depends on its number
//! alone. Threads stop when the iterator is dropped.

use crate::config::DataConfig;
use limpid_engine::{Batch, BoxError};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

#[cfg(test)]
mod tests;

/// Makes the batch of a number; asked in between whether anyone still wants it.
pub(crate) type Make =
    dyn Fn(u64, &dyn Fn() -> bool) -> Option<Result<Batch, BoxError>> + Send + Sync;

/// How far threads may run ahead of the reader.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Batches that may be made beyond the one the reader waits for.
    pub(crate) batches: u64,
    /// Bytes that they may take together; the one the reader waits for is always made.
    pub(crate) bytes: u64,
}

impl Ahead {
    /// As configured.
    pub(crate) fn of(config: &DataConfig) -> Self {
        let bytes = config.prefetch_mib.saturating_mul(1 << 20);
        Self { batches: config.prefetch.max(1) as u64, bytes }
    }
}

/// Batches of a range of an epoch.
pub(crate) struct Prefetch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    make: Arc<Make>,
    total: u64,
    ahead: Ahead,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Next number that nobody makes yet.
    next: u64,
    /// Next number that the reader wants.
    wanted: u64,
    ready: BTreeMap<u64, Result<Batch, BoxError>>,
    /// Bytes of those that are ready, and of the largest so far.
    bytes: u64,
    largest: Option<u64>,
    /// Batches that are being made.
    making: u64,
    stop: bool,
}

impl Prefetch {
    /// Starts the threads. If the system gives none, batches are made when asked for.
    pub(crate) fn new(make: Arc<Make>, numbers: Range<u64>, workers: usize, ahead: Ahead) -> Self {
        let state = State {
            next: numbers.start,
            wanted: numbers.start,
            ready: BTreeMap::new(),
            bytes: 0,
            largest: None,
            making: 0,
            stop: false,
        };
        let shared = Arc::new(Shared {
            make,
            total: numbers.end,
            ahead,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let count = numbers.end.saturating_sub(numbers.start).min(workers.max(1) as u64);
        let threads = (0..count)
            .map_while(|i| {
                let shared = shared.clone();
                Builder::new().name(format!("data-{i}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, threads }
    }
}

impl State {
    /// Whether the next batch may be made now. Before the size of any is known, only the one that
    /// the reader wants.
    fn may_start(&self, ahead: Ahead) -> bool {
        let fits = |largest: u64| {
            let made = largest.saturating_mul(self.making + 1);
            self.bytes.saturating_add(made) <= ahead.bytes
        };
        self.next == self.wanted
            || self.next <= self.wanted + ahead.batches && self.largest.is_some_and(fits)
    }
}

/// Bytes of the tensors of a batch.
fn bytes(batch: &Result<Batch, BoxError>) -> u64 {
    let of = |t: &candle_core::Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as u64;
    batch.as_ref().map_or(0, |b| b.tensors.values().map(of).sum())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does until all is made or the reader is gone.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            while !state.stop && state.next < self.total && !state.may_start(self.ahead) {
                state = self.wait(state);
            }
            if state.stop || state.next >= self.total {
                return;
            }
            let number = state.next;
            state.next += 1;
            state.making += 1;
            drop(state);
            let Some(batch) = self.make(number) else { return };
            let mut state = self.lock();
            state.making -= 1;
            state.largest = state.largest.max(Some(bytes(&batch)));
            state.bytes += bytes(&batch);
            state.ready.insert(number, batch);
            drop(state);
            self.changed.notify_all();
        }
    }

    fn make(&self, number: u64) -> Option<Result<Batch, BoxError>> {
        let wanted = || !self.lock().stop;
        // a reader that waits for a dead thread would wait forever
        catch_unwind(AssertUnwindSafe(|| (self.make)(number, &wanted))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            Some(Err(format!("a bug in the preparation of batch {number}: {text}").into()))
        })
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        let number = state.wanted;
        if number >= self.shared.total {
            return None;
        }
        let batch = if self.threads.is_empty() {
            drop(state);
            let batch = self.shared.make(number)?;
            state = self.shared.lock();
            batch
        } else {
            loop {
                if let Some(batch) = state.ready.remove(&number) {
                    state.bytes -= bytes(&batch);
                    break batch;
                }
                state = self.shared.wait(state);
            }
        };
        state.wanted += 1;
        drop(state);
        self.shared.changed.notify_all();
        Some(batch)
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // a thread's panic has been handed out as an error already
            let _ = thread.join();
        }
    }
}
