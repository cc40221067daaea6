//! Products of matrices, several at a time.

use crate::cast::InHalf;
use crate::math::Real;
use crate::matrix::{Matrix, product, shared_product};
use crate::op::{Array, Backward, Op, apply};
use crate::{Error, Result};
use candle_core::{Shape, Tensor};
use rayon::prelude::*;

/// `a·b`: `a [.., m, k]`, `b [.., k, n]` → `[.., m, n]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    multiplied(a, b, [false, false])
}

/// `a·bᵀ`: `a [.., m, k]`, `b [.., n, k]` → `[.., m, n]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    multiplied(a, b, [false, true])
}

fn multiplied(a: &Tensor, b: &Tensor, swapped: [bool; 2]) -> Result<Tensor> {
    let product = Product { swapped };
    let (x, y) = (a.dims(), b.dims());
    let fits = x.len() >= 2 && x.len() == y.len() && x[..x.len() - 2] == y[..x.len() - 2];
    if fits {
        let ([_, k], [inner, _]) = (product.size(x, 0), product.size(y, 1));
        if k == inner {
            return apply(product, &[a, b]);
        }
    }
    let expected =
        if swapped[1] { "[.., m, k] and [.., n, k]" } else { "[.., m, k] and [.., k, n]" };
    Err(Error::shape("matmul", expected, (x, y)))
}

/// Products of the last two axes, of each of the factors as they are or transposed.
pub(super) struct Product {
    pub(super) swapped: [bool; 2],
}

impl Product {
    /// Rows and columns of a factor as it is multiplied.
    fn size(&self, dims: &[usize], factor: usize) -> [usize; 2] {
        let [rows, columns] = [dims[dims.len() - 2], dims[dims.len() - 1]];
        if self.swapped[factor] { [columns, rows] } else { [rows, columns] }
    }

    /// A factor as it is multiplied.
    fn matrix<'a, T>(&self, data: &'a [T], dims: &[usize], factor: usize) -> Matrix<'a, T> {
        let matrix = Matrix::rows(data, dims[dims.len() - 1]);
        if self.swapped[factor] { matrix.transposed() } else { matrix }
    }
}

impl Op for Product {
    const IN_HALF: InHalf = InHalf::Rounded;

    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (a, b) = (args[0], args[1]);
        let ([m, k], [_, n]) = (self.size(a.dims, 0), self.size(b.dims, 1));
        let outer = &a.dims[..a.dims.len() - 2];
        let shape = [outer, &[m, n]].concat();
        let batch: usize = outer.iter().product();
        let factors = |i: usize| {
            let (a, b) = (&a.data[i * m * k..], &b.data[i * k * n..]);
            (self.matrix(a, args[0].dims, 0), self.matrix(b, args[1].dims, 1))
        };
        // few products keep all threads busy only if each of them is shared
        if batch < rayon::current_num_threads() {
            let one = |i| {
                let (a, b) = factors(i);
                shared_product(self.name(), [m, n, k], a, b, None)
            };
            let mut all = (0..batch).map(one).collect::<Result<Vec<_>>>()?;
            let y = if batch == 1 { all.swap_remove(0) } else { all.concat() };
            return Ok((y, shape.into()));
        }
        let mut y = vec![T::zero(); batch * m * n];
        y.par_chunks_mut((m * n).max(1)).enumerate().for_each(|(i, y)| {
            let (a, b) = factors(i);
            product(y, [m, n, k], false, T::one(), a, b);
        });
        Ok((y, shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let (a, b) = (&args[0], &args[1]);
        let ([m, k], [_, n]) = (self.size(a.dims, 0), self.size(b.dims, 1));
        let outer = &a.dims[..a.dims.len() - 2];
        let batch = outer.iter().product();
        let y = crate::gpu::blas::product(gpu, batch, [m, n, k], [a, b], self.swapped)?;
        Ok((y, [outer, &[m, n]].concat().into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (a, b, g) = (&at.args[0], &at.args[1], &at.grad);
        let [left, right] = self.swapped;
        let of = |swapped: [bool; 2], a: &Tensor, b: &Tensor| apply(Product { swapped }, &[a, b]);
        let da = || if left { of([right, true], b, g) } else { of([false, !right], g, b) };
        let db = || if right { of([true, left], g, a) } else { of([!left, false], a, g) };
        Ok(vec![at.wanted[0].then(da).transpose()?, at.wanted[1].then(db).transpose()?])
    }
}
