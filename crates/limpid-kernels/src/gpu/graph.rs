//! Capturing the work of a stream, and queueing it again.

#![allow(unsafe_code)] // memory that is only written by a copy

use super::Gpu;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::{
    self, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError,
};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::Arc;

const OP: &str = "record";

/// Streams of random numbers that a graph may draw from: more than the layers of a network.
const STREAMS: usize = 4096;

/// A captured graph, with what its kernels read.
pub(crate) struct Graph {
    graph: ManuallyDrop<CudaGraph>,
    stream: Arc<CudaStream>,
    /// The words of the streams: 2 for each.
    words: RefCell<CudaSlice<u64>>,
    streams: Vec<Stream>,
    launched: Cell<bool>,
    /// Tables that must live as long.
    _kept: Vec<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: a graph may be used by any thread, by one at a time; whoever shares a recording has to see to that, since
// it is not `Sync`.
unsafe impl Send for Graph {}

/// Gives back memory that neither tensors nor graphs use: those of graphs are taken from a pool of their own.
fn trim(stream: &CudaStream) -> std::result::Result<(), DriverError> {
    stream.synchronize()?;
    let device = stream.context().cu_device();
    let pool = super::device::pool(device)?;
    // SAFETY: the device exists, and its pool with it.
    unsafe {
        sys::cuMemPoolTrimTo(pool, 0).result()?;
        sys::cuDeviceGraphMemTrim(device).result()
    }
}

/// What a capture collects.
#[derive(Default)]
struct Recorder {
    /// Where the words of the streams lie.
    words: u64,
    streams: Vec<Stream>,
    kept: Vec<Arc<dyn Any + Send + Sync>>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// See [`crate::recording::record`].
pub(crate) fn capture<R, E: From<Error>>(
    device: &CudaDevice,
    f: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<(Graph, R), E> {
    let stream = device.cuda_stream();
    let failed = |e: DriverError| Error::argument(OP, format!("the GPU does not record: {e}"));
    // what was freed since the rehearsal would be needed a second time
    trim(&stream).map_err(failed)?;
    // SAFETY: `play` fills what kernels read.
    let words = unsafe { stream.alloc::<u64>(2 * STREAMS) }.map_err(failed)?;
    let at = words.device_ptr(&stream).0;
    let _cached = device.enable_cuda_graph_htod_cache();
    // of this thread: others may go on with theirs
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    RECORDER.set(Some(Recorder { words: at, ..Recorder::default() }));
    if let Err(e) = stream.begin_capture(mode) {
        RECORDER.set(None);
        return Err(failed(e).into());
    }
    let result = f();
    let recorder = RECORDER.take().unwrap_or_default();
    // what is left allocated at its end is freed by the next launch
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    // an error of dropping something must not keep the capture from ending
    let dropped = stream.context().check_err().map_err(failed);
    let graph = stream.end_capture(flags).map_err(failed).and_then(|graph| {
        dropped?;
        graph.ok_or_else(|| Error::argument(OP, "there was nothing to record"))
    });
    let error = match (result, graph) {
        (Ok(result), Ok(graph)) => {
            let Recorder { streams, kept, .. } = recorder;
            let (words, launched) = (RefCell::new(words), Cell::new(false));
            let graph = ManuallyDrop::new(graph);
            return Ok((Graph { graph, stream, words, streams, launched, _kept: kept }, result));
        }
        (Err(e), _) => e,
        (Ok(result), Err(e)) => {
            drop(result);
            e.into()
        }
    };
    // tensors that never came to be were freed with an error, which must not turn up at the next call
    forget_errors(&stream);
    Err(error)
}

/// Forgets what could not be reported when something was dropped.
fn forget_errors(stream: &CudaStream) {
    let _ = stream.context().check_err();
}

impl Drop for Graph {
    fn drop(&mut self) {
        // its tensors, which are dropped before, are there only after a launch
        if !self.launched.get() {
            forget_errors(&self.stream);
        }
        // SAFETY: nothing uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.graph) };
        if is_recording() {
            return;
        }
        // others cannot use its memory before
        let context = self.stream.context();
        let freed = self.stream.synchronize().and_then(|()| {
            // SAFETY: the device exists.
            unsafe { sys::cuDeviceGraphMemTrim(context.cu_device()) }.result()
        });
        context.record_err(freed);
    }
}

impl Graph {
    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// See [`crate::recording::Recording::play`].
    pub(crate) fn play(&self, streams: &[Stream]) -> Result<()> {
        if streams.len() != self.streams.len() {
            return Err(Error::shape(OP, format!("{} streams", self.streams.len()), streams.len()));
        }
        let failed = |e| Error::argument(OP, format!("a recorded step failed: {e}"));
        if !streams.is_empty() {
            let words: Vec<u64> = streams.iter().flat_map(Stream::words).collect();
            let held = &mut *self.words.borrow_mut();
            self.stream.memcpy_htod(&words, held).map_err(failed)?;
        }
        self.graph.launch().map_err(failed)?;
        self.launched.set(true);
        Ok(())
    }
}

/// Whether this thread records.
pub(crate) fn is_recording() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// Keeps something as long as the graph that is being recorded, if one is.
pub(crate) fn keep(what: &Arc<impl Any + Send + Sync>) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.kept.push(what.clone());
        }
    });
}

/// Random numbers as kernels are told of them: the words of a stream, or where these will lie.
pub(crate) struct Words {
    pub key: u64,
    pub sub: u64,
    /// An address, or 0.
    pub at: u64,
}

