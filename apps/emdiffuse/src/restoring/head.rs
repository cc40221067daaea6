//! What a variance head says of a whole image or volume, as a file of its own.

use super::Work;
use limpid_cli::prediction::beside;
use limpid_cli::{Failure, failure};
use limpid_datamodule::normalise::Normalisation;
use limpid_datamodule::predict::{Outer, Output};
use limpid_engine::infer::{Blend, Inferencer, Needs, Plan, TileConfig};
use limpid_engine::{Error, Event, Sink};
use limpid_io::{DType, VolumeInfo, WriteOptions};
use limpid_models::diffusion::VarianceHead;
use limpid_nn::Ctx;

impl Work<'_> {
    /// Writes how far off the network expects its answers to be, as `NAME_sigma`, in units of the
    /// answer; nothing for networks that have not learnt it. One pass for each level it has learnt.
    pub(super) fn say_variance(
        &self,
        plan: Plan,
        sink: &mut dyn Sink,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let task = &self.trained.task;
        if task.times.is_empty() {
            return Ok(());
        }
        let (net, process) = (self.trained.net.net(), &task.process);
        let head = VarianceHead { net, process, times: &task.times };
        let indices: Vec<f64> = self.places.iter().map(|place| place.index).collect();
        let path = beside(self.job.output, "_sigma");
        let info = VolumeInfo { dtype: DType::F32, ..self.info.clone() };
        let same = Normalisation::identity();
        let mut output = Output::create_with(&path, &info, 2, same, 1, &WriteOptions::default())
            .map_err(Failure::data)?;
        let windows = plan.starts.len() as u64;
        let inferencer =
            Inferencer { plan, deviation: false, device: self.restorer.device.clone() };
        let _no_grad = self.trained.params.no_grad();
        for index in 0..self.units {
            let source = self.source(index)?;
            let mut slabs = self.sink(index, &mut output, Outer::Zero)?;
            let predict = |x: &candle_core::Tensor| match stop() {
                true => Err(Error::Data("interrupted".into())),
                false => head.deviations(x, &indices, &Ctx::eval()),
            };
            let done = inferencer.run(&*source, &mut *slabs, predict, |done, _| {
                let task = "judging".to_owned();
                let (done, total) = (index as u64 * windows + done, self.units as u64 * windows);
                sink.event(&Event::Progress { task, done, total });
            });
            if stop() {
                return Err(Failure::interrupted(format!(
                    "stopped; {} was not written",
                    path.display()
                )));
            }
            done.map_err(failure)?;
        }
        output.finish().map_err(Failure::data)?;
        Ok(())
    }

    /// Windows of the size that is drawn.
    pub(super) fn windows(&self) -> Result<Plan, Failure> {
        let joint = &self.restorer.config.joint;
        let needs = Needs {
            divisor: vec![self.restorer.needs.divisor; 2],
            any_size_from: None,
            fixed_size: None,
            receptive_field: vec![1; 2],
            bytes_per_pixel: self.restorer.needs.bytes_per_pixel,
            channels: self.places.len().max(1),
        };
        let size = self.plan.regions.image.clone();
        let whole = |n: &usize| joint.window.min(n.next_multiple_of(self.restorer.needs.divisor));
        let overlap = joint.overlap as f64 / joint.window as f64;
        let tiles = TileConfig {
            size: size.iter().map(whole).collect(),
            blend: Blend::Gaussian { overlap: vec![overlap], sigma_scale: 0.125 },
            ..TileConfig::default()
        };
        Plan::new(&tiles, &needs, &size).map_err(failure)
    }
}
