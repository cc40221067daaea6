//! Fixed work of tensors, which a GPU is given once and then does again by itself.

use crate::{Ctx, Error, Result};
use candle_core::{DType, Tensor, Var};
use limpid_kernels::first_line;
use limpid_kernels::recording::{Recording, is_recordable, record, rehearse};
use limpid_kernels::rng::Stream;

/// Types and shapes of the inputs.
type Key = Vec<(DType, Vec<usize>)>;

/// A function of tensors that is called again and again. On a GPU its second call with the same shapes is recorded, and
/// later ones play that: the host has one thing to do instead of one for each kernel.
///
/// The function must be fixed work: what differs between two calls is in the inputs, or comes from
/// [`Ctx::next_stream`]; it reads no result back. Whether its shapes are those of the call before is looked after here.
#[derive(Default)]
pub struct Replay<R> {
    state: State<R>,
}

#[derive(Default)]
enum State<R> {
    #[default]
    Fresh,
    Rehearsed(Key),
    Recorded(Box<Recorded<R>>),
    /// With the reason.
    Refused(Key, String),
}

struct Recorded<R> {
    key: Key,
    // freed before the recording that has allocated it
    result: R,
    inputs: Vec<Var>,
    recording: Recording,
    /// Which random sites its streams are, from the first on, and how many it passes.
    sites: Vec<u64>,
    passed: u64,
}

impl<R: Clone> Replay<R> {
    /// Nothing recorded.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Fresh }
    }

    /// `f` of the inputs. Tensors of a result that was recorded keep their values until the next call.
    ///
    /// # Errors
    /// Those of `f`; [`Error::Argument`] if the GPU fails.
    pub fn run<E: From<Error> + std::error::Error>(
        &mut self,
        inputs: &[&Tensor],
        ctx: &Ctx,
        mut f: impl FnMut(&[Tensor], &Ctx) -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        let given = || inputs.iter().map(|&t| t.clone()).collect::<Vec<_>>();
        let Some(device) = inputs.first().map(|t| t.device()).filter(|d| is_recordable(d)) else {
            return f(&given(), ctx);
        };
        let key: Key = inputs.iter().map(|t| (t.dtype(), t.dims().to_vec())).collect();
        let first = ctx.sites();
        match &self.state {
            State::Recorded(recorded) if recorded.key == key => {
                return Ok(recorded.play(inputs, ctx)?);
            }
            State::Refused(refused, _) if *refused == key => return f(&given(), ctx),
            State::Rehearsed(rehearsed) if *rehearsed == key => {}
            _ => {
                // what was recorded for other shapes makes room
                self.state = State::Fresh;
                let result = rehearse(device, || f(&given(), ctx))?;
                self.state = State::Rehearsed(key);
                return Ok(result);
            }
        }
        let begun = Recorded::new(key.clone(), inputs, ctx, &mut f).and_then(|recorded| {
            ctx.set_sites(first);
            let result = recorded.play(inputs, ctx)?;
            Ok((recorded, result))
        });
        match begun {
            Ok((recorded, result)) => {
                self.state = State::Recorded(Box::new(recorded));
                Ok(result)
            }
            Err(e) => {
                self.state = State::Refused(key, first_line(&e));
                ctx.set_sites(first);
                f(&given(), ctx)
            }
        }
    }

    /// Why the last calls were not recorded, if that was tried.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match &self.state {
            State::Refused(_, why) => Some(why),
            _ => None,
        }
    }

    /// Whether the last call was played.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(self.state, State::Recorded(_))
    }
}

impl<R: Clone> Recorded<R> {
    fn new<E: From<Error>>(
        key: Key,
        inputs: &[&Tensor],
        ctx: &Ctx,
        f: &mut impl FnMut(&[Tensor], &Ctx) -> std::result::Result<R, E>,
    ) -> std::result::Result<Self, E> {
        let own = |t: &&Tensor| Ok(Var::from_tensor(&t.detach().copy()?)?);
        let vars = inputs.iter().map(own).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(Var::as_detached_tensor).collect();
        let first = ctx.sites();
        let (recording, result) = record(tensors[0].device(), || f(&tensors, ctx))?;
        let passed = ctx.sites() - first;
        let site = |stream: &Stream| (0..passed).find(|&i| ctx.stream_at(first + i) == *stream);
        let sites = recording.streams().iter().map(site).collect::<Option<Vec<_>>>();
        let sites = sites.ok_or_else(|| {
            E::from(Error::argument("record", "random numbers that are of no site of the pass"))
        })?;
        Ok(Self { key, result, inputs: vars, recording, sites, passed })
    }

    fn play(&self, inputs: &[&Tensor], ctx: &Ctx) -> Result<R> {
        for (own, given) in self.inputs.iter().zip(inputs) {
            own.set(&given.detach())?;
        }
        let first = ctx.sites();
        let streams: Vec<_> = self.sites.iter().map(|site| ctx.stream_at(first + site)).collect();
        self.recording.play(&streams)?;
        ctx.set_sites(first + self.passed);
        Ok(self.result.clone())
    }
}
