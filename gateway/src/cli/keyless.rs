//! `holdfast rescue DIR verify --without-key`.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use repo::{KeylessReport, RepoError, verify_without_key};
use serde::Serialize;

use super::output::{Output, size};
use super::progress::Progress;

#[derive(Debug, Serialize)]
struct KeylessView {
    sound: bool,
    #[serde(flatten)]
    report: KeylessReport,
}

pub(super) fn run(root: &Path, output: &Output) -> Result<ExitCode> {
    let mut progress = Progress::start("verify without a key", 0);
    let report = verify_without_key(root, &mut |done, total| {
        progress.at(done, total);
        ControlFlow::Continue(())
    });
    progress.finish();
    let report = match report {
        Err(RepoError::NotEncrypted { .. }) => bail!(
            "{} is not encrypted: leave --without-key out, which proves more and needs no key either",
            root.display()
        ),
        other => other?,
    };
    let view = KeylessView {
        sound: report.is_sound(),
        report,
    };
    output.result(&view, describe)?;
    Ok(match view.sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn describe(view: &KeylessView) -> String {
    let report = &view.report;
    let mut text = format!(
        "Repository {}, without its key: {}.\n\
         Proven: {} records in {} packs ({}), {} tables, parity of {} packs, {} manifests, marks and other texts.\n",
        report.repository,
        match view.sound {
            true => "nothing is damaged",
            false => "DAMAGED",
        },
        report.records,
        report.packs,
        size(report.pack_bytes),
        report.tables,
        report.parity,
        report.texts,
    );
    let mut list = |heading: &str, sentences: &[String]| {
        if !sentences.is_empty() {
            text.push_str(&format!("{heading}\n  {}\n", sentences.join("\n  ")));
        }
    };
    list(
        "Damaged, and can be mended (`holdfast verify --repair` where the key is):",
        &report.mendable,
    );
    list(
        "Damaged beyond what parity here makes good (copy these files again from another copy):",
        &report.damaged,
    );
    list("Not proven:", &report.not_proven);
    text.trim_end().to_owned()
}
