//! `holdfast files`: single files out of the disks of a restore point.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use export::{Attributes, DirectoryEntry, ExportError, FileExport, FileId, FileKind, Timestamp};
use serde::Serialize;

use crate::browse::DiskTree;

use super::client::Client;
use super::extract::{self, DEPTH_MAX, Extracted};
use super::output::{Output, Table, printable, size, tell, time};
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
    /// A new file or folder; for a folder also a new file that ends in .tar; - writes to stdout, a folder as tar
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Go on at the end of the file that is there
    #[arg(long)]
    resume: bool,
}

/// An object, as it is listed.
#[derive(Debug, Serialize)]
struct FileView {
    /// From the top.
    path: String,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size_bytes: u64,
    modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(super) fn run(verb: &FilesVerb, client: &Client, output: &Output) -> Result<ExitCode> {
    match verb {
        FilesVerb::List {
            point,
            path,
            recursive,
            name,
        } => {
            let viewing = Viewing::open(client, point)?;
            viewing.end_on_signals()?;
            let tree = open_tree(&viewing)?;
            let mut found = Vec::new();
            let start = find(&tree, path)?;
            let depth = if *recursive || name.is_some() {
                DEPTH_MAX
            } else {
                1
            };
            let path = path.trim_matches('/');
            let mut visit = Visit {
                tree: &tree,
                seen: HashSet::from([start]),
                left_out: Vec::new(),
            };
            visit.folder(start, path, depth, &mut |path, entry| {
                let wanted = name.as_ref().is_none_or(|name| {
                    String::from_utf8_lossy(&entry.name).contains(name.as_str())
                });
                if wanted {
                    found.push(FileView::new(&tree, path, &entry.attributes));
                }
            })?;
            let left_out = visit.left_out;
            output.list(&found, "Nothing is there.", table)?;
            Ok(finish(&left_out))
        }
        FilesVerb::Get(arguments) => get(arguments, client, output),
    }
}

fn open_tree(viewing: &Viewing<'_>) -> Result<Arc<dyn FileExport>> {
    let tree = DiskTree::new(viewing.disks()?, &[], Timestamp::default());
    Ok(Arc::new(tree))
}

fn get(arguments: &GetArgs, client: &Client, output: &Output) -> Result<ExitCode> {
    let viewing = Viewing::open(client, &arguments.point)?;
    viewing.end_on_signals()?;
    let tree = open_tree(&viewing)?;
    let file = find(&tree, &arguments.path)?;
    let attributes = tree.attributes(file)?;
    let to = &arguments.to;
    if arguments.resume && (attributes.kind != FileKind::File || to.as_os_str() == "-") {
        bail!("only a single file that is there can be gone on with; leave --resume out");
    }
    let is_tar = to.extension().is_some_and(|extension| extension == "tar");
    let stdout = to.as_os_str() == "-";
    let done = match attributes.kind {
        FileKind::Symlink => bail!(
            "{} is a link to {}; ask for that",
            arguments.path,
            String::from_utf8_lossy(&tree.read_symlink(file)?)
        ),
        FileKind::File if stdout => {
            let mut out = std::io::stdout().lock();
            extract::copy(&*tree, file, &mut out)?;
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
        FileKind::Directory if stdout => {
            let done = extract::tar(&*tree, file, std::io::stdout().lock())?;
            return Ok(finish(&done.left_out));
        }
        FileKind::File => extract::file(&*tree, file, to, arguments.resume)?,
        FileKind::Directory if is_tar => {
            let archive = extract::new_file(to)?;
            let done = extract::tar(&*tree, file, &archive);
            let done = done.inspect_err(|_| drop(std::fs::remove_file(to)))?;
            archive
                .sync_all()
                .context("cannot make the archive durable")?;
            done
        }
        FileKind::Directory => extract::folder(&*tree, file, to)?,
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
        tell(&format!("left out: {}", printable(left)));
    }
    match left_out {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What a path leads to. Links are not followed: their targets are for the guest to find.
fn find(tree: &Arc<dyn FileExport>, path: &str) -> Result<FileId> {
    let mut at = tree.root();
    let mut walked = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if matches!(name, "." | "..") {
            bail!("{path} has the part {name}; give the path without it");
        }
        at = tree.lookup(at, name.as_bytes()).map_err(|error| {
            let place = if walked.is_empty() { "the top" } else { &walked };
            if let Some(reason) = reason(tree, at, name) {
                return anyhow!(reason);
            }
            match error {
                ExportError::NotFound => anyhow!(
                    "{path} is not there: {place} has no {name}; `holdfast files list POINT {walked}` shows what it has"
                ),
                ExportError::NotDirectory => anyhow!("{path} is not there: {place} is no folder"),
                other => anyhow::Error::new(other).context(format!("cannot look into {place}")),
            }
        })?;
        walked = format!("{}/{name}", walked.trim_end_matches('/'));
        walked = walked.trim_start_matches('/').to_owned();
    }
    Ok(at)
}

/// Why something is not shown, where a text of its name says so.
fn reason(tree: &Arc<dyn FileExport>, folder: FileId, name: &str) -> Option<String> {
    let file = tree.lookup(folder, format!("{name}.txt").as_bytes()).ok()?;
    let is_ours = tree
        .attributes(folder)
        .is_ok_and(|folder| folder.mode == 0o555);
    let text = tree.read(file, 0, 4096).ok().filter(|_| is_ours)?;
    let text: Vec<u8> = text.data.into_pieces().concat();
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// A walk over folders.
struct Visit<'a> {
    tree: &'a Arc<dyn FileExport>,
    /// A folder has one place: whatever leads to it a second time is a fault of the disk.
    seen: HashSet<FileId>,
    left_out: Vec<String>,
}

impl Visit<'_> {
    /// Shows everything in a folder, and below down to `depth`.
    fn folder(
        &mut self,
        folder: FileId,
        path: &str,
        depth: usize,
        show: &mut dyn FnMut(&str, &DirectoryEntry),
    ) -> Result<()> {
        let mut cookie = 0;
        loop {
            let entries = match self.tree.list(folder, cookie, PART) {
                Err(ExportError::NotDirectory) if cookie == 0 && self.seen.len() == 1 => {
                    bail!("{path} is no folder; `holdfast files get` copies it")
                }
                Err(error) => {
                    let place = if path.is_empty() { "the top" } else { path };
                    let why = crate::exports::chain(&error);
                    self.left_out.push(format!("the rest of {place}: {why}"));
                    return Ok(());
                }
                Ok(entries) => entries,
            };
            for entry in &entries {
                cookie = entry.cookie;
                let name = String::from_utf8_lossy(&entry.name);
                let path = format!("{path}/{name}");
                let path = path.trim_start_matches('/');
                show(path, entry);
                let is_folder = entry.attributes.kind == FileKind::Directory;
                if is_folder && depth > 1 && self.seen.insert(entry.file) {
                    self.folder(entry.file, path, depth - 1, show)?;
                }
            }
            if entries.len() < PART {
                return Ok(());
            }
        }
    }
}

impl FileView {
    fn new(tree: &Arc<dyn FileExport>, path: &str, attributes: &Attributes) -> Self {
        let target = (attributes.kind == FileKind::Symlink)
            .then(|| tree.read_symlink(attributes.file).ok())
            .flatten();
        let modified = u64::from(attributes.modified.nanoseconds)
            .saturating_add(attributes.modified.seconds.saturating_mul(1_000_000_000));
        Self {
            path: path.to_owned(),
            kind: match attributes.kind {
                FileKind::File => "file",
                FileKind::Directory => "folder",
                FileKind::Symlink => "link",
            },
            mode: format!("{:04o}", attributes.mode & 0o7777),
            uid: attributes.uid,
            gid: attributes.gid,
            size_bytes: attributes.size_bytes,
            modified: repo::clock::UnixNanoseconds(modified).to_string(),
            target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        }
    }
}

fn table(files: &[FileView]) -> Table {
    let mut table = Table::new(&["KIND", "MODE", ">OWNER", ">SIZE", "MODIFIED (UTC)", "PATH"]);
    for file in files {
        let path = match &file.target {
            Some(target) => printable(&format!("{} -> {target}", file.path)),
            None => printable(&file.path),
        };
        table.row([
            file.kind.to_owned(),
            file.mode.clone(),
            format!("{}:{}", file.uid, file.gid),
            size(file.size_bytes),
            time(&file.modified),
            path,
        ]);
    }
    table
}

/// Entries that are asked for at once.
const PART: usize = 1024;
