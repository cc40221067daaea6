//! RAFT between grey images in memory, as registration uses it.

use super::Raft;
use super::ops::{WarpGrid, pad_to_eight};
use candle_core::{DType, Device, Tensor};
use limpid_nn::{Ctx, Error, Result};

const OP: &str = "RAFT registration";

impl Raft {
    /// Where each pixel of one grey image lies in another, in pixels down and right. EMDiffuse takes
    /// 20 iterations. With [`WarpGrid::Stretched`] the ways are those that its warping makes of the
    /// flow.
    ///
    /// The caller decides about gradients: hold `Params::no_grad` to keep no graph.
    ///
    /// # Shapes
    /// Both `[H, W]`, values up to 255, more than 56 pixels high and wide → twice `[H, W]`
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit or are too small; [`Error::Argument`] for no
    /// iterations.
    pub fn register(
        &self,
        first: &[f64],
        second: &[f64],
        shape: [usize; 2],
        iterations: usize,
        grid: WarpGrid,
        device: &Device,
    ) -> Result<[Vec<f64>; 2]> {
        let [h, w] = shape;
        let padded = |image: &[f64]| -> Result<Tensor> {
            if h.checked_mul(w) != Some(image.len()) || image.is_empty() {
                let got = format!("{} values for {shape:?}", image.len());
                return Err(Error::shape(OP, "as many values as the shape says", got));
            }
            let values: Vec<f32> = image.iter().map(|v| *v as f32).collect();
            let grey = pad_to_eight(&Tensor::from_vec(values, (1, 1, h, w), device)?)?;
            let (_, _, rows, columns) = grey.dims4()?;
            Ok(grey.broadcast_as((1, 3, rows, columns))?.contiguous()?)
        };
        let flow =
            self.forward(&padded(first)?, &padded(second)?, iterations, None, &Ctx::eval())?;
        let fine = flow.fine.last().ok_or_else(|| Error::argument(OP, "no flow"))?;
        let before = |n: usize| (n.next_multiple_of(8) - n) / 2;
        let part = |channel: usize, axis: usize| -> Result<Vec<f64>> {
            let part = fine.narrow(1, channel, 1)?;
            let part = part.narrow(2, before(h), h)?.narrow(3, before(w), w)?;
            let mut ways = part.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            if grid == WarpGrid::Stretched {
                let size = shape[axis];
                let stretch = size as f64 / (size.max(2) - 1) as f64;
                for (i, way) in ways.iter_mut().enumerate() {
                    let place = [i / w, i % w][axis] as f64;
                    *way = (place + *way) * stretch - 0.5 - place;
                }
            }
            Ok(ways)
        };
        Ok([part(1, 0)?, part(0, 1)?])
    }
}
