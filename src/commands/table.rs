//! Tables for people.

use std::fmt::Write;

/// A table: the first column is left-aligned, the others to the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

// === impl Table ===

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Table {
        Table { rows: vec![head.map(str::to_owned).into()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// A table of as many columns as `head` has; every row has as many cells.
    pub(super) fn of(head: Vec<String>) -> Table {
        Table { rows: vec![head] }
    }

    pub(super) fn cells(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table, indented, with a rule below its head.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text.push_str("  ");
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let written = if column == 0 {
                    write!(text, "{cell:<width$}")
                } else {
                    write!(text, "   {cell:>width$}")
                };
                written.expect("writing to a string succeeds");
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            if index == 0 {
                let rule = widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1);
                writeln!(text, "  {}", "-".repeat(rule)).expect("writing to a string succeeds");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["", "served"]);
        table.row(["fifo".to_owned(), "400".to_owned()]);
        table.row(["short waits".to_owned(), "7".to_owned()]);
        let expected = "                served
  --------------------
  fifo             400
  short waits        7
";
        assert_eq!(table.text(), expected);
    }
}
