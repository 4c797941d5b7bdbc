//! Where the daemon is, and how to come in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::config::Config;
use crate::state::{Addresses, Fingerprint, TOKEN_FILE};

/// How to reach the daemon. On its own machine, nothing need be said.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ClientArgs {
    /// The daemon's address, such as https://backup.example:8700
    #[arg(
        long,
        env = "HOLDFAST_SERVER",
        value_name = "URL",
        global = true,
        help_heading = "Daemon"
    )]
    pub(crate) server: Option<String>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE", global = true, help_heading = "Daemon")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself; a file is safer
    #[arg(
        long,
        env = "HOLDFAST_TOKEN",
        hide = true,
        hide_env_values = true,
        global = true
    )]
    pub(crate) token: Option<String>,
    /// SHA-256 of the daemon's certificate, as the daemon prints it at its start
    #[arg(
        long,
        env = "HOLDFAST_FINGERPRINT",
        value_name = "HEX",
        global = true,
        help_heading = "Daemon"
    )]
    pub(crate) fingerprint: Option<String>,
    /// The state folder of a daemon on this machine
    #[arg(
        long,
        env = "HOLDFAST_STATE",
        value_name = "DIR",
        global = true,
        help_heading = "Daemon"
    )]
    pub(crate) state: Option<PathBuf>,
}

impl ClientArgs {
    /// The token that was given, if one was.
    pub(crate) fn read_token(&self) -> Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.trim().to_owned())),
            (None, Some(file)) => Ok(Some(read_token(file)?.trim().to_owned())),
            (None, None) => Ok(None),
        }
    }

    /// The fingerprint that was given, if one was.
    pub(crate) fn read_fingerprint(&self) -> Result<Option<Fingerprint>> {
        let given = self.fingerprint.as_ref();
        Ok(given.map(|text| text.parse()).transpose()?)
    }
}

/// The daemon's place.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// On this machine, and we may use its control socket.
    Local {
        /// The socket.
        socket: PathBuf,
    },
    /// Over TLS.
    Remote {
        /// `https://HOST:PORT`.
        base: String,
        /// The certificate.
        fingerprint: Fingerprint,
        /// The token.
        token: String,
    },
}

impl Place {
    /// Finds the daemon: what the arguments say, else what the daemons of this machine left for us.
    pub(crate) fn find(arguments: &ClientArgs) -> Result<Self> {
        match (&arguments.server, &arguments.state) {
            (Some(server), state) => Self::remote(server, arguments, state.as_deref()),
            (None, Some(state)) => Self::in_state(state),
            (None, None) => Self::on_this_machine(arguments),
        }
    }

