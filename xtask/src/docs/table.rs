//! The tables of a page. Markdown drops the cells that a row has too many without a word, and shows a table whose line of
//! dashes does not fit its head as plain text.

/// A table, or what was to be one.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    pub head: Row,
    /// In their order; the line of dashes only where it does not fit the head.
    pub rows: Vec<Row>,
}

/// A line of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counted from 1.
    pub line: usize,
    pub cells: usize,
}

impl Row {
    /// Reads a line. A bar parts cells within code too, as GitHub has it, unless a backslash stands before it.
    pub fn parse(line: usize, text: &str) -> Self {
        let text = text.trim();
        let mut characters = text.strip_prefix('|').unwrap_or(text).chars();
        let (mut cells, mut begun) = (0, false);
        while let Some(character) = characters.next() {
            cells += usize::from(!begun);
            begun = character != '|';
            if character == '\\' {
                characters.next();
            }
        }
        Self { line, cells }
    }
}

impl Table {
    /// What was to be a table in a paragraph: a line of dashes that has another number of cells than the line above it.
    /// `line` is the paragraph's first.
    pub fn broken(line: usize, paragraph: &str) -> Option<Self> {
        let lines: Vec<&str> = paragraph.lines().collect();
        let (dashes, above) = (line + 1..).zip(lines.windows(2)).find_map(|(line, pair)| {
            is_dashes(pair[1]).then(|| (Row::parse(line, pair[1]), Row::parse(line - 1, pair[0])))
        })?;
        (dashes.cells != above.cells).then(|| Self { head: above, rows: vec![dashes] })
    }

    /// Each line that does not fit the head, and why.
    pub fn problems(&self) -> impl Iterator<Item = (usize, String)> {
        let head = self.head.cells;
        self.rows.iter().filter(move |row| row.cells != head).map(move |row| {
            let cells = row.cells;
            (row.line, format!("{cells} cells under a head of {head}; a bar within a cell is written \\|"))
        })
    }
}

/// Whether this is the line between a table's head and its rows.
fn is_dashes(text: &str) -> bool {
    let text = text.trim();
    let cell = |cell: &str| {
        let cell = cell.trim();
        let dashes = cell.strip_prefix(':').unwrap_or(cell);
        let dashes = dashes.strip_suffix(':').unwrap_or(dashes);
        !dashes.is_empty() && dashes.bytes().all(|b| b == b'-')
    };
    let inner = text.strip_prefix('|').unwrap_or(text);
    text.contains('|') && inner.strip_suffix('|').unwrap_or(inner).split('|').all(cell)
}

#[cfg(test)]
mod tests {
    use super::super::page::Page;
    use super::*;

    fn problems(markdown: &str) -> Vec<(usize, String)> {
        Page::parse(markdown).tables.iter().flat_map(Table::problems).collect()
    }

    fn lines(markdown: &str) -> Vec<usize> {
        problems(markdown).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn cells_are_counted_as_github_does() {
        for (text, cells) in [
            ("| a | b |", 2),
            ("  a | b  ", 2),
            ("|a||", 2),
            ("| | |", 2),
            ("||", 1),
            ("|", 0),
            ("| a \\| b |", 1),
            ("| `a \\| b` | c |", 2),
            ("| `a | b` | c |", 3),
            ("| a \\\\| b |", 2),
            ("| a \\|", 1),
        ] {
            assert_eq!(Row::parse(1, text).cells, cells, "{text}");
        }
    }

    #[test]
    fn a_row_that_does_not_fit_its_head_is_named_with_its_line() {
        let table = "text\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 2 | 3 |\n| 1 |\n| `x | y` | 2 |\n\nend | of | it\n";
        assert_eq!(lines(table), [6, 7, 8]);
        let (_, problem) = &problems(table)[0];
        assert_eq!(problem, "3 cells under a head of 2; a bar within a cell is written \\|");
        assert_eq!(lines(&table.replace('\n', "\r\n")), [6, 7, 8]);
        assert_eq!(
            lines(&table.replace('\n', "\n   ").replace("text\n", "1. text\n")),
            [6, 7, 8],
            "in a list"
        );
    }

    #[test]
    fn tables_that_fit_have_no_problem() {
        let fits = "a | b\n:-- | --:\n`x \\| y` | [l](p.md)\n\n| only |\n|---|\n| 1 |\n\n```sh\na | b | c\n|---|---|\n```\n";
        let page = Page::parse(fits);
        assert_eq!(page.tables.len(), 2);
        assert_eq!(problems(fits), []);
        assert_eq!(page.links.len(), 1, "links in tables are links");
    }

    #[test]
    fn dashes_that_do_not_fit_the_head_are_found_though_this_is_no_table() {
        assert_eq!(lines("t\n\n| a | b |\n|---|---|---|\n| 1 | 2 |\n"), [4]);
        assert_eq!(lines("text\na | b | c\n---|---\n"), [3]);
        assert_eq!(problems("a heading\n---\n\n- a\n- b\n\n`a | b`\n"), []);
    }
}
