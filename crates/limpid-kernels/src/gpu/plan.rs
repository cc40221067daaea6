//! What is found once for the sizes of a convolution: descriptors, algorithm, size of the workspace.
//!
//! Plans are kept per thread, since a handle of cuDNN serves one.

#![allow(unsafe_code)] // cuDNN

use super::Gpu;
use super::dnn::{Map, Sizes};
use crate::determinism::is_deterministic;
use crate::{Error, Precision, Result, precision};
use candle_core::cuda_backend::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    self, cudnnConvolutionBwdDataAlgo_t as DataAlgorithm, cudnnConvolutionBwdDataAlgoPerf_t,
    cudnnConvolutionBwdFilterAlgo_t as FilterAlgorithm, cudnnConvolutionBwdFilterAlgoPerf_t,
    cudnnConvolutionDescriptor_t, cudnnConvolutionFwdAlgo_t as ForwardAlgorithm,
    cudnnConvolutionFwdAlgoPerf_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnDeterminism_t,
    cudnnFilterDescriptor_t, cudnnHandle_t, cudnnMathType_t, cudnnStatus_t,
    cudnnTensorDescriptor_t, cudnnTensorFormat_t,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

/// The most memory that an algorithm may work in, in bytes.
const WORKSPACE: usize = 1 << 30;
/// Algorithms that cuDNN is asked to rank: more than it has, each with each way to multiply.
const RANKED: usize = 32;

type Found<T> = std::result::Result<T, CudnnError>;

/// How the numbers of a convolution are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub number: cudnnDataType_t,
    /// Whether channels are the fastest axis, else the slowest but one.
    pub last: bool,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    context: usize,
    map: Map,
    sizes: Sizes,
    form: Form,
    precision: Precision,
    is_deterministic: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Forward(ForwardAlgorithm),
    Data(DataAlgorithm),
    Filter(FilterAlgorithm),
}

pub(super) struct Descriptors {
    pub image: TensorDescriptor,
    pub result: TensorDescriptor,
    pub weight: FilterDescriptor,
    pub convolution: ConvolutionDescriptor,
}

pub(super) struct Plan {
    pub of: Descriptors,
    pub algorithm: Algorithm,
    /// In bytes.
    pub workspace: usize,
    pub number: cudnnDataType_t,
}

thread_local! {
    /// Where cuDNN has nothing, there is none.
    static PLANS: RefCell<HashMap<Key, Option<Rc<Plan>>>> = RefCell::default();
}

/// How a convolution of these sizes is done, unless cuDNN has nothing for it.
///
/// # Errors
/// [`Error::Argument`] if the sizes are more than cuDNN counts, or it fails.
pub(super) fn plan(
    gpu: &Gpu,
    handle: cudnnHandle_t,
    map: Map,
    sizes: &Sizes,
    form: Form,
) -> Result<Option<Rc<Plan>>> {
    let key = Key {
        context: Arc::as_ptr(gpu.stream.context()).addr(),
        map,
        sizes: sizes.clone(),
        form,
        precision: precision(),
        is_deterministic: is_deterministic(),
    };
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&key).cloned()) {
        return Ok(plan);
    }
    for dims in [&sizes.image, &sizes.weight, &sizes.result] {
        let count = dims.iter().try_fold(1, |count: c_int, &d| count.checked_mul(d));
        if count.is_none() {
            let message = format!(
                "an array {dims:?} has 2^31 numbers or more, which cuDNN does not count; use a smaller batch or patch"
            );
            return Err(Error::argument(gpu.op, message));
        }
    }
    let plan = match Plan::new(handle, map, sizes, form) {
        Ok(plan) => Some(Rc::new(plan)),
        Err(e) if is_refusal(e.0) => None,
        Err(e) => {
            let message = format!("cuDNN cannot prepare {sizes:?}: {e}");
            return Err(Error::argument(gpu.op, message));
        }
    };
    PLANS.with_borrow_mut(|plans| plans.insert(key, plan.clone()));
    Ok(plan)
}

/// Whether cuDNN has nothing for what it was asked; its statuses are classes of a thousand.
fn is_refusal(status: cudnnStatus_t) -> bool {
    status as u32 / 1000 == cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED as u32 / 1000
}

/// Whether cuDNN has found no memory.
pub(super) fn is_full(status: cudnnStatus_t) -> bool {
    use cudnnStatus_t as Status;
    matches!(
        status,
        Status::CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
            | Status::CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED
    )
}