    /// What stands before a path.
    pub(super) fn base(&self) -> &str {
        match self {
            Self::Local { .. } => "http://127.0.0.1",
            Self::Remote { base, .. } => base,
        }
    }

    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Local { .. } => None,
            Self::Remote { token, .. } => Some(token),
        }
    }

    /// An error of the connection in words that say what to do.
    pub(super) fn explain(&self, error: &ureq::Error) -> anyhow::Error {
        match self {
            Self::Local { socket } => anyhow!(
                "cannot talk to the daemon at {}: {error}; is it running?",
                socket.display()
            ),
            Self::Remote { base, .. } => anyhow!(
                "cannot talk to the daemon at {base}: {error}; check the address and the fingerprint, and that it runs"
            ),
        }
    }

    fn in_state(state: &Path) -> Result<Self> {
        let addresses = Addresses::load(state)?;
        let addresses = addresses.ok_or_else(|| {
            anyhow!(
                "no daemon ever ran with the state folder {}",
                state.display()
            )
        })?;
        if std::os::unix::net::UnixStream::connect(&addresses.control_socket).is_ok() {
            return Ok(Self::Local {
                socket: addresses.control_socket,
            });
        }
        bail!(
            "the daemon of {} does not run, or this user may not use it; start it with `holdfast serve`, or run this as its user or root",
            state.display()
        )
    }

    fn remote(server: &str, arguments: &ClientArgs, state: Option<&Path>) -> Result<Self> {
        let base = server.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") {
            bail!("`{server}` is not an address of a daemon; write https://HOST:PORT");
        }
        // On the daemon's own machine the state folder has the rest.
        let known = match state {
            Some(state) => Some(state.to_owned()),
            None => known_states()
                .into_iter()
                .find(|state| serves(state, &base)),
        };
        let token = match (&arguments.token, &arguments.token_file, &known) {
            (Some(token), _, _) => token.clone(),
            (None, Some(file), _) => read_token(file)?,
            (None, None, Some(state)) => read_token(&state.join(TOKEN_FILE))?,
            (None, None, None) => bail!(
                "a token is needed for {base}; give --token-file FILE, a copy of `token` in the daemon's state folder"
            ),
        };
        let fingerprint = match (&arguments.fingerprint, &known) {
            (Some(text), _) => text.parse()?,
            (None, Some(state)) => {
                let addresses =
                    Addresses::load(state)?.context("the daemon of this machine never ran")?;
                addresses.fingerprint.parse()?
            }
            (None, None) => bail!(
                "the certificate of {base} is not known; give --fingerprint HEX, which the daemon prints at its start"
            ),
        };
        Ok(Self::Remote {
            base,
            fingerprint,
            token: token.trim().to_owned(),
        })
    }

    fn on_this_machine(arguments: &ClientArgs) -> Result<Self> {
        let running: Vec<(PathBuf, Self)> = known_states()
            .into_iter()
            .filter_map(|state| Self::in_state(&state).ok().map(|place| (state, place)))
            .collect();
        match running.as_slice() {
            [] => {}
            [(_, place)] => return Ok(place.clone()),
            several => {
                let states: Vec<_> = several
                    .iter()
                    .map(|(state, _)| state.display().to_string())
                    .collect();
                bail!(
                    "several daemons run on this machine; name one with --state DIR: {}",
                    states.join(", ")
                );
            }
        }
        if arguments.token.is_some() || arguments.token_file.is_some() {
            return Self::remote(DEFAULT_SERVER, arguments, None);
        }
        bail!(
            "no daemon is found on this machine; start one with `holdfast serve --repository DIR`, or name one with --server URL or --state DIR"
        )
    }
}

/// State folders of daemons that may run here, the newest first: what they noted where clients look, and the default.
fn known_states() -> Vec<PathBuf> {
    let mut known: Vec<PathBuf> = note_folders()
        .into_iter()
        .filter_map(|folder| std::fs::read_to_string(folder.join(NOTE)).ok())
        .flat_map(|text| text.lines().rev().map(PathBuf::from).collect::<Vec<_>>())
        .collect();
    known.push(Config::default().state_path_under(Path::new("/var/lib/holdfast")));
    known
}

/// Notes for clients of this user where a daemon's state folder is. What cannot be noted must be said by hand.
pub(crate) fn note_state(state: &Path) {
    let Ok(state) = state.canonicalize() else {
        return;
    };
    let Some(folder) = note_folders()
        .into_iter()
        .find(|folder| std::fs::create_dir_all(folder).is_ok())
    else {
        return;
    };
    let old = std::fs::read_to_string(folder.join(NOTE)).unwrap_or_default();
    let state = state.display().to_string();
    let mut lines: Vec<&str> = old
        .lines()
        .filter(|line| *line != state && Path::new(line).exists())
        .collect();
    lines.push(&state);
    let first = lines.len().saturating_sub(NOTED_MAX);
    let text = lines.get(first..).unwrap_or_default().join("\n");
    if let Err(error) = std::fs::write(folder.join(NOTE), text + "\n") {
        tracing::debug!(%error, "cannot note where the daemon is");
    }
}

/// Folders for the note, of this user and of root: the runtime folder, which a restart empties.
fn note_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if rustix::process::geteuid().is_root() {
        folders.push(PathBuf::from("/run/holdfast"));
    }
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR") {
        folders.push(PathBuf::from(folder).join("holdfast"));
    }
    folders
}

fn serves(state: &Path, base: &str) -> bool {
    Addresses::load(state)
        .ok()
        .flatten()
        .is_some_and(|addresses| base.ends_with(&addresses.api.to_string()))
}

fn read_token(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the token in {}; give a file that this user can read",
            path.display()
        )
    })
}

const DEFAULT_SERVER: &str = "https://127.0.0.1:8700";
const NOTE: &str = "daemons";
const NOTED_MAX: usize = 16;
