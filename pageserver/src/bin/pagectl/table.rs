//! Tables for people: a head line in capitals, columns two spaces apart, numbers to the right.

use crate::output;
use std::fmt;

/// Which side a column's cells are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction; printed by `Display`, without a line end behind the last row.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    columns: [(&'static str, Side); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// An empty table.
    pub fn new(columns: [(&'static str, Side); N]) -> Self {
        Table {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row. Control characters are made harmless; an empty cell shows as a dash.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|c| match c.as_str() {
            "" => "-".to_owned(),
            text => output::plain(text),
        }));
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.columns.map(|(name, _)| name.to_owned());
        let mut widths = [0; N];
        for row in std::iter::once(&head).chain(&self.rows) {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(cell));
            }
        }
        for (i, row) in std::iter::once(&head).chain(&self.rows).enumerate() {
            let mut line = String::new();
            for ((cell, w), (_, side)) in row.iter().zip(widths).zip(self.columns) {
                let gap = " ".repeat(w - width(cell));
                match side {
                    Side::Left => line.extend([cell.as_str(), &gap, "  "]),
                    Side::Right => line.extend([gap.as_str(), cell, "  "]),
                }
            }
            let end = if i == self.rows.len() { "" } else { "\n" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut t = Table::new([
            ("NAME", Side::Left),
            ("SIZE", Side::Right),
            ("NOTE", Side::Left),
        ]);
        t.row(["main".into(), "9".into(), "x".into()]);
        t.row(["größer".into(), "12345".into(), String::new()]);
        let expected = "\
NAME     SIZE  NOTE
main        9  x
größer  12345  -";
        assert_eq!(t.to_string(), expected);
    }

    #[test]
    fn an_empty_table_is_its_head() {
        let t: Table<2> = Table::new([("A", Side::Left), ("B", Side::Right)]);
        assert_eq!(t.to_string(), "A  B");
    }

    #[test]
    fn cells_cannot_steer_the_terminal() {
        let mut t = Table::new([("NAME", Side::Left)]);
        t.row(["\u{1b}[31mred\n".into()]);
        let text = t.to_string();
        assert!(!text.contains('\u{1b}'));
        assert_eq!(text.lines().count(), 2);
    }
}
