//! One `smbd` with its shares, from start to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::accounts::{Accounts, run};
use crate::configuration::Configuration;
use crate::folder::{CONFIGURATION, Folder};
use crate::namespace::Namespace;
use crate::{
    Connection, Health, Metrics, Password, Phase, Programs, Settings, Share, ShareName, SmbError,
    UserName, leftovers, status, supervisor,
};

/// A running server. Dropping it ends it.
pub struct Server {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Whether a user gets a password when its share is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// A new one; the one of before is no good any more.
    New,
    /// It keeps the one that it has.
    Kept,
}

/// What becomes of a user when its share is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its password is forgotten.
    Forget,
    /// Its password is kept for the share's return.
    Keep,
}

/// What the server and the thread that watches it share.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) folder: Folder,
    pub(crate) programs: Programs,
    pub(crate) namespace: Namespace,
    pub(crate) metrics: Metrics,
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
    /// Held while files in the folder change.
    pub(crate) changes: Mutex<()>,
    accounts: Accounts,
}

/// What changes.
pub(crate) struct State {
    pub(crate) shares: BTreeMap<ShareName, Share>,
    pub(crate) phase: Phase,
    /// The process of `smbd` itself.
    pub(crate) process: Option<u32>,
    pub(crate) restarts: u64,
    pub(crate) last_end: Option<String>,
    pub(crate) is_stopping: bool,
}

impl Server {
    /// Starts `smbd` without shares and returns when it answers.
    ///
    /// # Errors
    /// If a program is missing, the folder or port cannot be used, or it does not come up.
    pub fn start(settings: Settings, metrics: Metrics) -> Result<Self, SmbError> {
        if !rustix::process::geteuid().is_root() {
            return Err(SmbError::NotRoot);
        }
        if settings.port == 0 {
            return Err(SmbError::NoPort);
        }
        let programs = Programs::find()?;
        let folder = Folder::at(&settings.folder);
        let first = Configuration::new(&settings, &folder, [])?;
        folder.prepare()?;
        let closing = leftovers::end(&folder.configuration());
        check_port(&settings, &folder, closing)?;
        folder.write(CONFIGURATION, &first.text())?;
        let namespace = Namespace::new(&programs, &folder);
        let core = Arc::new(Core {
            accounts: Accounts::open(&folder, &programs, &namespace)?,
            settings,
            folder,
            programs,
            namespace,
            metrics,
            state: Mutex::new(State {
                shares: BTreeMap::new(),
                phase: Phase::Starting,
                process: None,
                restarts: 0,
                last_end: None,
                is_stopping: false,
            }),
            changed: Condvar::new(),
            changes: Mutex::default(),
        });
        let watched = Arc::clone(&core);
        let thread = thread::Builder::new()
            .name("smbd".to_owned())
            .spawn(move || supervisor::watch(&watched))
            .map_err(SmbError::Thread)?;
        let server = Self {
            core,
            thread: Mutex::new(Some(thread)),
        };
        server.wait_until_up()?;
        Ok(server)
    }

    /// Serves a share from now on. Gives the new password of its user, if there is one.
    ///
    /// # Errors
    /// If its name is taken, something cannot stand in the configuration, or a program refuses.
    pub fn add(&self, share: Share, login: Login) -> Result<Option<Password>, SmbError> {
        let _turn = self.core.changes.lock();
        let mut shares = self.core.state.lock().shares.clone();
        let user = share.user.clone();
        if shares.contains_key(&share.name) {
            return Err(SmbError::NameTaken(share.name.to_string()));
        }
        shares.insert(share.name.clone(), share);
        self.core.accounts.list(&user)?;
        let password = match login {
            Login::Kept => None,
            Login::New => {
                let password = Password::random()?;
                self.core.accounts.set_password(&user, &password)?;
                Some(password)
            }
        };
        self.core.apply(shares)?;
        Ok(password)
    }

    /// Ends serving a share: clients lose what they have open there. One that is not there is fine.
    ///
    /// # Errors
    /// If a program refuses.
    pub fn remove(&self, name: &ShareName, fate: Fate) -> Result<(), SmbError> {
        let _turn = self.core.changes.lock();
        let mut shares = self.core.state.lock().shares.clone();
        let Some(removed) = shares.remove(name) else {
            return Ok(());
        };
        let is_last = shares.values().all(|share| share.user != removed.user);
        self.core.apply(shares)?;
        self.core.control(&["close-share", name.as_str()])?;
        if fate == Fate::Forget && is_last && self.has_password(&removed)? {
            self.core.accounts.forget(&removed.user)?;
        }
        Ok(())
    }

    /// Forgets the password of a user that has no share now; one that has none is fine.
    ///
    /// # Errors
    /// If a program refuses.
    pub fn forget(&self, user: &UserName) -> Result<(), SmbError> {
        let _turn = self.core.changes.lock();
        let shares = self.core.state.lock().shares.clone();
        let has_share = shares.values().any(|share| share.user == *user);
        if !has_share && self.core.accounts.with_password()?.contains(user) {
            self.core.accounts.list(user)?;
            self.core.accounts.forget(user)?;
        }
        Ok(())
    }