impl Plan {
    /// By the fastest algorithm, as cuDNN ranks them, that keeps to the options.
    fn new(handle: cudnnHandle_t, map: Map, sizes: &Sizes, form: Form) -> Found<Self> {
        let number = form.number;
        let of = Descriptors {
            image: TensorDescriptor::new(form, &sizes.image)?,
            result: TensorDescriptor::new(form, &sizes.result)?,
            weight: FilterDescriptor::new(form, &sizes.weight)?,
            convolution: ConvolutionDescriptor::new(number, sizes)?,
        };
        // it ranks what can be had with this, and is to be told what it has ranked
        let math = math(number);
        of.convolution.set_math(math)?;
        let is_exact = math != cudnnMathType_t::CUDNN_TENSOR_OP_MATH;
        for (algorithm, ranked) in of.ranked(handle, map, is_exact)? {
            let chosen = if is_exact { math } else { ranked };
            of.convolution.set_math(chosen)?;
            match of.workspace_of(handle, algorithm) {
                Ok(workspace) if workspace <= WORKSPACE => {
                    return Ok(Self { of, algorithm, workspace, number });
                }
                Err(e) if !is_refusal(e.0) => return Err(e),
                _ => {}
            }
        }
        Err(CudnnError(cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED))
    }
}

impl Descriptors {
    /// The algorithms for a map that keep to the options, and how they multiply.
    fn ranked(
        &self,
        handle: cudnnHandle_t,
        map: Map,
        is_exact: bool,
    ) -> Found<Vec<(Algorithm, cudnnMathType_t)>> {
        let (x, y, w, c) = (self.image.0, self.result.0, self.weight.0, self.convolution.0);
        let (most, mut count) = (RANKED as c_int, 0);
        // SAFETY: the descriptors are set, and there is room for as many answers as are asked for.
        unsafe {
            match map {
                Map::Forward => {
                    let mut found = [cudnnConvolutionFwdAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionForwardAlgorithm_v7(
                        handle, x, w, c, y, most, &mut count, to,
                    )
                    .result()?;
                    Ok(usable(&found, count, is_exact))
                }
                Map::Data => {
                    let mut found = [cudnnConvolutionBwdDataAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionBackwardDataAlgorithm_v7(
                        handle, w, y, c, x, most, &mut count, to,
                    )
                    .result()?;
                    Ok(usable(&found, count, is_exact))
                }
                Map::Filter => {
                    let mut found = [cudnnConvolutionBwdFilterAlgoPerf_t::unset(); RANKED];
                    let to = found.as_mut_ptr();
                    sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                        handle, x, y, c, w, most, &mut count, to,
                    )
                    .result()?;
                    Ok(usable(&found, count, is_exact))
                }
            }
        }
    }

    /// Bytes that an algorithm works in.
    fn workspace_of(&self, handle: cudnnHandle_t, algorithm: Algorithm) -> Found<usize> {
        let (x, y, w, c) = (self.image.0, self.result.0, self.weight.0, self.convolution.0);
        let mut size = 0;
        let to = &mut size;
        // SAFETY: the descriptors are set.
        let status = unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => {
                    sys::cudnnGetConvolutionForwardWorkspaceSize(handle, x, w, c, y, algorithm, to)
                }
                Algorithm::Data(algorithm) => sys::cudnnGetConvolutionBackwardDataWorkspaceSize(
                    handle, w, y, c, x, algorithm, to,
                ),
                Algorithm::Filter(algorithm) => {
                    sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                        handle, x, y, c, w, algorithm, to,
                    )
                }
            }
        };
        status.result()?;
        Ok(size)
    }
}

