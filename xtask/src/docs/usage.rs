//! A documented command against what the program's own `--help` says.

use std::collections::{BTreeSet, HashMap};

/// A program of this repository that the documentation shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    Agent,
    Xtask,
    /// Reached through `cargo xtask demo` and `cargo xtask bench`, which pass on what they are given.
    Lab,
}

impl Program {
    /// As the documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "lunar-agent",
            Self::Xtask | Self::Lab => "cargo xtask",
        }
    }

    /// The name of its file.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Agent => "lunar-agent",
            Self::Xtask => "xtask",
            Self::Lab => "lunar-lab",
        }
    }
}

/// The program of ours that these words start, and its arguments.
pub fn ours(words: &[String]) -> Option<(Program, &[String])> {
    let mut rest = words;
    loop {
        match rest {
            [first, tail @ ..] if is_assignment(first) => rest = tail,
            [sudo, tail @ ..] if sudo == "sudo" => {
                let options = tail.iter().take_while(|word| word.starts_with('-')).count();
                rest = &tail[options..];
            }
            [cargo, xtask, tail @ ..] if cargo == "cargo" && xtask == "xtask" => {
                let lab = matches!(tail.first().map(String::as_str), Some("demo" | "bench"));
                return Some((if lab { Program::Lab } else { Program::Xtask }, tail));
            }
            [program, tail @ ..] if program.rsplit('/').next() == Some("lunar-agent") => {
                return Some((Program::Agent, tail));
            }
            _ => return None,
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// What one `--help` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Help {
    commands: BTreeSet<String>,
    flags: BTreeSet<String>,
    /// Those of the flags that are followed by a value.
    with_value: BTreeSet<String>,
}

impl Help {
    /// Reads what clap prints.
    pub fn parse(text: &str) -> Self {
        let mut help = Self::default();
        let mut in_commands = false;
        for line in text.lines() {
            if !line.starts_with(' ') {
                in_commands = line == "Commands:";
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let mut words = line.split_whitespace();
            if in_commands {
                // Deeper lines go on with a description.
                help.commands.extend(words.next().filter(|_| indent == 2).map(str::to_owned));
            } else if line.trim_start().starts_with('-') {
                let mut names = Vec::new();
                let mut value = false;
                for word in words {
                    if word.starts_with('-') {
                        let end = word.find([',', '=', '[']).unwrap_or(word.len());
                        names.push(word[..end].trim_end_matches("...").to_owned());
                    } else {
                        value = word.starts_with('<');
                        break;
                    }
                }
                if value {
                    help.with_value.extend(names.iter().cloned());
                }
                help.flags.extend(names);
            }
        }
        help
    }
}

/// Asks each program at most once for each of its helps.
pub struct Manual<Ask> {
    ask: Ask,
    known: HashMap<(Program, Vec<String>), Help>,
}

impl<Ask: Fn(Program, &[String]) -> Result<String, String>> Manual<Ask> {
    /// `ask` returns the text of `program path… --help`.
    pub fn new(ask: Ask) -> Self {
        Self { ask, known: HashMap::new() }
    }

    /// Whether the program would know these subcommands and flags. Values are not looked at.
    pub fn verify(&mut self, program: Program, words: &[String]) -> Result<(), String> {
        let mut path: Vec<String> = Vec::new();
        let mut words = words.iter();
        let mut help = self.help(program, &path)?;
        while let Some(word) = words.next() {
            if word == "--" || word.contains(['<', '>']) && !word.starts_with('-') {
                break;
            }
            let flag = match word.split_once('=') {
                _ if word == "-" || !word.starts_with('-') => None,
                Some((name, _)) => Some((name, false)),
                None => Some((word.as_str(), true)),
            };
            if let Some((mut name, mut value_follows)) = flag {
                if !name.starts_with("--") && name.len() > 2 {
                    // `-ojson` holds its value.
                    name = name.get(..2).unwrap_or(name);
                    value_follows = false;
                }
                if !help.flags.contains(name) {
                    return Err(format!("`{}` has no {name}", full_name(program, &path)));
                }
                if value_follows && help.with_value.contains(name) {
                    words.next();
                }
            } else if help.commands.contains(word) {
                path.push(word.clone());
                help = self.help(program, &path)?;
            } else if !help.commands.is_empty() {
                return Err(format!("`{}` has no command {word}", full_name(program, &path)));
            }
        }
        Ok(())
    }

    fn help(&mut self, program: Program, path: &[String]) -> Result<Help, String> {
        let key = (program, path.to_vec());
        if let Some(help) = self.known.get(&key) {
            return Ok(help.clone());
        }
        let help = Help::parse(&(self.ask)(program, path)?);
        self.known.insert(key, help.clone());
        Ok(help)
    }
}

fn full_name(program: Program, path: &[String]) -> String {
    let mut name = program.name().to_owned();
    for word in path {
        name.push(' ');
        name.push_str(word);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "The agent\n\nUsage: lunar-agent [OPTIONS] <COMMAND>\n\nCommands:\n  run       Runs\n            \
                        in the foreground\n  failsafe  The breaker\n  help      Print this\n\nOptions:\n      \
                        --socket <PATH>  Where\n                       --not-a-flag is told apart only by its words\n  \
                        -v, --verbose...     More\n  -h, --help           Print help\n\nExamples:\n  lunar-agent run\n";
    const RUN: &str = "Usage: lunar-agent run [OPTIONS]\n\nOptions:\n  -o, --output <KIND>\n          Long help\n\n      \
                       --gateway <H:P>...  The gateway\n      --color[=<WHEN>]  Colours\n";
    const FAILSAFE: &str = "Usage: x\n\nCommands:\n  show    Shows\n  bypass  Opens\n";

    fn manual() -> Manual<impl Fn(Program, &[String]) -> Result<String, String>> {
        Manual::new(|_, path: &[String]| match path.join(" ").as_str() {
            "" => Ok(ROOT.to_owned()),
            "run" => Ok(RUN.to_owned()),
            "failsafe" => Ok(FAILSAFE.to_owned()),
            "failsafe show" => Ok(String::new()),
            other => Err(format!("no help for {other}")),
        })
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn help_gives_commands_and_flags() {
        let root = Help::parse(ROOT);
        assert_eq!(root.commands.iter().collect::<Vec<_>>(), ["failsafe", "help", "run"]);
        for flag in ["--socket", "-v", "--verbose", "-h", "--help"] {
            assert!(root.flags.contains(flag), "{flag} in {root:?}");
        }
        assert_eq!(root.with_value.iter().collect::<Vec<_>>(), ["--socket"]);
        let run = Help::parse(RUN);
        assert_eq!(run.flags.iter().collect::<Vec<_>>(), ["--color", "--gateway", "--output", "-o"]);
        assert_eq!(run.with_value.iter().collect::<Vec<_>>(), ["--gateway", "--output", "-o"]);
    }

    #[test]
    fn real_commands_pass() {
        for line in [
            "run --gateway 127.0.0.1:8000 -o json -ojson --output=json --color",
            "--socket run failsafe show",
            "--verbose run <CONFIG>",
            "run selector-that-is-no-command",
            "run -- --anything",
        ] {
            assert_eq!(manual().verify(Program::Agent, &words(line)), Ok(()), "{line}");
        }
    }

    #[test]
    fn made_up_commands_and_flags_are_named() {
        for (line, problem) in [
            ("walk", "`lunar-agent` has no command walk"),
            ("failsafe close", "`lunar-agent failsafe` has no command close"),
            ("run --handoff x", "`lunar-agent run` has no --handoff"),
            ("run --socket=x", "`lunar-agent run` has no --socket"),
            ("run -x", "`lunar-agent run` has no -x"),
        ] {
            assert_eq!(manual().verify(Program::Agent, &words(line)), Err(problem.to_owned()), "{line}");
        }
    }

    #[test]
    fn our_programs_are_found_behind_sudo_assignments_and_paths() {
        for (line, program, rest) in [
            ("cargo xtask test a", Program::Xtask, "test a"),
            ("cargo xtask bench connect", Program::Lab, "bench connect"),
            ("sudo -E target/release/lunar-agent run", Program::Agent, "run"),
            ("LUNAR_PROXY_HOST=h:1 lunar-agent run", Program::Agent, "run"),
        ] {
            let line = words(line);
            assert_eq!(ours(&line), Some((program, words(rest).as_slice())), "{line:?}");
        }
        for line in ["cargo test", "echo lunar-agent run", ""] {
            assert_eq!(ours(&words(line)), None, "{line}");
        }
    }
}
