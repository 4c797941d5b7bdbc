//! `holdfast stream`: streams of databases in and out, over the same protocol as the libraries that databases load.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use ingest::{About, Client, Entry, StreamKind};

use super::client::{ClientArgs, Place};
use super::output::{Output, Table, printable, size, time};
use crate::state::Addresses;

#[derive(Debug, clap::Subcommand)]
pub(super) enum StreamVerb {
    /// Keep what comes from stdin, or a file, as a stream
    Put(PutArgs),
    /// Give a stream back, byte for byte
    Get(GetArgs),
    /// List streams by name
    List {
        #[command(flatten)]
        reach: ReachArgs,
        /// Only names that begin so
        #[arg(long, default_value = "", value_name = "TEXT")]
        prefix: String,
    },
    /// Show what is known of a stream
    Show {
        #[command(flatten)]
        reach: ReachArgs,
        /// The stream
        name: String,
    },
    /// Remove streams: all of those named, or none
    Delete {
        #[command(flatten)]
        reach: ReachArgs,
        /// The streams
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Whose streams, and where the daemon takes them.
#[derive(Debug, clap::Args)]
pub(super) struct ReachArgs {
    /// The workload
    workload: String,
    /// Where the daemon takes streams, such as backup.example:8701 [default: as the daemon at --server says]
    #[arg(long, env = "HOLDFAST_INGEST", value_name = "HOST:PORT|SOCKET")]
    ingest: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// The stream's name, which no stream of the workload has
    name: String,
    /// A file [default: stdin]
    file: Option<PathBuf>,
    /// What it holds
    #[arg(long, value_enum, default_value_t = KindArg::Other)]
    kind: KindArg,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// What made it, such as mariadb
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The set that it is a part of
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Where in the database's log it begins
    #[arg(long, value_name = "POSITION")]
    from: Option<String>,
    /// Where in the database's log it ends
    #[arg(long, value_name = "POSITION")]
    to: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindArg {
    Full,
    Incremental,
    Differential,
    Log,
    Other,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// The stream
    name: String,
    /// A new file [default: stdout]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The first byte that is wanted
    #[arg(long, default_value_t = 0, value_name = "BYTE")]
    offset: u64,
}

pub(super) fn run(verb: &StreamVerb, daemon: &ClientArgs, output: &Output) -> Result<()> {
    match verb {
        StreamVerb::Put(arguments) => put(arguments, daemon, output),
        StreamVerb::Get(arguments) => get(arguments, daemon, output),
        StreamVerb::List { reach, prefix } => {
            let mut client = connect(reach, daemon)?;
            let mut entries: Vec<Entry> = Vec::new();
            loop {
                let after = entries.last().map(|entry| entry.name.clone());
                let listed = client.list(prefix, after.as_deref(), LISTED_AT_ONCE)?;
                entries.extend(listed.entries);
                if !listed.more {
                    break;
                }
            }
            client.close();
            output.list(&entries, "There are no streams.", table)
        }
        StreamVerb::Show { reach, name } => {
            let mut client = connect(reach, daemon)?;
            let found = client.describe(&[name])?.into_iter().flatten().next();
            client.close();
            let entry = found.with_context(|| missing(reach, name))?;
            output.result(&entry, describe)
        }
        StreamVerb::Delete { reach, names } => {
            let mut client = connect(reach, daemon)?;
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let known = client.describe(&asked)?;
            if let Some((name, _)) = names.iter().zip(&known).find(|(_, entry)| entry.is_none()) {
                bail!("{}; nothing was removed", missing(reach, name));
            }
            client.remove(&asked)?;
            client.close();
            output.result(names, |names| format!("Removed {} streams.", names.len()))
        }
    }
}

fn put(arguments: &PutArgs, daemon: &ClientArgs, output: &Output) -> Result<()> {
    let PutArgs {
        reach, name, file, ..
    } = arguments;
    let mut source: Box<dyn Read> = match file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()));
            Box::new(file?)
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let mut client = connect(reach, daemon)?;
    client.begin(name, &about(arguments))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match source.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                client.abort()?;
                return Err(error).context("what was to be kept cannot be read; nothing was kept");
            }
            Ok(read) => read,
        };
        if read == 0 {
            break;
        }
        client.write(buffer.get(..read).unwrap_or_default())?;
    }
    let entry = client.commit()?;
    client.close();
    output.result(&entry, |entry| {
        format!(
            "Kept {} as {}: {}, {} of them new.",
            printable(&entry.name),
            entry.point,
            size(entry.size_bytes),
            size(entry.stored_bytes)
        )
    })
}

fn get(arguments: &GetArgs, daemon: &ClientArgs, output: &Output) -> Result<()> {
    let GetArgs {
        reach,
        name,
        to,
        offset,
    } = arguments;
    let mut client = connect(reach, daemon)?;
    let entry = client.open(name, *offset)?;
    let mut target: Box<dyn Write> = match to {
        Some(path) => {
            let file = File::create_new(path)
                .with_context(|| format!("cannot make {}, which must be new", path.display()));
            Box::new(file?)
        }
        None => Box::new(std::io::stdout().lock()),
    };
    let copied = copy(&mut client, target.as_mut());
    if let (Err(_), Some(path)) = (&copied, to) {
        // What is there is not the stream.
        drop(std::fs::remove_file(path));
    }
    let copied = copied?;
    client.finish()?;
    client.close();
    if to.is_none() {
        return Ok(());
    }
    output.result(&entry, |entry| {
        format!("Wrote {} of {}.", size(copied), printable(&entry.name))
    })
}

