//! The commands in a block of shell: as much of its grammar as documentation uses.

use super::page::Block;

/// One command, without what the shell keeps for itself.
#[derive(Debug, PartialEq, Eq)]
pub struct ShellCommand {
    /// Where it begins, counted from 1.
    pub line: usize,
    pub words: Vec<String>,
}

/// The commands of a block; none if the block is not shell.
pub fn commands(block: &Block) -> Vec<ShellCommand> {
    let console = match block.language.as_str() {
        "sh" | "bash" | "shell" => false,
        "console" => true,
        _ => return Vec::new(),
    };
    // In a console block with prompts, a line without one is output.
    let prompts = console && block.text.lines().any(|line| without_prompt(line).is_some());
    let mut commands = Vec::new();
    let mut lines = block.text.lines().zip(block.line..);
    while let Some((first, line)) = lines.next() {
        let first = match (prompts, without_prompt(first)) {
            (true, None) => continue,
            (true, Some(rest)) => rest,
            (false, _) => first,
        };
        let mut logical = first.to_owned();
        while let Some(head) = logical.strip_suffix('\\') {
            let Some((next, _)) = lines.next() else { break };
            logical = format!("{head} {next}");
        }
        let parts = split(&logical).into_iter();
        commands.extend(parts.filter(|words| !words.is_empty()).map(|words| ShellCommand { line, words }));
    }
    commands
}

fn without_prompt(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
}

/// Words, command by command: quotes join, `|`, `;` and `&` part commands, `#` ends the line.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let finish = |commands: &mut Vec<Vec<String>>, word: &mut Option<String>| {
        if let (Some(last), Some(word)) = (commands.last_mut(), word.take()) {
            last.push(word);
        }
    };
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            // `2>&1` is one word.
            (None, '&') if word.as_ref().is_some_and(|word| word.ends_with('>')) => {
                word.get_or_insert_default().push('&');
            }
            (None, '|' | ';' | '&') => {
                finish(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            (None, _) if character.is_whitespace() => finish(&mut commands, &mut word),
            _ => word.get_or_insert_default().push(character),
        }
    }
    finish(&mut commands, &mut word);
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(language: &str, text: &str) -> Vec<(usize, String)> {
        let block = Block { language: language.into(), line: 10, text: text.into() };
        commands(&block).into_iter().map(|command| (command.line, command.words.join("|"))).collect()
    }

    #[test]
    fn only_shell_blocks_hold_commands() {
        assert_eq!(words("toml", "cargo xtask test"), []);
        assert_eq!(words("sh", "cargo xtask test"), [(10, "cargo|xtask|test".into())]);
    }

    #[test]
    fn a_console_block_with_prompts_has_output_too() {
        let text = "$ lunar-agent status\nlunar-agent nonsense\n# lunar-agent cleanup";
        assert_eq!(
            words("console", text),
            [(10, "lunar-agent|status".into()), (12, "lunar-agent|cleanup".into())]
        );
        assert_eq!(words("console", "a b"), [(10, "a|b".into())]);
    }

    #[test]
    fn continued_lines_count_from_their_first() {
        let text = "# a comment\nlunar-agent run \\\n  --gateway h:1   # why\nb";
        assert_eq!(words("sh", text), [(11, "lunar-agent|run|--gateway|h:1".into()), (13, "b".into())]);
    }

    #[test]
    fn operators_part_commands_and_quotes_join_words() {
        assert_eq!(
            words("sh", "A='x y' a --b='c # d' 2>&1 | jq '.a | .b' && c; d &"),
            [
                (10, "A=x y|a|--b=c # d|2>&1".into()),
                (10, "jq|.a | .b".into()),
                (10, "c".into()),
                (10, "d".into()),
            ]
        );
    }
}
