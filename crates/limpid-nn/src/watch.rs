//! Finding the layer in which numbers cease to be finite.

use crate::Param;
use candle_core::Tensor;
use std::cell::RefCell;

/// What a thread's watch has seen.
enum Watch {
    Off,
    /// All finite so far.
    Clean,
    Found(String),
}

thread_local! {
    // the layers of a network are passed through on the thread that calls it
    static WATCH: RefCell<Watch> = const { RefCell::new(Watch::Off) };
}

/// Runs a forward pass and names the first layer whose output is not finite.
///
/// Layers with parameters are watched. Each of their outputs is read once more: this is for
/// finding the cause of a failure, not for every step.
pub fn first_nonfinite_layer<T>(pass: impl FnOnce() -> T) -> (T, Option<String>) {
    /// Ends the watch, also if the pass panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCH.set(Watch::Off);
        }
    }
    let _end = End;
    WATCH.set(Watch::Clean);
    let result = pass();
    let found = match WATCH.replace(Watch::Off) {
        Watch::Found(layer) => Some(layer),
        Watch::Off | Watch::Clean => None,
    };
    (result, found)
}

/// Looks at the output of the layer with that parameter, if there is a watch.
pub(crate) fn see(param: &Param, output: &Tensor) {
    // what cannot be looked at is not what is looked for
    if WATCH.with_borrow(|watch| matches!(watch, Watch::Clean))
        && limpid_kernels::widened(&output.detach())
            .and_then(|output| limpid_kernels::all_finite(&output))
            .is_ok_and(|finite| !finite)
    {
        let name = param.name();
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        WATCH.set(Watch::Found(layer.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Params;
    use crate::layers::Linear;
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;

    #[test]
    fn the_first_layer_is_named_and_the_watch_ends() {
        let params = Params::new();
        let scope = params.scope(Stream::new(1, "watch"), DType::F32, &Device::Cpu);
        let layers: Vec<Linear> =
            (0..3).map(|i| Linear::new(2, 2, true, &scope.pp("net").pp(i)).unwrap()).collect();
        let inf = Tensor::full(f32::INFINITY, 2, &Device::Cpu).unwrap();
        params.get("net.1.bias").unwrap().set(&inf).unwrap();
        let x = Tensor::ones((1, 2), DType::F32, &Device::Cpu).unwrap();
        let pass = || layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x)).map(drop);
        assert_eq!(first_nonfinite_layer(pass).1.as_deref(), Some("net.1"));
        assert_eq!(first_nonfinite_layer(|| layers[0].forward(&x)).1, None);
    }
}
