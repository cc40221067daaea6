//! Opening the device that the user named.

use crate::args::Device;
use crate::{Failure, report};

/// The device; says what it is, or why it is no GPU, if it may talk.
///
/// # Errors
/// [`Kind::Device`](crate::Kind::Device) if a GPU is asked for by name and cannot be used.
pub(crate) fn open(named: Device, talk: bool) -> Result<candle_core::Device, Failure> {
    let ordinal = match named {
        Device::Cpu => return Ok(candle_core::Device::Cpu),
        Device::Auto if !cfg!(feature = "cuda") => return Ok(candle_core::Device::Cpu),
        Device::Auto => 0,
        Device::Cuda(ordinal) => ordinal,
    };
    match gpu(ordinal) {
        Ok((device, description)) => {
            if talk {
                report(format!("device cuda:{ordinal}, {description}"));
            }
            Ok(device)
        }
        Err(reason) if named == Device::Auto => {
            if talk {
                report(format!("device cpu: {reason}"));
            }
            Ok(candle_core::Device::Cpu)
        }
        Err(reason) => Err(Failure::device(format!("cannot use cuda:{ordinal}: {reason}"))
            .hint("use `--device cpu`")),
    }
}

/// The GPU and a description of it, or why there is none.
#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<(candle_core::Device, String), String> {
    use limpid_kernels::gpu;
    let said = |e: limpid_kernels::Error| match e {
        limpid_kernels::Error::Argument { message, .. } => message,
        other => other.to_string(),
    };
    let device = gpu::open(ordinal).map_err(said)?;
    let description = gpu::describe(&device).map_err(said)?;
    Ok((device, description))
}

/// The GPU and a description of it, or why there is none.
#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<(candle_core::Device, String), String> {
    Err("built without the feature cuda".into())
}
