//! The state of a run as a checkpoint: going on from one, back to one, and a last one after an error.

use super::{Batched, Fit};
use crate::callback::{Control, Hook};
use crate::checkpoint::{self, SavedGroup, SavedState, Snapshot};
use crate::stepper::Mode;
use crate::{Batch, Error, Event, Model, NonFinite, Result};
use candle_core::Tensor;
use limpid_nn::ema::Ema;
use std::collections::BTreeMap;

/// Bad batches in a row that are left out before training gives up.
const SKIP_LIMIT: u64 = 20;
const ROLLBACK_LIMIT: u64 = 5;

impl Fit<'_, '_, '_> {
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let mut state = SavedState::new(
            &self.run.status().config,
            &self.fingerprint,
            self.state.progress.clone(),
        );
        let mut optimizers = BTreeMap::new();
        for g in &self.state.groups {
            for (name, tensor) in g.optimizer.state_tensors()? {
                optimizers.insert(format!("{}/{name}", g.name), tensor);
            }
            let scaler = g.scaler.as_ref().map(serde_json::to_value);
            let saved = SavedGroup {
                schedule: g.schedule.save(),
                scaler: scaler.and_then(std::result::Result::ok).unwrap_or_default(),
                overflows: g.overflows,
            };
            state.groups.insert(g.name.clone(), saved);
        }
        for c in &self.trainer.callbacks {
            state.callbacks.insert(c.name().to_owned(), c.save());
        }
        if let Some(ema) = &self.state.ema {
            state.ema = ema.state();
        }
        Ok(Snapshot {
            weights: self.state.model.params().tensors(),
            ema: self.state.ema.as_ref().map(Ema::tensors),
            optimizers,
            state,
        })
    }

    /// Goes on from the newest checkpoint, if there is one, and removes what is beyond it: damaged
    /// checkpoints, which by their step would count as the latest when old ones are cleared away.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.checkpoints.tidy();
        let sink = &mut *self.sink;
        let mut warn = |message| sink.event(&Event::Warning { message });
        let Some(snapshot) = self.checkpoints.latest(&mut warn)? else { return Ok(()) };
        if !self.trainer.allow_changed {
            let differs = if snapshot.state.config != self.run.status().config {
                Some("configuration")
            } else if snapshot.state.data != self.fingerprint {
                Some("data")
            } else {
                None
            };
            if let Some(what) = differs {
                return Err(Error::Checkpoint {
                    path: self.run.path().join("checkpoints"),
                    message: format!("the checkpoint was made with another {what}"),
                    hint: "begin a new run with `--fresh`, or go on all the same with `--allow-changed`".into(),
                });
            }
        }
        self.restore_tensors(&snapshot)?;
        for c in &mut self.trainer.callbacks {
            if let Some(value) = snapshot.state.callbacks.get(c.name()).filter(|v| !v.is_null()) {
                c.load(value)?;
            }
        }
        self.state.progress = snapshot.state.progress;
        self.checkpoints.remove_after(self.state.progress.step);
        Ok(())
    }

    fn restore_tensors(&mut self, snapshot: &Snapshot) -> Result<()> {
        let params = self.state.model.params();
        let names = params.shapes().into_keys();
        let missing: Vec<_> = names.filter(|n| !snapshot.weights.contains_key(n)).collect();
        if !missing.is_empty() {
            let message = format!("the checkpoint lacks parameters: {}", missing.join(", "));
            if !self.trainer.allow_changed {
                return Err(Error::Checkpoint {
                    path: self.run.path().join("checkpoints"),
                    message,
                    hint: "begin a new run with `--fresh`, or go on with their initial values with `--allow-changed`".into(),
                });
            }
            let message = format!("{message}; they keep their initial values");
            self.sink.event(&Event::Warning { message });
        }
        params.set(&snapshot.weights)?;
        for g in &mut self.state.groups {
            let prefix = format!("{}/", g.name);
            let own = snapshot
                .optimizers
                .iter()
                .filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_owned(), t.clone())))
                .collect();
            g.optimizer.load_state(&own)?;
            if let Some(saved) = snapshot.state.groups.get(&g.name) {
                g.schedule.load(&saved.schedule);
                g.overflows = saved.overflows;
                // only where the configuration has one: it may have been switched on or off since
                if let Some(scaler) = &mut g.scaler
                    && let Ok(saved) = serde_json::from_value(saved.scaler.clone())
                {
                    *scaler = saved;
                }
            }
        }
        if let Some(config) = &self.trainer.config.ema {
            // what the checkpoint has no average of begins with its restored weight
            let mut ema = Ema::new(config, self.state.model.params())?;
            if let Some(saved) = &snapshot.ema {
                let mut averages = ema.tensors();
                averages.extend(saved.clone());
                ema.load(&averages, &snapshot.state.ema)?;
            }
            self.state.ema = Some(ema);
        }
        Ok(())
    }

    /// Whether the policy writes a checkpoint at this step in every run of the configuration, however
    /// often it is interrupted.
    pub(super) fn regular(&self, step: u64) -> bool {
        step == 0 || step.checked_rem(self.trainer.config.checkpoint.every_steps) == Some(0)
    }

    /// Finds the checkpoint to go back to under the policy `rollback`: the newest regular one. A new
    /// run writes one at step 0; so does a run that has none, for instance as it began under another
    /// policy, at the step where it goes on.
    pub(super) fn prepare_rollback(&mut self) -> Result<()> {
        if self.trainer.config.nonfinite != NonFinite::Rollback {
            return Ok(());
        }
        let mut list = self.checkpoints.list();
        list.retain(|c| self.regular(c.step));
        self.rollback = list.pop();
        if self.rollback.is_none() {
            let path = self.checkpoints.save(&self.snapshot()?)?;
            self.rollback =
                Some(checkpoint::CheckpointInfo { step: self.state.progress.step, path });
        }
        Ok(())
    }

    /// The error, with the layer in which numbers ceased to be finite if it says that they did:
    /// the passes over a prepared batch are rehearsed under a watch, which leaves the model as it is.
    pub(super) fn with_layer(&mut self, error: Error, batch: &Batch) -> Result<Error> {
        let Error::NonFinite { what, step, place } = error else { return Ok(error) };
        let before = buffers(self.state.model)?;
        let ctx = self.ctx();
        let scales = vec![None; self.state.groups.len()];
        let (_, layer) = limpid_nn::first_nonfinite_layer(|| {
            self.run_step(batch, &ctx, &scales, true, Mode::Rehearsal)
        });
        self.state.model.params().set(&before)?;
        let what = match layer {
            Some(layer) => format!("{what}, first after layer `{layer}`,"),
            None => what,
        };
        Ok(Error::NonFinite { what, step, place })
    }

    /// Deals with a value that is not finite as configured.
    pub(super) fn recover(&mut self, error: Error) -> Result<Batched> {
        let policy = self.trainer.config.nonfinite;
        self.bad_in_a_row += 1;
        let limit = match policy {
            NonFinite::Stop => 0,
            NonFinite::Skip => SKIP_LIMIT,
            NonFinite::Rollback => ROLLBACK_LIMIT,
        };
        if self.bad_in_a_row > limit {
            return Err(error);
        }
        match &self.rollback {
            Some(to) => self.restore_tensors(&checkpoint::read(&to.path)?)?,
            // running statistics that saw the bad batch are taken back
            None => self.state.model.params().set(&std::mem::take(&mut self.buffers))?,
        }
        for g in &mut self.state.groups {
            g.gradients.clear();
            g.overflow = None;
        }
        self.micro = 0;
        self.micro_logs.clear();
        self.state.progress.skipped += 1;
        let message = format!("left a batch out: {error}");
        self.sink.event(&Event::Warning { message });
        Ok(Batched::Skipped)
    }

    /// After an error: a last checkpoint if the state is that between two steps, and word to the
    /// callbacks. The error itself is what the user must see, so failures here are only warnings.
    pub(super) fn rescue(&mut self) {
        if !self.dirty
            && self.state.progress.step > 0
            && let Err(e) = self.snapshot().and_then(|s| self.checkpoints.save(&s))
        {
            self.sink.event(&Event::Warning { message: format!("no last checkpoint: {e}") });
        }
        let told = self.fire(Hook::Exception, &mut Control::default());
        for e in [told, self.note("failed")].into_iter().filter_map(Result::err) {
            self.sink.event(&Event::Warning { message: format!("while ending: {e}") });
        }
    }
}

/// Copies of the buffers (running statistics) of a model.
pub(super) fn buffers(model: &dyn Model) -> Result<BTreeMap<String, Tensor>> {
    let all = model.params().all();
    let own = all.iter().filter(|p| !p.trainable());
    own.map(|p| Ok((p.name().to_owned(), p.var().as_detached_tensor().copy()?))).collect()
}
