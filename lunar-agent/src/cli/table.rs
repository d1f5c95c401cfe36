//! Aligned columns: numbers to the right, text to the left, nothing behind the last.

use crate::config::show::WIDEST;

/// A table with a head.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The text, each line ended.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|r| cell(r, column).chars().count());
            cells.max().unwrap_or(0).min(WIDEST)
        };
        let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        let numeric = |column: usize| {
            let cells: Vec<String> = self.rows.iter().skip(1).map(|r| cell(r, column)).collect();
            // One that has no number says so with a dash.
            cells.iter().all(|c| is_number(c) || c == "-") && cells.iter().any(|c| is_number(c))
        };
        let shape: Vec<(usize, bool)> = (0..columns).map(|c| (width(c), numeric(c))).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<String> = shape
                .iter()
                .enumerate()
                .map(|(column, (width, right))| {
                    let text = cell(row, column);
                    if *right { format!("{text:>width$}") } else { format!("{text:<width$}") }
                })
                .collect();
            out += cells.join("  ").trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_widens_no_other_line() {
        let mut table = Table::new(["NAME", "NOTE"]);
        let long = "x".repeat(70_000);
        table.row([long.as_str(), "first"]);
        table.row(["a", "second"]);
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("{long}  first"));
        assert_eq!(lines[2], format!("{:<WIDEST$}  second", "a"));
    }

    #[test]
    fn numbers_stand_right_and_text_left() {
        let mut table = Table::new(["NAME", "COUNT", "NOTE"]);
        table.row(["a", "7", ""]);
        table.row(["longer", "12345", "x y"]);
        assert_eq!(table.render(), "NAME    COUNT  NOTE\na           7\nlonger  12345  x y\n");
    }

    #[test]
    fn what_has_no_number_leaves_the_others_where_they_are() {
        let mut table = Table::new(["COUNT", "HEALTHY", "NOTE"]);
        table.row(["7", "-", "-"]);
        table.row(["-", "-", "x"]);
        assert_eq!(table.render(), "COUNT  HEALTHY  NOTE\n    7  -        -\n    -  -        x\n");
    }
}
