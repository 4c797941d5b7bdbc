//! `holdfast files`: single files out of the disks of a restore point.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use export::{FileExport as _, FileKind, Timestamp};

use crate::browse::{DiskTree, FileView, Walk, find};
use crate::extract::{self, ArchiveForm, DEPTH_MAX, Extracted};

use super::client::Client;
use super::guest_worker::ReadingArgs;
use super::output::{Output, Results, Table, printable, size, tell, time};
use super::viewing::Viewing;

#[derive(Debug, clap::Subcommand)]
pub(super) enum FilesVerb {
    /// List what lies on the disks
    List {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest, or the name of a recovery session
        point: String,
        /// A folder, such as disk-0/p1/etc [default: the disks]
        #[arg(default_value = "")]
        path: String,
        /// Also what lies in the folders below
        #[arg(long)]
        recursive: bool,
        /// Only names in which this text is, in the folder and all below
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        #[command(flatten)]
        reading: ReadingArgs,
    },
    /// Copy a file or a folder out
    Get(GetArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest, or the name of a recovery session
    point: String,
    /// A file or folder, such as disk-0/p1/etc/hosts
    path: String,
    /// A new file or folder; for a folder also a new file that ends in .tar or .zip; - writes to stdout, a folder as tar
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Go on at the end of the file that is there
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(verb: &FilesVerb, client: &Client, output: &Output) -> Result<ExitCode> {
    match verb {
        FilesVerb::List {
            point,
            path,
            recursive,
            name,
            reading,
        } => {
            let viewing = Viewing::open(client, point)?;
            viewing.end_on_signals()?;
            let tree = open_tree(&viewing, *reading)?;
            let mut found = Vec::new();
            let start = find(&tree, path)?;
            let depth = if *recursive || name.is_some() {
                DEPTH_MAX
            } else {
                1
            };
            let mut walk = Walk::new(&tree);
            walk.run(start, path, depth, &mut |path, entry| {
                let wanted = name.as_ref().is_none_or(|name| {
                    String::from_utf8_lossy(&entry.name).contains(name.as_str())
                });
                if wanted {
                    found.push(FileView::new(&tree, path, &entry.attributes));
                }
                ControlFlow::Continue(())
            })?;
            let left_out = walk.left_out;
            output.list(&found, "Nothing is there.", table)?;
            Ok(finish(&left_out))
        }
        FilesVerb::Get(arguments) => get(arguments, client, output),
    }
}

fn open_tree(viewing: &Viewing<'_>, reading: ReadingArgs) -> Result<DiskTree> {
    let options = reading.options();
    let disks = viewing.disks()?;
    Ok(DiskTree::new(disks, &[], Timestamp::default(), options))
}

fn get(arguments: &GetArgs, client: &Client, output: &Output) -> Result<ExitCode> {
    let viewing = Viewing::open(client, &arguments.point)?;
    viewing.end_on_signals()?;
    let tree = open_tree(&viewing, arguments.reading)?;
    let file = find(&tree, &arguments.path)?;
    let attributes = tree.attributes(file)?;
    let to = &arguments.to;
    if arguments.resume && (attributes.kind != FileKind::File || to.as_os_str() == "-") {
        bail!("only a single file that is there can be gone on with; leave --resume out");
    }
    let extension = to.extension().and_then(|extension| extension.to_str());
    let archive = ArchiveForm::of(extension.unwrap_or_default());
    let stdout = to.as_os_str() == "-";
    let done = match attributes.kind {
        FileKind::Symlink => bail!(
            "{} is a link to {}; ask for that",
            arguments.path,
            String::from_utf8_lossy(&tree.read_symlink(file)?)
        ),
        FileKind::File if stdout => {
            let mut out = Results::open();
            extract::copy(&tree, file, &mut out)?;
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
        FileKind::Directory if stdout => {
            let done = extract::tar(&tree, file, Results::open())?;
            return Ok(finish(&done.left_out));
        }
        FileKind::File => extract::file(&tree, file, to, arguments.resume)?,
        FileKind::Directory => match archive {
            Some(form) => {
                let archive = extract::new_file(to)?;
                let done = form.pack(&tree, file, &archive);
                let done = done.inspect_err(|_| drop(std::fs::remove_file(to)))?;
                archive
                    .sync_all()
                    .context("cannot make the archive durable")?;
                done
            }
            None => extract::folder(&tree, file, to)?,
        },
    };
    output.result(&done, |done: &Extracted| {
        let mut text = format!(
            "Copied {} of {} to {}: {} in {} files and {} folders",
            arguments.path,
            viewing.point(),
            to.display(),
            size(done.bytes),
            done.files,
            done.folders
        );
        let more = done
            .left_out_total
            .saturating_sub(done.left_out.len() as u64);
        if more > 0 {
            text.push_str(&format!("\n{more} more were left out than are listed"));
        }
        text
    })?;
    Ok(finish(&done.left_out))
}

/// Tells what was left out; the command has failed then.
fn finish(left_out: &[String]) -> ExitCode {
    for left in left_out {
        tell(format!("left out: {}", printable(left)));
    }
    match left_out {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn table(files: &[FileView]) -> Table {
    let mut table = Table::new(&["KIND", "MODE", ">OWNER", ">SIZE", "MODIFIED (UTC)", "PATH"]);
    for file in files {
        let path = match (&file.target, &file.note) {
            (Some(target), _) => format!("{} -> {target}", file.path),
            (None, Some(note)) => format!("{}  ({note})", file.path),
            (None, None) => file.path.clone(),
        };
        table.row([
            file.kind.to_owned(),
            file.mode.clone(),
            format!("{}:{}", file.uid, file.gid),
            size(file.size_bytes),
            time(&file.modified),
            printable(&path),
        ]);
    }
    table
}