/// How products of these numbers may be made: tensor cores round what is f32.
fn math(number: cudnnDataType_t) -> cudnnMathType_t {
    match number {
        cudnnDataType_t::CUDNN_DATA_DOUBLE => cudnnMathType_t::CUDNN_DEFAULT_MATH,
        cudnnDataType_t::CUDNN_DATA_FLOAT if precision() != Precision::Tf32 => {
            cudnnMathType_t::CUDNN_FMA_MATH
        }
        _ => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// An algorithm as cuDNN ranks it.
trait Ranked: Copy {
    fn unset() -> Self;
    fn is_usable(&self, is_exact: bool) -> bool;
    fn found(&self) -> (Algorithm, cudnnMathType_t);
}

macro_rules! ranked {
    ($kind:ty, $which:path, $first:expr) => {
        impl Ranked for $kind {
            fn unset() -> Self {
                Self {
                    algo: $first,
                    status: cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED,
                    time: 0.0,
                    memory: 0,
                    determinism: cudnnDeterminism_t::CUDNN_NON_DETERMINISTIC,
                    mathType: cudnnMathType_t::CUDNN_DEFAULT_MATH,
                    reserved: [0; 3],
                }
            }

            fn is_usable(&self, is_exact: bool) -> bool {
                let repeats = self.determinism == cudnnDeterminism_t::CUDNN_DETERMINISTIC;
                let keeps = self.mathType == cudnnMathType_t::CUDNN_FMA_MATH
                    || self.mathType == cudnnMathType_t::CUDNN_DEFAULT_MATH;
                self.status == cudnnStatus_t::CUDNN_STATUS_SUCCESS
                    && self.memory <= WORKSPACE
                    && (repeats || !is_deterministic())
                    && (keeps || !is_exact)
            }

            fn found(&self) -> (Algorithm, cudnnMathType_t) {
                ($which(self.algo), self.mathType)
            }
        }
    };
}

ranked!(
    cudnnConvolutionFwdAlgoPerf_t,
    Algorithm::Forward,
    ForwardAlgorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM
);
ranked!(
    cudnnConvolutionBwdDataAlgoPerf_t,
    Algorithm::Data,
    DataAlgorithm::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1
);
ranked!(
    cudnnConvolutionBwdFilterAlgoPerf_t,
    Algorithm::Filter,
    FilterAlgorithm::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1
);

/// Those of the answers that keep to the options.
fn usable<R: Ranked>(
    found: &[R],
    count: c_int,
    is_exact: bool,
) -> Vec<(Algorithm, cudnnMathType_t)> {
    let count = usize::try_from(count).unwrap_or(0);
    let all = found.iter().take(count).filter(|one| one.is_usable(is_exact));
    all.map(Ranked::found).collect()
}

pub(super) struct TensorDescriptor(pub cudnnTensorDescriptor_t);

impl TensorDescriptor {
    /// Of a tensor without gaps.
    fn new(form: Form, dims: &[c_int]) -> Found<Self> {
        let made = Self(result::create_tensor_descriptor()?);
        let mut order: Vec<usize> = (0..dims.len()).collect();
        if form.last {
            order[1..].rotate_left(1);
        }
        let (mut strides, mut step) = (vec![1; dims.len()], 1);
        for &d in order.iter().rev() {
            strides[d] = step;
            step *= dims[d];
        }
        // SAFETY: both arrays are as long as is said.
        unsafe {
            sys::cudnnSetTensorNdDescriptor(
                made.0,
                form.number,
                dims.len() as c_int,
                dims.as_ptr(),
                strides.as_ptr(),
            )
        }
        .result()?;
        Ok(made)
    }
}

impl Drop for TensorDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

pub(super) struct FilterDescriptor(pub cudnnFilterDescriptor_t);

impl FilterDescriptor {
    fn new(form: Form, dims: &[c_int]) -> Found<Self> {
        let made = Self(result::create_filter_descriptor()?);
        let format = match form.last {
            true => cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
            false => cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        };
        // SAFETY: the array is as long as is said.
        unsafe {
            sys::cudnnSetFilterNdDescriptor(
                made.0,
                form.number,
                format,
                dims.len() as c_int,
                dims.as_ptr(),
            )
        }
        .result()?;
        Ok(made)
    }
}

impl Drop for FilterDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_filter_descriptor(self.0) };
    }
}

pub(super) struct ConvolutionDescriptor(pub cudnnConvolutionDescriptor_t);

impl ConvolutionDescriptor {
    fn new(number: cudnnDataType_t, sizes: &Sizes) -> Found<Self> {
        let made = Self(result::create_convolution_descriptor()?);
        let sums = match number {
            cudnnDataType_t::CUDNN_DATA_DOUBLE => number,
            _ => cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        // SAFETY: the three arrays have one entry per spatial dimension.
        unsafe {
            sys::cudnnSetConvolutionNdDescriptor(
                made.0,
                sizes.stride.len() as c_int,
                sizes.padding.as_ptr(),
                sizes.stride.as_ptr(),
                sizes.dilation.as_ptr(),
                cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sums,
            )
            .result()?;
            sys::cudnnSetConvolutionGroupCount(made.0, sizes.groups).result()?;
        }
        Ok(made)
    }

    fn set_math(&self, math: cudnnMathType_t) -> Found<()> {
        // SAFETY: made by `new`.
        unsafe { sys::cudnnSetConvolutionMathType(self.0, math) }.result()
    }
}

impl Drop for ConvolutionDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0) };
    }
}
