//! `assayd completions`: completion scripts for shells.

use clap_complete::Shell;

use crate::domain::Problem;

/// Prints a completion script for a shell.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd completions bash > ~/.local/share/bash-completion/completions/assayd
  assayd completions zsh > ~/.zfunc/_assayd
  assayd completions fish > ~/.config/fish/completions/assayd.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `command` is the whole command line of the program.
pub fn run(args: &Args, mut command: clap::Command) -> Result<u8, Problem> {
    clap_complete::generate(args.shell, &mut command, "assayd", &mut std::io::stdout());
    Ok(0)
}
