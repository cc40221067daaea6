//! Updates and sums of many tensors on a GPU: a launch takes up to [`ROWS`] of them.
//!
//! The kernels find the tensors by addresses in their arguments and write through those, so nothing
//! is recorded of a write but its place in the stream. That is enough: all work of a device is in
//! one stream.

#![allow(unsafe_code)] // launches of kernels

use super::Judgement;
use crate::gpu::{Buffer, Case, Gpu, Kernels, Number, with_buffers};
use crate::op::address;
use crate::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, PushKernelArg, SyncOnDrop,
};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

static KERNELS: Kernels =
    Kernels::new("step", include_bytes!(concat!(env!("OUT_DIR"), "/step.fatbin")));

// as in op.cu
const ROWS: usize = 40;
const PIECE: usize = 2048;
const LONG_PIECE: usize = 8192;

/// `Row` of op.cu: four addresses, the number of elements, the first piece, six numbers as bits.
type Row = [u64; 12];

/// Arguments of a launch, and what is to be dropped only after it.
struct Rows<'a> {
    rows: [Row; ROWS],
    used: usize,
    pieces: usize,
    guards: Vec<SyncOnDrop<'a>>,
}

impl<'a> Rows<'a> {
    fn new() -> Self {
        Self { rows: [[0; 12]; ROWS], used: 0, pieces: 0, guards: Vec::new() }
    }

    /// Adds a row of arrays of one length, cut into pieces.
    fn add<T: Number>(
        &mut self,
        stream: &'a CudaStream,
        arrays: &'a [Buffer<'_, T>],
        piece: usize,
    ) {
        let row = &mut self.rows[self.used];
        for (at, array) in row.iter_mut().zip(arrays) {
            let (address, guard) = array.data.device_ptr(stream);
            *at = address;
            self.guards.push(guard);
        }
        let count = arrays[0].count();
        (row[4], row[5]) = (count as u64, self.pieces as u64);
        self.used += 1;
        self.pieces += count.div_ceil(piece);
    }
}

/// An update that waits for its launch.
pub(super) struct Job {
    pub op: &'static str,
    /// The name that the kernel has with `step_` before it.
    pub kernel: &'static str,
    pub numbers: [f64; 6],
    /// Of one shape and float type, contiguous.
    pub tensors: Vec<Tensor>,
    /// So many of the tensors are changed, the first ones.
    pub written: usize,
}

/// Updates in rounds: those of one round touch different memory, so that their order is free.
#[derive(Default)]
pub(super) struct Queue {
    /// The verdict on which it depends whether anything is changed.
    gate: Option<Tensor>,
    rounds: Vec<Vec<Job>>,
    /// By address of a storage, in how many rounds it is written, and used at all.
    busy: BTreeMap<usize, [usize; 2]>,
}

impl Queue {
    /// Of updates that change nothing unless the verdict allows it.
    pub(super) fn behind(verdict: Tensor) -> Self {
        Self { gate: Some(verdict), ..Self::default() }
    }

    /// Puts a job into the first round in which it sees what came before.
    ///
    /// # Errors
    /// [`Error::Shape`] if what is changed shares memory with another tensor of the job.
    pub(super) fn push(&mut self, job: Job) -> Result<()> {
        let places: Vec<usize> = job.tensors.iter().map(address).collect();
        for (i, place) in places[..job.written].iter().enumerate() {
            if places[i + 1..].contains(place) {
                let expected = "tensors with memory of their own";
                return Err(Error::shape(job.op, expected, "shared memory"));
            }
        }
        let mut round = 0;
        for (i, place) in places.iter().enumerate() {
            let [written, used] = self.busy.get(place).copied().unwrap_or_default();
            round = round.max(if i < job.written { used } else { written });
        }
        for (i, &place) in places.iter().enumerate() {
            let [written, used] = self.busy.entry(place).or_default();
            *used = round + 1;
            if i < job.written {
                *written = round + 1;
            }
        }
        if round == self.rounds.len() {
            self.rounds.push(Vec::new());
        }
        self.rounds[round].push(job);
        Ok(())
    }

    /// Launches everything.
    ///
    /// # Errors
    /// Those of launches.
    pub(super) fn run(self) -> Result<()> {
        let gate = self.gate.as_ref();
        for round in self.rounds {
            let mut groups: Vec<Vec<Job>> = Vec::new();
            for job in round {
                let alike = |group: &&mut Vec<Job>| {
                    let (a, b) = (&group[0].tensors[0], &job.tensors[0]);
                    group[0].kernel == job.kernel
                        && a.dtype() == b.dtype()
                        && a.device().same_device(b.device())
                };
                match groups.iter_mut().find(alike) {
                    Some(group) => group.push(job),
                    None => groups.push(vec![job]),
                }
            }
            for jobs in groups.iter().flat_map(|group| group.chunks(ROWS)) {
                match jobs[0].tensors[0].dtype() {
                    DType::F64 => launch::<f64>(jobs, gate)?,
                    _ => launch::<f32>(jobs, gate)?,
                }
            }
        }
        Ok(())
    }
}

