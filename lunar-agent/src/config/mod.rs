//! The configuration (DESIGN section 7), in two stages.
//!
//! 1. Raw: each source becomes a layer of values by dotted key, each with its place: defaults, the file, the `LUNAR_*`
//!    variables, the flags. Unknown keys and wrong types end here.
//! 2. Checked: the layers become one [`Config`] of real types, or [`ConfigErrors`] with everything that is wrong.
//!
//! Nothing here reads the environment or the command line; both are handed in with [`Sources`].

mod check;
pub mod checked;
pub mod duration;
pub mod endpoint;
pub mod failsafe;
mod file;
pub mod gateway;
pub mod health;
pub mod keyword;
pub mod layer;
pub mod problem;
pub mod relay;
mod schema;
pub mod show;
mod target;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;

pub use checked::{Config, Paths, Policy, Quic};
pub use duration::HumanDuration;
pub use endpoint::{EndpointSpec, Host, MAX_ENDPOINTS};
pub use failsafe::{Failsafe, OnStop};
pub use gateway::{Gateway, GatewayProcess, Handoff, Tls};
pub use health::{Health, HealthKind};
pub use layer::{Flags, Source};
pub use problem::{ConfigErrors, Problem};
pub use relay::{Relay, Replay};
pub use show::Origin;

use layer::Layer;

/// The file that is read when none is named.
pub const STANDARD_FILE: &str = "/etc/lunar/agent.toml";

/// Which file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigFile {
    /// Named with `--config`: it has to be there.
    Named(PathBuf),
    /// The standard one: it may be absent.
    Standard(PathBuf),
}

/// Everything a configuration is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The file.
    pub file: ConfigFile,
    /// The environment, all of it; what is not of the contract is passed over.
    pub env: Vec<(OsString, OsString)>,
    /// The command line.
    pub flags: Flags,
}

/// A configuration and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is in effect.
    pub config: Config,
    /// Every key that is in effect with its value and source, in the order of the contract.
    pub origins: Vec<Origin>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the file and makes one configuration of all sources.
    ///
    /// # Errors
    /// Everything that is wrong, in every source, at once.
    pub fn load(sources: Sources) -> Result<Loaded, ConfigErrors> {
        let (layers, file) = layers(sources);
        let (config, origins) = checked::check(&layers)?;
        Ok(Loaded { config, origins, file })
    }

    /// Reads just the agent's paths, for the commands that talk to one: whatever else is wrong is the agent's to say.
    ///
    /// # Errors
    /// If the file cannot be read, or a path is wrong.
    pub fn load_paths(sources: Sources) -> Result<Paths, ConfigErrors> {
        let (layers, _) = layers(sources);
        checked::check_paths(&layers)
    }
}

/// All layers, lowest first, and the file that was read.
fn layers(sources: Sources) -> ([Layer; 4], Option<PathBuf>) {
    let Sources { file, env, flags } = sources;
    let (path, named) = match file {
        ConfigFile::Named(path) => (path, true),
        ConfigFile::Standard(path) => (path, false),
    };
    let mut read = None;
    let mut from_file = Layer::default();
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            from_file = file::parse(&path, &text);
            read = Some(path);
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !named => {}
        Err(error) => {
            let source = match named {
                true => Source::Flag { name: "--config" },
                false => Source::Default,
            };
            let path = path.display();
            from_file.incomplete = true;
            from_file.problems.push(Problem {
                key: "config".to_owned(),
                source,
                reason: format!("{path} cannot be read: {error}; name a file that can be"),
            });
        }
    }
    let layers = [Layer::defaults(), from_file, Layer::from_env(env), Layer::from_flags(&flags)];
    (layers, read)
}

#[cfg(test)]
mod tests;