fn copy(client: &mut Client, target: &mut dyn Write) -> Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let read = client.read(&mut buffer)?;
        let content = buffer.get(..read).unwrap_or_default();
        target
            .write_all(content)
            .context("cannot write the stream")?;
        copied += read as u64;
        if read < buffer.len() {
            target.flush().context("cannot write the stream")?;
            return Ok(copied);
        }
    }
}

fn about(arguments: &PutArgs) -> About {
    About {
        source: arguments.source.clone(),
        database: arguments.database.clone(),
        kind: match arguments.kind {
            KindArg::Full => StreamKind::Full,
            KindArg::Incremental => StreamKind::Incremental,
            KindArg::Differential => StreamKind::Differential,
            KindArg::Log => StreamKind::Log,
            KindArg::Other => StreamKind::Other,
        },
        set: arguments.set.clone(),
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        ..About::default()
    }
}

fn connect(reach: &ReachArgs, daemon: &ClientArgs) -> Result<Client> {
    let client = format!(
        "holdfast {} (process {})",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    let (place, token) = locate(reach, daemon)?;
    let mut settings = ingest::Settings::new(place, client);
    settings.token = token;
    settings.workload = Some(reach.workload.clone());
    Ok(Client::connect(settings)?)
}

/// Where streams go, and the token for it.
fn locate(reach: &ReachArgs, daemon: &ClientArgs) -> Result<(ingest::Place, Option<String>)> {
    if let Some(given) = &reach.ingest {
        let token = daemon.read_token()?;
        if given.starts_with('/') {
            return Ok((ingest::Place::Unix(given.into()), token));
        }
        let fingerprint = daemon.read_fingerprint()?.ok_or_else(|| {
            anyhow!(
                "the certificate at {given} is not known; give --fingerprint HEX, which the daemon prints at its start"
            )
        })?;
        let place = ingest::Place::Tcp {
            address: given.clone(),
            fingerprint: fingerprint.bytes(),
        };
        return Ok((place, token));
    }
    let place = Place::find(daemon)?;
    let http = super::client::Client::new(place.clone());
    let addresses: Addresses = http.get("/v1/addresses")?;
    match place {
        Place::Local { .. } => Ok((ingest::Place::Unix(addresses.ingest_socket), None)),
        Place::Remote {
            base,
            fingerprint,
            token,
        } => {
            let port = addresses.ingest.map(|address| address.port());
            let port = port.with_context(|| {
                format!("the daemon at {base} takes no streams over the network; set [ingest] listen in its configuration")
            })?;
            let host = base.trim_start_matches("https://");
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            let place = ingest::Place::Tcp {
                address: format!("{host}:{port}"),
                fingerprint: fingerprint.bytes(),
            };
            Ok((place, Some(token)))
        }
    }
}

fn missing(reach: &ReachArgs, name: &str) -> String {
    format!("{} has no stream {}", reach.workload, printable(name))
}

fn kind(entry: &Entry) -> &'static str {
    match entry.about.kind {
        StreamKind::Full => "full",
        StreamKind::Incremental => "incremental",
        StreamKind::Differential => "differential",
        StreamKind::Log => "log",
        StreamKind::Other => "other",
    }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&[
        "STREAM",
        "KIND",
        "DATABASE",
        ">SIZE",
        ">NEW",
        "KEPT (UTC)",
        "POINT",
    ]);
    for entry in entries {
        table.row([
            printable(&entry.name),
            kind(entry).to_owned(),
            printable(entry.about.database.as_deref().unwrap_or("-")),
            size(entry.size_bytes),
            size(entry.stored_bytes),
            time(&entry.created),
            entry.point.clone(),
        ]);
    }
    table
}

fn describe(entry: &Entry) -> String {
    let mut lines = vec![
        format!("{}: {}", printable(&entry.name), kind(entry)),
        format!(
            "{} ({} bytes), {} of them new when it was kept",
            size(entry.size_bytes),
            entry.size_bytes,
            size(entry.stored_bytes)
        ),
        format!("kept {} as {}", time(&entry.created), entry.point),
    ];
    let about = &entry.about;
    for (what, said) in [
        ("source", &about.source),
        ("database", &about.database),
        ("set", &about.set),
        ("from", &about.from),
        ("to", &about.to),
    ] {
        lines.extend(
            said.iter()
                .map(|said| format!("{what} {}", printable(said))),
        );
    }
    for (what, said) in &about.more {
        lines.push(format!(
            "{} {}",
            printable(what),
            printable(&said.to_string())
        ));
    }
    lines.join("\n")
}

const LISTED_AT_ONCE: usize = 1000;
const BUFFER_BYTES: usize = 256 << 10;
