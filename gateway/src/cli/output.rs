//! What is printed: tables for people, one JSON document for programs.
//!
//! Nothing here panics when nobody listens: `holdfast point list | head -1` closes the pipe early, and that ends the
//! command quietly, as it ends other programs.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
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
            return print(&serde_json::to_string_pretty(value)?);
        }
        let text = text(value);
        if text.is_empty() {
            return Ok(());
        }
        print(text.trim_end())
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

/// Prints text and ends the line.
pub(super) fn print(text: &str) -> Result<()> {
    let mut results = Results::open();
    writeln!(results, "{text}")
        .and_then(|()| results.flush())
        .context("cannot write the result to standard output")
}

/// Standard output. What is written when nobody reads any more fails in a way that [`is_unread`] knows.
pub(super) struct Results(io::StdoutLock<'static>);

impl Results {
    pub(super) fn open() -> Self {
        Self(io::stdout().lock())
    }
}

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(unread)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(unread)
    }
}

/// Whoever read the results has gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the results any more")]
struct Unread;

fn unread(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::other(Unread),
        _ => error,
    }
}

/// Whether a command failed only because nobody reads its results any more.
fn is_unread(error: &anyhow::Error) -> bool {
    let inner = |cause: &(dyn std::error::Error + 'static)| {
        let inner = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<Unread>())
    };
    error.chain().any(inner)
}

/// Tells a person something while work goes on.
pub(super) fn tell(text: impl Display) {
    show(&format!("{text}\n"));
}

/// Shows text to whoever watches. That nobody does is no reason to stop.
pub(super) fn show(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
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

/// Tells why the command failed, in one sentence, and gives its exit status. One whose results nobody reads any more ends
/// without a word, with the status that a shell shows for a program that the closed pipe ended.
pub(super) fn complain(error: &anyhow::Error) -> ExitCode {
    if is_unread(error) {
        return ExitCode::from(CLOSED_PIPE);
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // An inner error is often repeated by the one around it.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    tell(format_args!("holdfast: {text}"));
    ExitCode::FAILURE
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

impl Display for Table {
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

/// 128 and the number of the signal SIGPIPE.
const CLOSED_PIPE: u8 = 141;

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

    #[test]
    fn a_closed_pipe_is_told_from_a_daemon_that_went_away() {
        let closed = unread(io::ErrorKind::BrokenPipe.into());
        let closed = anyhow::Error::from(closed).context("around it");
        assert!(is_unread(&closed));
        let socket = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!is_unread(&socket.into()));
    }
}
