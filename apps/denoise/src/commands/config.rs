//! `denoise config`: look at a configuration before using it.

use crate::config::Config;
use limpid_cli::{ConfigArgs, Failure, HELP, print};
use limpid_config::load;
use std::path::PathBuf;

/// Show, check and describe configurations
#[derive(clap::Subcommand)]
#[command(before_help = "Examples:\n  denoise config show configs/denoise/em-demo.toml --origin")]
pub(crate) enum Verb {
    /// Print the configuration with every default filled in
    #[command(help_template = HELP)]
    Show {
        /// Configuration file; none: the defaults
        file: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Say whether a configuration can be used
    #[command(help_template = HELP)]
    Check {
        /// Configuration file
        file: PathBuf,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Print the JSON schema, for editors
    Schema,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Show { file, origin, settings } => {
            settings.terminal.apply();
            let loaded = load::<Config>(&settings.request.request(file.clone()))?;
            print(loaded.show(*origin))
        }
        Verb::Check { file, settings } => {
            settings.terminal.apply();
            load::<Config>(&settings.request.request(Some(file.clone())))?;
            print("no problems found\n")
        }
        Verb::Schema => print(super::docs::schema()?),
    }
}