impl Words {
    /// # Errors
    /// [`Error::Argument`] if a recorded step draws from too many streams.
    pub(crate) fn of(op: &'static str, stream: Stream) -> Result<Self> {
        let [key, sub] = stream.words();
        let at = RECORDER.with_borrow_mut(|recorder| {
            let Some(recorder) = recorder else { return Ok(0) };
            let known = recorder.streams.iter().position(|known| *known == stream);
            let slot = known.unwrap_or_else(|| {
                recorder.streams.push(stream);
                recorder.streams.len() - 1
            });
            if slot >= STREAMS {
                return Err(Error::argument(op, "too many random operations to be recorded"));
            }
            Ok(recorder.words + 16 * slot as u64)
        })?;
        Ok(Self { key, sub, at })
    }
}

/// A table on a device.
struct Table<T> {
    context: usize,
    values: Vec<T>,
    data: Arc<CudaSlice<T>>,
}

thread_local! {
    /// The latest are at the end.
    static TABLES: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}
/// As many are kept.
const KEPT: usize = 64;

impl Gpu {
    /// A table of numbers on the device. The same are asked for again and again, so they are kept.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no room for it, or it is new and a step is being recorded.
    pub(crate) fn table<T>(&self, values: &[T]) -> Result<Arc<CudaSlice<T>>>
    where
        T: DeviceRepr + Clone + PartialEq + Send + Sync + 'static,
    {
        let context = Arc::as_ptr(self.stream.context()).addr();
        let found = TABLES.with_borrow_mut(|tables| {
            let at = tables.iter().position(|table| {
                let table = table.downcast_ref::<Table<T>>();
                table.is_some_and(|table| table.context == context && table.values == values)
            })?;
            tables[at..].rotate_left(1);
            let table = tables.last()?.downcast_ref::<Table<T>>()?;
            Some(table.data.clone())
        });
        if let Some(data) = found {
            keep(&data);
            return Ok(data);
        }
        if is_recording() {
            return Err(Error::argument(self.op, "a table that is new cannot be recorded"));
        }
        let data = self.stream.clone_htod(values).map_err(|e| {
            Error::argument(self.op, format!("a table does not reach the GPU: {e}"))
        })?;
        let data = Arc::new(data);
        TABLES.with_borrow_mut(|tables| {
            if tables.len() == KEPT {
                tables.remove(0);
            }
            let table = Table { context, values: values.to_vec(), data: data.clone() };
            tables.push(Box::new(table));
        });
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use crate::recording::{record, rehearse};
    use crate::rng::Stream;
    use crate::{Error, autograd};
    use candle_core::{Tensor, Var};

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// With a GPU, real or in software.
    #[test]
    #[ignore = "run by cargo xtask cuda test"]
    fn cuda_recordings_do_what_was_recorded() {
        let device = crate::gpu::open(0).unwrap();
        let image = |seed| {
            let x = crate::gradcheck::test_tensor(seed, &[2, 4, 6, 5]).unwrap();
            x.to_dtype(candle_core::DType::F32).unwrap().to_device(&device).unwrap()
        };
        let weight = Var::from_tensor(&image(5).narrow(2, 0, 3).unwrap().narrow(3, 0, 3).unwrap());
        let weight = weight.unwrap();
        let stream = |i| Stream::new(i, "recording");
        // a loss and its gradient, with random numbers of two streams, one of them drawn from twice
        let work = |x: &Tensor, streams: [Stream; 2]| {
            autograd::record(|| {
                let y = crate::conv(x, weight.as_tensor(), None, &crate::ConvSpec::unit(2))?;
                let y = crate::resize(&crate::silu(&y)?, &[7, 9], crate::Resize::Nearest)?;
                let y = crate::dropout(&y, 0.5, streams[0])?;
                let y = crate::dropout_channels(&y, 0.5, streams[1])?;
                let loss = crate::dropout(&y, 0.1, streams[0])?.sqr()?.sum_all()?;
                let mut gradients = autograd::backward(&loss)?;
                let gradient = gradients.remove(weight.as_tensor());
                Ok::<_, Error>([loss, gradient.ok_or_else(|| Error::argument("test", "none"))?])
            })
        };
        let input = Var::from_tensor(&image(1)).unwrap();
        let x = input.as_detached_tensor();
        // what has not been rehearsed may be refused, and leaves no trace
        let fetched = record(&device, || {
            let [loss, _] = work(&x, [stream(1), stream(2)])?;
            Ok::<_, Error>(loss.to_scalar::<f32>()?)
        });
        assert!(fetched.is_err());
        rehearse(&device, || work(&x, [stream(1), stream(2)])).unwrap();
        // a recording does not survive that memory of before is freed
        let old = image(3);
        let freed = record(&device, || {
            let found = work(&x, [stream(1), stream(2)])?;
            drop(old);
            Ok::<_, Error>(found)
        });
        assert!(freed.is_err());
        // one that is never played leaves no trace either
        let (unplayed, found) = record(&device, || work(&x, [stream(1), stream(2)])).unwrap();
        drop(found);
        drop(unplayed);
        let recorded = record(&device, || work(&x, [stream(1), stream(2)]));
        let (recording, [loss, gradient]) = recorded.unwrap();
        assert_eq!(recording.streams(), [stream(1), stream(2)]);
        for seed in 1..4 {
            input.set(&image(seed)).unwrap();
            let streams = [stream(seed), stream(10 + seed)];
            let wanted = work(&image(seed), streams).unwrap();
            recording.play(&streams).unwrap();
            assert_eq!(values(&loss), values(&wanted[0]));
            assert_eq!(values(&gradient), values(&wanted[1]));
            // what was learnt meanwhile counts
            let moved = (weight.as_detached_tensor() + (&gradient * 0.01).unwrap()).unwrap();
            weight.set(&moved).unwrap();
        }
        assert!(recording.play(&[]).is_err());
    }
}