/// One launch for up to [`ROWS`] jobs of one kernel.
fn launch<T: Number>(jobs: &[Job], gate: Option<&Tensor>) -> Result<()> {
    let tensors: Vec<&Tensor> = jobs.iter().flat_map(|job| &job.tensors).collect();
    with_buffers::<T, _>(jobs[0].op, &tensors, |gpu, buffers| {
        let mut rows = Rows::new();
        let arrays = buffers.chunks(jobs[0].tensors.len());
        for (job, arrays) in jobs.iter().zip(arrays) {
            rows.add(&gpu.stream, arrays, PIECE);
            let row = &mut rows.rows[rows.used - 1];
            row[6..].copy_from_slice(&job.numbers.map(f64::to_bits));
        }
        let kernel = gpu.function::<T>(&KERNELS, &format!("step_{}", jobs[0].kernel))?;
        with_verdict(gpu, gate, |verdict| {
            let count = rows.used as i32;
            let mut launch = gpu.stream.launch_builder(&kernel);
            launch.arg(&rows.rows).arg(&count).arg(&rows.pieces).arg(&verdict);
            // SAFETY: the arrays of a row have its count of elements, as `Updates` has checked, and
            // those that are written share no memory with another of this launch: `Queue` puts such
            // into another round. A verdict is two numbers.
            unsafe { gpu.launch(launch, rows.pieces, true) }
        })
    })
}

/// Lends `f` the address of a verdict, 0 if there is none.
fn with_verdict<R>(
    gpu: &Gpu,
    verdict: Option<&Tensor>,
    f: impl FnOnce(u64) -> Result<R>,
) -> Result<R> {
    let Some(verdict) = verdict else { return f(0) };
    with_buffers::<f64, _>(gpu.op, &[verdict], |gpu, buffers| {
        let (address, _guard) = buffers[0].data.device_ptr(&gpu.stream);
        f(address)
    })
}

/// A verdict on what [`look`] has found.
pub(super) fn judged(sums: &Tensor, judgement: Judgement) -> Result<Tensor> {
    let Judgement { gradients, scale, max_norm, after } = judgement;
    with_buffers::<f64, _>("judge", &[sums], |gpu, buffers| {
        with_verdict(gpu, after.map(|gate| &gate.verdict), |before| {
            let (rows, gradients) = (buffers[0].dims[0] as i32, gradients as i32);
            let limit = max_norm.unwrap_or(0.0);
            let mut out = gpu.alloc::<f64>(2)?;
            let kernel = gpu.function::<f64>(&KERNELS, "step_judge")?;
            let mut launch = gpu.stream.launch_builder(&kernel);
            launch.arg(&buffers[0].data).arg(&rows).arg(&gradients).arg(&scale).arg(&limit);
            launch.arg(&before).arg(&mut out);
            // SAFETY: there are two sums in each row, and two numbers in a verdict.
            unsafe { gpu.launch(launch, 1, true) }?;
            Ok(gpu.tensor(out, 2))
        })
    })
}

/// Copies of tensors, multiplied by the factor of a verdict.
pub(super) fn scaled(verdict: &Tensor, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    let op = "scale gradients";
    let mut jobs = Vec::with_capacity(tensors.len());
    for t in tensors {
        let gpu = Gpu::new(op, t.device().as_cuda_device()?);
        // filled by the launch
        let out = match t.dtype() {
            DType::F64 => gpu.tensor(gpu.alloc::<f64>(t.elem_count())?, t.shape()),
            DType::F32 => gpu.tensor(gpu.alloc::<f32>(t.elem_count())?, t.shape()),
            other => return Err(Error::shape(op, "f32 or f64", other)),
        };
        jobs.push(Job {
            op,
            kernel: "times",
            numbers: [0.0; 6],
            tensors: vec![out, t.contiguous()?],
            written: 1,
        });
    }
    let copies = jobs.iter().map(|job| job.tensors[0].clone()).collect();
    let mut queue = Queue::behind(verdict.clone());
    jobs.into_iter().try_for_each(|job| queue.push(job))?;
    queue.run()?;
    Ok(copies)
}

