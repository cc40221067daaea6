//! Help with the examples first, and shell completions.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::terminal::print;

/// Help template of every command: what it does, usage, examples (`before_help`, starting with
/// `Examples:`), options by heading.
pub const HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}{all-args}{after-help}
";

/// Arguments of the `completions` verb.
#[derive(Debug, Clone, clap::Args)]
pub struct Completions {
    /// The shell to complete in
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Completions {
    /// Prints the completion script of the command line `C`.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn print<C: CommandFactory>(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        self.write::<C>(&mut script);
        print(String::from_utf8_lossy(&script))
    }

    fn write<C: CommandFactory>(&self, out: &mut dyn io::Write) {
        let mut command = C::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::CommonArgs;
    use clap::Parser;

    /// Restore an image
    #[derive(Parser)]
    #[command(name = "app", help_template = HELP, term_width = 100,
        before_help = "Examples:\n  app a.tif b.tif\n  app a.tif b.tif --device cpu")]
    struct Cli {
        /// Image to read
        input: String,
        #[command(flatten)]
        common: CommonArgs,
    }

    #[test]
    fn examples_come_before_the_options() {
        let help = Cli::command().render_help().to_string();
        let expected = "\
Restore an image

Usage: app [OPTIONS] <INPUT>

Examples:
  app a.tif b.tif
  app a.tif b.tif --device cpu

Arguments:
  <INPUT>  Image to read

Options:
  -h, --help  Print help (see more with '--help')

Compute:
      --device <DEVICE>  Where to compute: auto, cpu or cuda:N [env: LIMPID_DEVICE] [default: auto]
";
        assert!(help.starts_with(expected), "{help}");
    }

    #[test]
    fn every_shell_gets_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            Completions { shell }.write::<Cli>(&mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("dry-run"), "{shell}");
        }
    }
}
