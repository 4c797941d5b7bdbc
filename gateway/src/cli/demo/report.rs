//! What the demo shows while it goes on, and at its end.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::super::output::{Output, tell};
use super::Shown;

/// The steps so far.
#[derive(Debug)]
pub(super) struct Report<'a> {
    output: &'a Output,
    started: Instant,
    document: Document,
}

#[derive(Debug, Default, Serialize)]
struct Document {
    steps: Vec<Step>,
    seconds: f64,
    repository: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: String,
    seconds: f64,
    found: String,
}

impl<'a> Report<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self {
            output,
            started: Instant::now(),
            document: Document::default(),
        }
    }

    /// Does one step and shows how long it took.
    pub(super) fn step<T: Shown>(
        &mut self,
        what: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let started = Instant::now();
        let done = work().with_context(|| format!("the demo failed to {what}"))?;
        let seconds = rounded(started);
        let found = done.shown();
        tell(format!("{seconds:>8.3} s  {what}\n            {found}"));
        self.document.steps.push(Step {
            step: what.to_owned(),
            seconds,
            found,
        });
        Ok(done)
    }

    /// Says that all went well.
    pub(super) fn finish(mut self, repository: Option<PathBuf>) -> Result<()> {
        self.document.seconds = rounded(self.started);
        self.document.repository = repository;
        self.output.result(&self.document, |document| {
            let kept = match &document.repository {
                Some(path) => format!(
                    " The repository is kept: holdfast serve --repository {}",
                    path.display()
                ),
                None => String::new(),
            };
            format!(
                "Both restore points were read, compared and left as they were, in {:.1} s.{kept}",
                document.seconds
            )
        })
    }
}

fn rounded(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}