    /// Forgets the passwords of users that have no share now, which a crash may have left.
    ///
    /// # Errors
    /// If a program refuses.
    pub fn forget_others(&self) -> Result<(), SmbError> {
        let _turn = self.core.changes.lock();
        let shares = self.core.state.lock().shares.clone();
        for user in self.core.accounts.with_password()? {
            if shares.values().all(|share| share.user != user) {
                self.core.accounts.list(&user)?;
                self.core.accounts.forget(&user)?;
            }
        }
        Ok(())
    }

    /// Who is connected.
    ///
    /// # Errors
    /// If Samba does not tell.
    pub fn connections(&self) -> Result<Vec<Connection>, SmbError> {
        let Some(process) = self.core.state.lock().process else {
            return Ok(Vec::new());
        };
        let program = &self.core.programs.smbstatus;
        let mut command = self.core.namespace.beside(process, program);
        command.arg("-s").arg(self.core.folder.configuration());
        command.arg("--json");
        status::parse(&run("smbstatus", command, b"")?)
    }

    /// How it is.
    pub fn health(&self) -> Health {
        let state = self.core.state.lock();
        Health {
            phase: state.phase,
            process: state.process,
            restarts: state.restarts,
            last_end: state.last_end.clone(),
            shares: state.shares.len(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// The shares, by name.
    pub fn shares(&self) -> Vec<Share> {
        self.core.state.lock().shares.values().cloned().collect()
    }

    /// Ends it with all its processes. Users keep their passwords.
    pub fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let ended = {
            let mut state = self.core.state.lock();
            state.is_stopping = true;
            self.core.changed.notify_all();
            if let Some(process) = state.process {
                leftovers::ask_to_end(process, &self.core.folder.configuration());
            }
            let deadline = Instant::now() + END_TIMEOUT;
            while state.phase != Phase::Stopped && Instant::now() < deadline {
                self.core.changed.wait_until(&mut state, deadline);
            }
            state.phase == Phase::Stopped
        };
        if !ended {
            leftovers::end(&self.core.folder.configuration());
        }
        if thread.join().is_err() {
            tracing::error!("the thread that watches smbd panicked");
        }
    }

    fn has_password(&self, share: &Share) -> Result<bool, SmbError> {
        Ok(self.core.accounts.with_password()?.contains(&share.user))
    }

    fn wait_until_up(&self) -> Result<(), SmbError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut state = self.core.state.lock();
        let reason = loop {
            match state.phase {
                Phase::Running => return Ok(()),
                Phase::Waiting | Phase::Stopped => {
                    break state.last_end.clone().unwrap_or_default();
                }
                Phase::Starting if Instant::now() >= deadline => {
                    break format!("not within {} s", START_TIMEOUT.as_secs());
                }
                Phase::Starting => {
                    self.core.changed.wait_until(&mut state, deadline);
                }
            }
        };
        Err(SmbError::NotUp {
            address: self.core.settings.reachable(),
            reason,
            log: self.core.folder.log_file(),
        })
    }
}

impl Core {
    /// Writes the configuration with these shares, and has the server read it.
    fn apply(&self, shares: BTreeMap<ShareName, Share>) -> Result<(), SmbError> {
        let configuration = Configuration::new(&self.settings, &self.folder, shares.values())?;
        self.folder.write(CONFIGURATION, &configuration.text())?;
        let count = i64::try_from(shares.len()).unwrap_or(i64::MAX);
        self.metrics.shares.set(count);
        self.state.lock().shares = shares;
        self.control(&["reload-config"])?;
        // It answers in order, so that it has read the configuration when it answers this.
        self.control(&["ping"])
    }

    /// Tells the server something. One that is being started has read its files last.
    fn control(&self, words: &[&str]) -> Result<(), SmbError> {
        let Some(process) = self.state.lock().process else {
            return Ok(());
        };
        let mut command = self.namespace.beside(process, &self.programs.smbcontrol);
        command.arg("-s").arg(self.folder.configuration());
        command.arg("smbd").args(words);
        match run("smbcontrol", command, b"") {
            Err(error) if self.state.lock().process == Some(process) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("settings", &self.core.settings)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Samba says of a port that is taken no more than that it cannot listen. One may be taken for `closing` yet.
fn check_port(settings: &Settings, folder: &Folder, closing: Duration) -> Result<(), SmbError> {
    let deadline = Instant::now() + closing;
    for ip in &settings.addresses {
        let address = SocketAddr::new(*ip, settings.port);
        while let Err(error) = TcpListener::bind(address) {
            if error.kind() != std::io::ErrorKind::AddrInUse || Instant::now() >= deadline {
                return Err(SmbError::NotUp {
                    address,
                    reason: format!("the port cannot be used: {error}"),
                    log: folder.log_file(),
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
    Ok(())
}

const START_TIMEOUT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// For how long the server may close what is open before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
