//! What is printed: tables for people, one JSON document for programs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where the command line prints"
)]

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::config::ByteSize;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: as JSON, or as `text` shows it.
    pub(super) fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value)?);
        } else {
            let text = text(value);
            if !text.is_empty() {
                println!("{}", text.trim_end());
            }
        }
        Ok(())
    }

    /// Prints a list, or a sentence if it is empty.
    pub(super) fn list<T: Serialize>(
        &self,
        values: &[T],
        none: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<()> {
        self.result(&values, |values| {
            if values.is_empty() {
                none.to_owned()
            } else {
                table(values).to_string()
            }
        })
    }
}

/// Tells a person something while work goes on.
pub(super) fn tell(text: &str) {
    eprintln!("{text}");
}

/// Text from a guest as it can be shown: whatever would move the cursor or worse is written out.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

/// Tells why the command failed, in one sentence.
pub(super) fn complain(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // An inner error is often repeated by the one around it.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    eprintln!("holdfast: {text}");
}

/// Columns of text.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that hold numbers stand to the right.
    numbers: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that start with `>` are above numbers.
    pub(super) fn new(headings: &[&str]) -> Self {
        let numbers = headings
            .iter()
            .map(|heading| heading.starts_with('>'))
            .collect();
        let names = headings
            .iter()
            .map(|heading| heading.trim_start_matches('>').to_owned())
            .collect();
        Self {
            rows: vec![names],
            numbers,
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths: Vec<usize> = (0..self.numbers.len())
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), number) in row.iter().zip(&widths).zip(&self.numbers) {
                if *number {
                    write!(line, "{cell:>width$}  ")?;
                } else {
                    write!(line, "{cell:<width$}  ")?;
                }
            }
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A time for people: to the second, without the letters of RFC 3339.
pub(super) fn time(text: &str) -> String {
    text.get(..19)
        .map_or_else(|| text.to_owned(), |text| text.replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(["a".to_owned(), size(1 << 30)]);
        table.row(["longer".to_owned(), size(5)]);
        assert_eq!(
            table.to_string(),
            "NAME       SIZE\na       1.0 GiB\nlonger      5 B\n"
        );
        assert_eq!(time("2026-11-22T10:11:12.5Z"), "2026-11-22 10:11:12");
    }
}
