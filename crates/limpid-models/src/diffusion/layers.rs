//! Which layers between two slices a model can draw.

use super::LayerPlace;
use limpid_engine::{Error, Result};

/// How much the gap between slices may differ from the one that was trained, as a part of it.
const MOST_DIFFERENCE: f64 = 0.05;

/// The places of `wanted` layers, evenly spread between two slices, for a model that was trained on
/// `model_layers` of them; `gap` is the distance of slices in training and that of the image, in one
/// unit, if both are known.
///
/// Layer c of n is at `c/(n + 1)` of the way. The model knows places by the number of its own
/// layers, and numbers in between by interpolation of its embedding, but none outside.
///
/// # Errors
/// [`Error::Setting`] for more layers than were trained, or another gap.
pub fn places(
    model_layers: usize,
    wanted: usize,
    gap: Option<[f64; 2]>,
) -> Result<Vec<LayerPlace>> {
    let refuse = |message: String, hint: &str| Err(Error::Setting { message, hint: hint.into() });
    if wanted == 0 {
        return refuse("0 layers between slices are none to draw".into(), "ask for at least 1");
    }
    if wanted > model_layers {
        return refuse(
            format!(
                "{wanted} layers are wanted, the model was trained on {model_layers} between two slices"
            ),
            "ask for no more: the model knows no layer so close to a slice",
        );
    }
    if let Some([trained, given]) = gap {
        if !(trained > 0.0 && given > 0.0 && trained.is_finite() && given.is_finite()) {
            return refuse(
                format!("the gap between slices is {given}, that of the training {trained}"),
                "give distances above 0, or check the spacing of the image",
            );
        }
        if (given / trained - 1.0).abs() > MOST_DIFFERENCE {
            return refuse(
                format!(
                    "the slices are {given} apart, those that the model was trained on {trained}"
                ),
                "use a model of this gap, or correct the spacing of the image if it is wrong",
            );
        }
    }
    let place = |c: usize| LayerPlace {
        index: (c * (model_layers + 1)) as f64 / (wanted + 1) as f64 - 1.0,
        fraction: c as f64 / (wanted + 1) as f64,
    };
    Ok((1..=wanted).map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_s_own_layers_have_its_numbers() {
        for n in 1..40 {
            for (i, place) in places(n, n, None).unwrap().iter().enumerate() {
                assert_eq!(place.index, i as f64);
                assert_eq!(place.fraction, (i + 1) as f64 / (n + 1) as f64);
            }
        }
    }

    #[test]
    fn fewer_layers_lie_between_the_model_s() {
        let got = places(5, 2, Some([50.0, 51.0])).unwrap();
        assert_eq!(got.iter().map(|p| p.index).collect::<Vec<_>>(), [1.0, 3.0]);
        let got = places(4, 3, None).unwrap();
        assert_eq!(got.iter().map(|p| p.index).collect::<Vec<_>>(), [0.25, 1.5, 2.75]);
        assert_eq!(got[1].fraction, 0.5);
        for (model, wanted) in [(1, 1), (5, 1), (9, 8)] {
            for place in places(model, wanted, None).unwrap() {
                assert!(place.index >= 0.0 && place.index <= (model - 1) as f64);
            }
        }
    }

    #[test]
    fn what_was_not_trained_is_refused() {
        let message = |gap| places(5, 5, gap).unwrap_err().to_string();
        assert!(places(5, 6, None).unwrap_err().to_string().contains("trained on 5"));
        assert!(places(5, 0, None).is_err());
        assert!(message(Some([50.0, 53.0])).contains("53 apart"));
        assert!(message(Some([50.0, 47.0])).contains("hint: use a model of this gap"));
        assert!(message(Some([50.0, f64::NAN])).contains("NaN"));
        assert!(places(5, 5, Some([50.0, 52.0])).is_ok());
    }
}
