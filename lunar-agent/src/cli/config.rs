//! `lunar-agent config check|show`.

use clap::{Args, Subcommand, ValueEnum};

use super::{output::say, sources::ConfigArgs};
use crate::config::{Config, Loaded, show};

/// Validate the configuration, or print what is in effect and why
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Validate the configuration; exit code 2 and a line for each problem if it is not usable
    #[command(after_help = "\
Examples:
  lunar-agent config check
  lunar-agent config check --config ./agent.toml
  LUNAR_PROXY_HOST=gateway:8000 lunar-agent config check --handoff original-dst")]
    Check(ConfigArgs),
    /// Print every key that is in effect, its value and where it came from
    #[command(after_help = "\
Examples:
  lunar-agent config show
  lunar-agent config show --config ./agent.toml --gateway 127.0.0.1:8000
  lunar-agent config show --handoff proxy-protocol -o json")]
    Show(ShowArgs),
}

/// What `config show` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    sources: ConfigArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Runs the command and prints on stdout.
///
/// # Errors
/// An unusable configuration is a [`ConfigErrors`](crate::config::ConfigErrors), which `main` finds by downcast and turns into
/// exit code 2; anything else is a failure to print.
pub fn run(command: ConfigCommand) -> anyhow::Result<()> {
    let text = match command {
        ConfigCommand::Check(sources) => summary(&Config::load(sources.into_sources())?),
        ConfigCommand::Show(args) => {
            let loaded = Config::load(args.sources.into_sources())?;
            match args.output {
                Output::Table => show::table(&loaded.origins),
                Output::Json => format!("{:#}\n", show::json(&loaded.origins)),
            }
        }
    };
    say(&text)
}

/// One line that says what would be in effect.
fn summary(loaded: &Loaded) -> String {
    let Config { gateway, policy, targets, .. } = &loaded.config;
    let file = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file".to_owned(),
    };
    format!(
        "ok: {}, handoff {}, tls {}, {}, {}{} ({file})\n",
        counted(gateway.endpoints.len(), "endpoint", "endpoints"),
        gateway.handoff,
        gateway.tls,
        counted(targets.len(), "target", "targets"),
        counted(policy.allow.len() + policy.block.len(), "policy entry", "policy entries"),
        if policy.dry_run { ", dry run" } else { "" },
    )
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::config::{ConfigFile, Flags, Sources};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: ConfigCommand,
    }

    #[test]
    fn the_command_is_well_formed_and_has_examples() {
        Cli::command().debug_assert();
        for verb in ["check", "show"] {
            let mut cli = Cli::command();
            let command = cli.find_subcommand_mut(verb).expect("the verb exists");
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
            // The handoffs that are not built have no place in the help.
            assert!(help.contains("destination: original-dst or proxy-protocol"), "{help}");
        }
    }

    #[test]
    fn show_takes_the_output() {
        for (args, output) in [
            (vec!["x", "show"], Output::Table),
            (vec!["x", "show", "-o", "json"], Output::Json),
            (vec!["x", "show", "--output", "table"], Output::Table),
        ] {
            match Cli::try_parse_from(args).expect("valid flags").command {
                ConfigCommand::Show(args) => assert_eq!(args.output, output),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn check_says_in_one_line_what_is_in_effect() {
        let loaded = Config::load(Sources {
            file: ConfigFile::Standard("/nonexistent/agent.toml".into()),
            env: vec![("LUNAR_ALLOW_LIST".into(), "192.0.2.1,192.0.2.2".into())],
            flags: Flags {
                handoff: Some("original-dst".to_owned()),
                target: vec!["pid:1".to_owned()],
                ..Flags::default()
            },
        })
        .expect("usable");
        assert_eq!(
            summary(&loaded),
            "ok: 1 endpoint, handoff original-dst, tls direct, 1 target, 2 policy entries (no file)\n"
        );
    }

    #[test]
    fn an_unusable_configuration_can_be_told_from_other_failures() {
        let missing = ConfigArgs { config: Some("/nonexistent/agent.toml".into()), ..ConfigArgs::default() };
        let error = run(ConfigCommand::Check(missing)).expect_err("there is no such file");
        assert!(error.is::<crate::config::ConfigErrors>(), "{error:?}");
    }
}