/// The sum of squares and the number of elements that are not finite, of each tensor: `[tensors, 2]`.
///
/// # Errors
/// Those of launches; [`Error::Shape`] unless all are f32 or f64 on one GPU.
pub(super) fn look(op: &'static str, tensors: &[Tensor]) -> Result<Tensor> {
    let all: Vec<&Tensor> = tensors.iter().collect();
    let Some(first) = all.first() else {
        return Err(Error::shape(op, "at least one tensor", "none"));
    };
    let gpu = Gpu::new(op, first.device().as_cuda_device()?);
    let mut sums = gpu.alloc::<f64>(2 * all.len())?;
    {
        let (sums, _guard) = sums.device_ptr_mut(&gpu.stream);
        // a launch has numbers of one type
        let mut rest = &all[..];
        while let Some(first) = rest.first() {
            let alike = rest.iter().take_while(|t| t.dtype() == first.dtype()).count();
            let to = sums + (16 * (all.len() - rest.len())) as u64;
            match first.dtype() {
                DType::F64 => look_typed::<f64>(op, &rest[..alike], to)?,
                _ => look_typed::<f32>(op, &rest[..alike], to)?,
            }
            rest = &rest[alike..];
        }
    }
    Ok(gpu.tensor(sums, (all.len(), 2)))
}

/// Fills two numbers at `sums` for each tensor.
fn look_typed<T: Number>(op: &'static str, tensors: &[&Tensor], sums: u64) -> Result<()> {
    with_buffers::<T, _>(op, tensors, |gpu, buffers| {
        let pieces: usize = buffers.iter().map(|b| b.count().div_ceil(LONG_PIECE)).sum();
        let mut parts = gpu.alloc::<f64>(2 * pieces.max(1))?;
        let (parts, _parts) = parts.device_ptr_mut(&gpu.stream);
        let mut done = 0;
        for (i, group) in buffers.chunks(ROWS).enumerate() {
            let result = sums + (16 * ROWS * i) as u64;
            done += look_at(gpu, group, parts + (16 * done) as u64, result)?;
        }
        Ok(())
    })
}

/// Fills two numbers at `sums` for each array, with two for each of their pieces at `parts` on the
/// way; returns how many pieces there are.
fn look_at<T: Number>(gpu: &Gpu, arrays: &[Buffer<'_, T>], parts: u64, sums: u64) -> Result<usize> {
    let mut rows = Rows::new();
    for i in 0..arrays.len() {
        let first = rows.pieces;
        rows.add(&gpu.stream, &arrays[i..=i], LONG_PIECE);
        (rows.rows[i][1], rows.rows[i][2]) = (parts + 16 * first as u64, sums + 16 * i as u64);
    }
    let count = rows.used as i32;
    let kernel = gpu.function::<T>(&KERNELS, "step_look")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&rows.rows).arg(&count).arg(&rows.pieces);
    // SAFETY: the arrays of a row have its count of elements, and `parts` has two numbers for each
    // piece.
    unsafe { gpu.launch(launch, rows.pieces, true) }?;
    let kernel = gpu.function::<f64>(&KERNELS, "step_gather")?;
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&rows.rows).arg(&count);
    // SAFETY: as before; `sums` has two numbers for each row.
    unsafe { gpu.launch(launch, rows.used, true) }?;
    Ok(rows.pieces)
}

