//! The flags that set configuration, and the one place where the environment is read for it.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigErrors, ConfigFile, Flags, Paths, STANDARD_FILE, Sources};

/// The flags that set configuration, for every command that needs all of it.
///
/// Values are texts here: the configuration checks them together with those of the other sources, so that all that is wrong
/// is reported at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ConfigArgs {
    /// Read this configuration file, which has to exist [default: /etc/lunar/agent.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Send traffic to this endpoint of the gateway; repeat for several; replaces all that are configured elsewhere
    #[arg(long, value_name = "HOST:PORT")]
    pub gateway: Vec<String>,
    /// How the gateway learns the original destination: original-dst or proxy-protocol
    #[arg(long, value_name = "HANDOFF")]
    pub handoff: Option<String>,
    /// Intercept this target, cgroup:PATH or pid:N; repeat for several; replaces all that are configured elsewhere
    #[arg(long, value_name = "SELECTOR")]
    pub target: Vec<String>,
    /// The unix socket between the agent and the command line [default: /run/lunar/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
}

impl ConfigArgs {
    /// Puts the flags together with the file to read and this process's environment.
    pub fn into_sources(self) -> Sources {
        // Not `vars`, which panics when any variable of the process, ours or not, is not Unicode.
        self.with_env(std::env::vars_os().collect())
    }

    fn with_env(self, env: Vec<(std::ffi::OsString, std::ffi::OsString)>) -> Sources {
        Sources {
            file: match self.config {
                Some(path) => ConfigFile::Named(path),
                None => ConfigFile::Standard(STANDARD_FILE.into()),
            },
            env,
            flags: Flags {
                gateway: self.gateway,
                handoff: self.handoff,
                target: self.target,
                socket: self.socket,
            },
        }
    }
}

/// Where a running agent, or what a dead one left, is to be found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct PlaceArgs {
    /// The unix socket of the agent [default: /run/lunar/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Read paths.socket and paths.pins from this file [default: /etc/lunar/agent.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl PlaceArgs {
    /// The agent's paths, from the same sources as the agent's own; nothing else of the configuration has to be right.
    ///
    /// # Errors
    /// If the file or one of the paths is wrong.
    pub fn paths(&self) -> Result<Paths, ConfigErrors> {
        let args =
            ConfigArgs { config: self.config.clone(), socket: self.socket.clone(), ..ConfigArgs::default() };
        Config::load_paths(args.into_sources())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: ConfigArgs,
    }

    #[test]
    fn flags_become_sources() {
        let cli = Cli::try_parse_from([
            "x",
            "--gateway",
            "a:1",
            "--gateway",
            "b:2",
            "--handoff",
            "original-dst",
            "--target",
            "pid:1",
            "--target",
            "cgroup:/x",
            "--socket",
            "/s",
            "--config",
            "/c",
        ])
        .expect("valid flags");
        let sources = cli.args.with_env(Vec::new());
        assert_eq!(sources.file, ConfigFile::Named("/c".into()));
        let texts = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        assert_eq!(
            sources.flags,
            Flags {
                gateway: texts(["a:1", "b:2"]),
                handoff: Some("original-dst".to_owned()),
                target: texts(["pid:1", "cgroup:/x"]),
                socket: Some("/s".to_owned()),
            }
        );
    }

    #[test]
    fn without_flags_the_standard_file_is_read() {
        let sources = ConfigArgs::default().with_env(Vec::new());
        assert_eq!(sources.file, ConfigFile::Standard(STANDARD_FILE.into()));
        assert_eq!(sources.flags, Flags::default());
    }
}
