//! What a run of the oracle covered, as a document.

use anyhow::{Context as _, Result};
use pg_wal::record::rmgr_name;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use types::PgMajor;
use wal_redo::name;
use wal_redo::oracle::{Report, Row};

/// Replays of one server each.
#[derive(Default)]
pub struct Table(Vec<(PgMajor, Report)>);

impl Table {
    /// Adds a replay.
    pub fn add(&mut self, major: PgMajor, report: &Report) {
        self.0.push((major, report.clone()));
    }

    /// Writes record types by major: records, pages restored from images and pages compared.
    pub fn write(&self, file: &Path, command: &str) -> Result<()> {
        std::fs::write(file, self.text(command)?)
            .with_context(|| format!("writing {}", file.display()))
    }

    fn types(&self) -> BTreeSet<(u8, u8)> {
        let changing = name::CHANGING_PAGES.iter();
        let changing = changing.flat_map(|(rm, ops)| ops.iter().map(|op| (*rm, *op)));
        let met = self.0.iter().flat_map(|(_, r)| &r.rows);
        let met = met.filter(|(_, r)| r.images + r.compared > 0);
        changing.chain(met.map(|(key, _)| *key)).collect()
    }

    fn text(&self, command: &str) -> Result<String> {
        let mut out = format!(
            "# Redo beside Postgres\n\nMade by `{command}`: each page after each record beside the image that Postgres logged of it. A cell: records · pages compared, and \
             pages that differed, had to be refused, or differed under the strict mask if there are any. With 0 compared, such records bring their pages whole. Empty: the version \
             has no such record, or the workload does not reach it (FPI_FOR_HINT needs `--checksums`); what no version reached is listed in \
             [format/redo.md](format/redo.md). SLRU pages, which have no images, are compared by `cargo xtask oracle --recovery`.\n\n| manager | record |"
        );
        let majors = self.0.iter().map(|(major, _)| major);
        majors.clone().try_for_each(|m| write!(out, " {m} |"))?;
        out.push_str("\n|---|---|");
        majors.for_each(|_| out.push_str("---|"));
        out.push('\n');
        for (rm, op) in self.types() {
            write!(out, "| {} | {} |", rmgr_name(rm), name::record(rm, op))?;
            for (_, report) in &self.0 {
                write!(out, " {} |", cell(report.rows.get(&(rm, op))))?;
            }
            out.push('\n');
        }
        out.push_str("| | **all** |");
        for (_, report) in &self.0 {
            write!(out, " **{}** |", cell(Some(&report.total())))?;
        }
        out.push('\n');
        let wrong: u64 = self.0.iter().map(|(_, r)| wrong(&r.total())).sum();
        writeln!(out, "\nWrong: **{wrong}**.")?;
        Ok(out)
    }
}

fn wrong(row: &Row) -> u64 {
    row.mismatched + row.strict + row.errors
}

fn cell(row: Option<&Row>) -> String {
    match row.filter(|r| r.images + r.compared + r.errors > 0) {
        None => String::new(),
        Some(r) if wrong(r) > 0 => format!("{} · {}, {} wrong", r.records, r.compared, wrong(r)),
        Some(r) => format!("{} · {}", r.records, r.compared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_stands_in_its_cell_and_in_the_sum() {
        let row = Row {
            records: 5,
            compared: 3,
            ..Row::default()
        };
        let wrong = Row {
            mismatched: 1,
            strict: 1,
            errors: 1,
            ..row
        };
        let refused = Row {
            records: 2,
            errors: 2,
            ..Row::default()
        };
        assert_eq!(cell(None), "");
        assert_eq!(cell(Some(&row)), "5 · 3");
        assert_eq!(cell(Some(&wrong)), "5 · 3, 3 wrong");
        assert_eq!(cell(Some(&refused)), "2 · 0, 2 wrong");
        let mut table = Table::default();
        for (major, row) in [(PgMajor::V17, row), (PgMajor::V18, wrong)] {
            let mut report = Report::default();
            report.rows.insert((10, 0), row);
            table.add(major, &report);
        }
        let text = table.text("test").unwrap();
        assert!(text.contains(" 5 · 3 | 5 · 3, 3 wrong |\n"), "{text}");
        assert!(text.ends_with("\nWrong: **3**.\n"), "{text}");
    }
}
