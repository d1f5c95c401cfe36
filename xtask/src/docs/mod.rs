//! The check of the documentation: what it tells people to type must exist, and its tables must be whole.

mod page;
mod shell;
mod table;
mod usage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::workspace;
use page::{Block, Page};
use table::Table;
use usage::{Manual, Program};

/// Checks README.md, ARCHITECTURE.md and docs/*.md against the programs in `target/debug`.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let mut manual = Manual::new(ask_for_help);
    let mut problems = Vec::new();
    let mut checked = 0;
    for file in pages(&root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file).display();
        let mut report = |line: usize, problem: String| problems.push(format!("{name}:{line}: {problem}"));
        let page = Page::parse(&text);
        for block in &page.blocks {
            for command in shell::commands(block) {
                if let Some((program, words)) = usage::ours(&command.words) {
                    checked += 1;
                    if let Err(problem) = manual.verify(program, words) {
                        report(command.line, problem);
                    }
                }
            }
            if is_configuration(block) {
                checked += 1;
                if let Err(problem) = check_configuration(block) {
                    report(block.line, problem);
                }
            }
        }
        for link in &page.links {
            if let Some(path) = link.path(&file, &root) {
                checked += 1;
                if !path.exists() {
                    report(link.line, format!("the link to {} leads nowhere", link.target));
                }
            }
        }
        checked += page.tables.len();
        for (line, problem) in page.tables.iter().flat_map(Table::problems) {
            report(line, problem);
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("{checked} commands, configurations, links and tables are right");
        Ok(())
    } else {
        bail!("{} problems among {checked} commands, configurations, links and tables", problems.len())
    }
}

fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join("docs");
    let mut files = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.extend(["README.md", "ARCHITECTURE.md"].map(|name| root.join(name)));
    files.sort();
    Ok(files)
}

/// A block that shows a whole configuration file says so in its first line; others show a part.
fn is_configuration(block: &Block) -> bool {
    block.language == "toml" && block.text.lines().next().map(str::trim) == Some("# agent.toml")
}

fn check_configuration(block: &Block) -> Result<(), String> {
    let file = workspace::target_dir().join("documented-agent.toml");
    let output = fs::write(&file, &block.text).and_then(|()| {
        Command::new(binary(Program::Agent)).args(["config", "check", "--config"]).arg(&file).output()
    });
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "`lunar-agent config check` refuses this configuration: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("cannot check this configuration: {error}")),
    }
}

fn ask_for_help(program: Program, path: &[String]) -> Result<String, String> {
    let output = Command::new(binary(program))
        .args(path)
        .arg("--help")
        .output()
        .map_err(|error| format!("cannot start {}: {error}", binary(program).display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("`{} {} --help` fails", program.name(), path.join(" ")))
    }
}

fn binary(program: Program) -> PathBuf {
    workspace::target_dir().join("debug").join(program.binary())
}
