//! What memory of a GPU training will take, found with a part of the first batch before it begins.

use super::{Fit, restore};
use crate::stepper::Mode;
use crate::{Batch, Event, Loader, MemoryPlan, Result};
use candle_core::Tensor;
use limpid_kernels::{first_line, memory};

impl Fit<'_, '_, '_> {
    /// Says what memory training is going to take. Does nothing on the CPU.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn plan_memory(&mut self, loader: &dyn Loader) -> Result<()> {
        // a group would have to plan together
        let alone = self.trainer.communicator.is_none();
        if !alone || memory::of_device(&self.trainer.device)?.is_none() {
            return Ok(());
        }
        let (epoch, cursor) = (self.state.progress.epoch, self.state.progress.cursor);
        // a batch that cannot be read is spoken of when its turn comes
        let Some(Ok(batch)) = loader.epoch(epoch, cursor).next() else { return Ok(()) };
        let buffers = restore::buffers(self.state.model)?;
        let passes = self.bytes_of_passes(&batch);
        self.state.model.params().set(&buffers)?;
        let passes = match passes {
            Ok(passes) => passes,
            Err(e) => {
                let why = first_line(&e);
                let message = format!("what memory training takes was not found: {why}");
                self.sink.event(&Event::Warning { message });
                return Ok(());
            }
        };
        // now libraries and kernels are loaded, which take some too
        let Some(now) = memory::of_device(&self.trainer.device)? else { return Ok(()) };
        let bytes = |t: &Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as u64;
        let own: u64 = self.state.model.params().tensors().values().map(bytes).sum();
        let averaged = if self.state.ema.is_some() { own } else { 0 };
        let of_group = |g: &crate::state::Group| {
            let moved: u64 = g.params.iter().map(|p| bytes(p.var().as_tensor())).sum();
            moved * g.optimizer.tensors_per_parameter() as u64
        };
        let optimizers = self.state.groups.iter().map(of_group).sum();
        let (weights, free) = (own + averaged, now.free);
        let plan = MemoryPlan { weights, optimizers, passes, free, held: now.used };
        self.sink.event(&Event::Memory(plan));
        if plan.wanted() > free {
            let message = "that may be more than there is: make the batch or its patches smaller, or set `train.recompute` to `blocks`";
            self.sink.event(&Event::Warning { message: message.into() });
        }
        Ok(())
    }

    /// Of the passes over a batch, from those over one sample and over two.
    fn bytes_of_passes(&mut self, batch: &Batch) -> Result<u64> {
        let count = batch.len();
        let apart = batch.tensors.values().all(|t| t.dims().first() == Some(&count));
        if count < 2 || !apart {
            return self.peak_of_passes(batch.clone());
        }
        let mut first = |n| {
            let tensors = batch.tensors.iter().map(|(k, t)| Ok((k.clone(), t.narrow(0, 0, n)?)));
            let tensors = tensors.collect::<Result<_>>()?;
            self.peak_of_passes(Batch { tensors, ids: batch.ids[..n].to_vec() })
        };
        match (first(1), first(2)) {
            (Ok(one), Ok(two)) => Ok(one + two.saturating_sub(one) * (count as u64 - 1)),
            // normalisations may need more than one sample
            (Err(_), Ok(two)) => Ok(two.div_ceil(2) * count as u64),
            (_, Err(e)) => Err(e),
        }
    }

    fn peak_of_passes(&mut self, batch: Batch) -> Result<u64> {
        let device = self.trainer.device.clone();
        let used = memory::of_device(&device)?.map_or(0, |memory| memory.used);
        memory::watch(&device)?;
        let ctx = self.ctx();
        let batch = self.state.model.prepare(batch.to_device(&device)?, &ctx)?;
        let scales = vec![None; self.state.groups.len()];
        drop(self.run_step(&batch, &ctx, &scales, true, Mode::Gradients)?);
        let peak = memory::of_device(&device)?.map_or(0, |memory| memory.peak);
        Ok(peak.saturating_sub(used))
    }
}