/// Updates of one tensor and of many, and what is known of many.
pub(crate) fn cases() -> Vec<Case> {
    use super::{AdamStep, Updates};
    let one: &[&[usize]] = &[&[3, 701], &[3, 701], &[3, 701], &[3, 701]];
    let after = |name: &str, f: fn([&Tensor; 4]) -> Result<()>| {
        Case::new(format!("step {name}"), one, move |x| {
            let d = x[0].copy()?;
            // second moments are not negative, divisors not zero
            f([&d, &x[1], &x[2].abs()?, &(x[3].abs()? + 0.5)?])?;
            Ok(d)
        })
        .result_only()
    };
    let mut cases = vec![
        after("scale", |[d, ..]| super::scale_(d, 0.3)),
        after("axpy", |[d, a, ..]| super::axpy_(d, a, -0.7)),
        after("axpy of a view", |[d, a, ..]| {
            // begins in the middle of 16 bytes
            super::axpy_(
                &d.flatten_all()?.narrow(0, 1, 2101)?,
                &a.flatten_all()?.narrow(0, 0, 2101)?,
                0.7,
            )
        }),
        after("axpby", |[d, a, ..]| super::axpby_(d, 0.9, a, 0.2)),
        after("axpby_sq", |[d, a, ..]| super::axpby_sq_(d, 0.9, a, -0.2)),
        after("ema far", |[d, a, ..]| super::ema_(d, a, 0.2)),
        after("ema near", |[d, a, ..]| super::ema_(d, a, 0.9)),
        after("max", |[d, a, ..]| super::max_(d, a)),
        after("max with NaN", |[d, a, ..]| super::max_(d, &(a.relu()? / 0.0)?)),
        after("max_abs", |[d, a, ..]| super::max_abs_(d, 0.9, a, 1e-3)),
        after("adam_update", |[d, a, b, _]| super::adam_update_(d, a, b, 0.01, 0.5, 1e-2)),
        after("div_update", |[d, a, _, c]| super::div_update_(d, a, c, 0.01)),
    ];
    // more tensors than one launch takes, of which one is shared
    let many: Vec<Vec<usize>> = (0..45).map(|i| vec![1 + 613 * (i % 7)]).collect();
    let many: Vec<&[usize]> = many.iter().map(Vec::as_slice).collect();
    cases.push(
        Case::new("step adam of many", &many, |x| {
            let mut updates = Updates::default();
            let mut changed = Vec::new();
            for (i, g) in x.iter().enumerate() {
                let (theta, m) = (g.affine(0.5, 0.1)?, g.affine(-0.3, 0.2)?);
                let v = g.sqr()?;
                updates.scale_(&theta, 0.99)?;
                let (betas, lr) = ([0.9 - 0.01 * i as f64, 0.99], 1e-2 * (1 + i) as f64);
                let step = AdamStep { betas, lr, bias2_sqrt: 0.7, eps: 1e-6 };
                updates.adam_(&theta, &m, &v, g, step)?;
                updates.axpy_(&theta, &m, 0.1)?;
                changed.extend([theta, m, v]);
            }
            // reads what was written, and writes what was read
            updates.axpy_(&changed[0], &changed[21], 0.5)?;
            updates.scale_(&changed[21], 0.5)?;
            updates.run()?;
            Ok(Tensor::cat(&changed, 0)?)
        })
        .result_only(),
    );
    cases.push(
        Case::new("step sums of many", &many, |x| {
            let all: Vec<&Tensor> = x.iter().collect();
            let mut found = vec![super::sum_squares_all(&all)?];
            for (i, bad) in [(44, f64::INFINITY), (3, f64::NAN)] {
                let bad = (x[i].ones_like()? * bad)?;
                let mut all = all.clone();
                all[i] = &bad;
                let nonfinite = super::first_nonfinite(&all)?;
                found.extend([nonfinite.map_or(-1.0, |i| i as f64), super::sum_squares_all(&all)?]);
            }
            Ok(Tensor::new(found, &candle_core::Device::Cpu)?)
        })
        .result_only(),
    );
    cases.push(
        Case::new("step behind a gate", &many, |x| {
            use super::{AdamStep, Gate, Judgement, Look, Updates};
            let bad = (&x[3] / 0.0)?;
            let mut changed = Vec::new();
            let mut after = None;
            for (gradients, max_norm) in
                [(x, Some(0.5)), (x, None), (&[bad][..], Some(0.5)), (x, None)]
            {
                let look = Look::at(&gradients.iter().collect::<Vec<_>>())?;
                let judgement = Judgement {
                    gradients: gradients.len().min(44),
                    scale: 4.0,
                    max_norm,
                    after: after.as_ref(),
                };
                let gate = Gate::new(&look, judgement)?;
                let scaled = gate.scaled(&x.iter().collect::<Vec<_>>())?;
                let mut updates = Updates::behind(&gate)?;
                let step = AdamStep { betas: [0.9, 0.99], lr: 0.1, bias2_sqrt: 0.7, eps: 1e-6 };
                for (i, g) in scaled.iter().enumerate() {
                    let theta = x[i].affine(0.5, 0.1)?;
                    let (m, v) = (theta.zeros_like()?, theta.ones_like()?);
                    updates.adam_(&theta, &m, &v, g, step)?;
                    updates.scale_(&theta, 0.9)?;
                    changed.push(theta);
                }
                updates.run()?;
                let (factor, shut) = gate.read()?;
                let verdict = [if shut { 0.0 } else { factor as f32 }, f32::from(u8::from(shut))];
                changed.push(Tensor::new(&verdict, x[0].device())?.to_dtype(x[0].dtype())?);
                after = Some(gate);
            }
            Ok(Tensor::cat(&changed, 0)?)
        })
        .result_only(),
    );
    cases.push(
        Case::new("step sum_squares", &[&[3, 101, 307]], |x| {
            let sums = [super::sum_squares(&x[0])?, super::sum_squares(&x[0].transpose(0, 2)?)?];
            assert!(super::all_finite(&x[0])?);
            Ok(Tensor::new(&sums, &candle_core::Device::Cpu)?)
        })
        .result_only(),
    );
    cases.into_iter().map(Case::without_halves).collect()
}
