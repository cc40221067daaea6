//! `denoise inspect`: what is in a file.

use crate::model_file::Trained;
use limpid_arch::{ImageArchitecture as _, NetworkConfig};
use limpid_cli::Failure;
use limpid_cli::inspect::{InspectArgs, card};

pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    args.run::<NetworkConfig>("denoise", |path, bundle| {
        let trained = Trained::of(path, bundle, &candle_core::Device::Cpu)?;
        let network = &trained.card.network;
        let window = format!(
            "receptive field {:?}, divisor {:?}\n",
            network.receptive_field(),
            network.divisor()
        );
        Ok(card(&trained.card, trained.params.count(), &window))
    })
}
