//! What is served right now, as the protocol servers ask for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use export::BlockExport;
use iscsi::{Authentication, Initiator, InitiatorPattern, OpenError, OpenedTarget};
use nfs::{Export, ExportOptions, Refusal, Squash};
use parking_lot::RwLock;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use scsi::LunMask;
use tokio_util::sync::CancellationToken;

use crate::config::Peers;

use super::{SessionFolder, SessionsTree};

/// All exports. Sessions come and go; servers ask on every connection or request.
pub struct Exports {
    served: RwLock<BTreeMap<String, Arc<ServedSession>>>,
    by_number: RwLock<BTreeMap<u64, Arc<ServedSession>>>,
    changed_nanoseconds: AtomicU64,
    root: Arc<Export>,
    /// How iSCSI initiators prove who they are.
    authentication: Authentication,
}

/// A session that is being served.
pub struct ServedSession {
    /// Its name: NFS path `/NAME`, NBD exports `NAME/disk-N`.
    pub name: String,
    /// Its number, unique for ever.
    pub number: u64,
    /// What it is, for people.
    pub description: String,
    /// Who may come.
    pub peers: Peers,
    /// Whether NBD shows it.
    pub nbd: bool,
    /// Its disks with their numbers.
    pub disks: Vec<(usize, Arc<dyn BlockExport>)>,
    /// Its disks as files of other formats, by the names of these.
    pub faces: Vec<(String, Arc<dyn BlockExport>)>,
    /// Its target, if iSCSI shows it.
    pub target: Option<ServedTarget>,
    /// Its folder, if NFS shows it.
    pub folder: Option<Arc<SessionFolder>>,
    /// Its folder, if SMB shows it.
    pub shared: Option<Arc<SessionFolder>>,
    /// Tells NBD connections and iSCSI sessions to finish.
    pub withdrawn: CancellationToken,
    export: Option<Arc<Export>>,
}

/// A session's disks as units of an iSCSI target.
#[derive(Debug, Clone)]
pub struct ServedTarget {
    /// The device.
    pub target: Arc<scsi::Target>,
    /// Who may log in.
    pub initiators: Vec<InitiatorPattern>,
}

impl ServedTarget {
    fn admits(&self, initiator: &Initiator) -> bool {
        self.initiators
            .iter()
            .any(|pattern| pattern.matches(&initiator.name))
    }
}

impl ServedSession {
    /// A session with no exports yet.
    pub fn new(name: String, number: u64, description: String, peers: Peers) -> Self {
        Self {
            name,
            number,
            description,
            peers,
            nbd: false,
            disks: Vec::new(),
            faces: Vec::new(),
            target: None,
            folder: None,
            shared: None,
            withdrawn: CancellationToken::new(),
            export: None,
        }
    }

    /// The names that its disks have over NBD.
    fn names(&self) -> impl Iterator<Item = String> {
        let disks = self
            .disks
            .iter()
            .map(|(number, _)| format!("disk-{number}"));
        disks.chain(self.faces.iter().map(|(name, _)| name.clone()))
    }

    /// The disk that has a name over NBD.
    fn disk(&self, name: &str) -> Option<&Arc<dyn BlockExport>> {
        if let Some((_, face)) = self.faces.iter().find(|(face, _)| face == name) {
            return Some(face);
        }
        let number: usize = name.strip_prefix("disk-")?.parse().ok()?;
        let (_, disk) = self.disks.iter().find(|(disk, _)| *disk == number)?;
        Some(disk)
    }
}

impl Exports {
    /// Nothing is served yet. `root_peers` may see the folder of all sessions; `authentication` is asked of all iSCSI
    /// initiators.
    pub fn new(root_peers: &Peers, authentication: Authentication) -> Arc<Self> {
        Arc::new_cyclic(|exports| {
            let tree = SessionsTree::new(exports.clone());
            let options = options(root_peers, false);
            Self {
                authentication,
                served: RwLock::default(),
                by_number: RwLock::default(),
                changed_nanoseconds: AtomicU64::new(SystemClock.now().0),
                root: Arc::new(Export {
                    id: ROOT_ID,
                    path: "/".to_owned(),
                    tree: Arc::new(tree),
                    options,
                }),
            }
        })
    }

    /// Tells the initiators of all writable disks that there is little space left below them.
    pub fn storage_fills_up(&self) {
        for session in self.served.read().values() {
            let is_written = session
                .disks
                .iter()
                .any(|(_, disk)| !disk.properties().read_only);
            let Some(target) = session.target.as_ref().filter(|_| is_written) else {
                continue;
            };
            for lun in target.target.luns() {
                // A unit that is gone by now needs no warning.
                drop(target.target.thin_threshold_reached(lun));
            }
        }
    }

    /// Serves a session from now on.
    pub fn show(&self, mut session: ServedSession) {
        session.export = session.folder.as_ref().map(|folder| {
            let tree = Arc::clone(folder);
            let read_only = folder.is_read_only();
            let options = options(&session.peers, read_only);
            Arc::new(Export {
                id: session.number,
                path: format!("/{}", session.name),
                tree,
                options,
            })
        });
        let session = Arc::new(session);
        self.by_number
            .write()
            .insert(session.number, Arc::clone(&session));
        self.served.write().insert(session.name.clone(), session);
        self.changed_nanoseconds
            .store(SystemClock.now().0, Ordering::Relaxed);
    }

    /// Ends serving a session: NBD connections finish what is in flight and close, NFS handles become stale. Changes of
    /// the folder that are under way end first.
    pub fn hide(&self, name: &str) {
        let hidden = self.served.write().remove(name);
        if let Some(session) = hidden {
            self.by_number.write().remove(&session.number);
            // Initiators have some time to log out; until then the units are gone already.
            if let Some(ServedTarget { target, .. }) = &session.target {
                for lun in target.luns() {
                    if let Err(error) = target.detach(lun) {
                        tracing::warn!(session = name, lun, %error, "logical unit was gone already");
                    }
                }
            }
            session.withdrawn.cancel();
            for folder in [&session.folder, &session.shared].into_iter().flatten() {
                folder.close();
            }
            self.changed_nanoseconds
                .store(SystemClock.now().0, Ordering::Relaxed);
        }
    }

    /// When a session was shown or hidden last.
    pub(super) fn changed(&self) -> UnixNanoseconds {
        UnixNanoseconds(self.changed_nanoseconds.load(Ordering::Relaxed))
    }

    /// The session of that name.
    pub fn session(&self, name: &str) -> Option<Arc<ServedSession>> {
        self.served.read().get(name).cloned()
    }

    /// The session of that number.
    pub fn session_by_number(&self, number: u64) -> Option<Arc<ServedSession>> {
        self.by_number.read().get(&number).cloned()
    }

    /// All sessions, by name.
    pub fn sessions(&self) -> Vec<Arc<ServedSession>> {
        self.served.read().values().cloned().collect()
    }
}

impl nbd::ExportDirectory for Exports {
    fn list(&self, peer: &nbd::Peer) -> Vec<nbd::ExportSummary> {
        let sessions = self.sessions();
        let visible = sessions
            .iter()
            .filter(|session| session.nbd && admits(&session.peers, peer));
        visible
            .flat_map(|session| {
                session.names().map(|name| nbd::ExportSummary {
                    name: format!("{}/{name}", session.name),
                    description: session.description.clone(),
                })
            })
            .collect()
    }

    fn open(&self, name: &str, peer: &nbd::Peer) -> Result<nbd::OpenedExport, nbd::OpenError> {
        let unknown = nbd::OpenError::Unknown;
        let (session, disk) = name
            .trim_start_matches('/')
            .split_once('/')
            .ok_or(unknown)?;
        let session = self
            .session(session)
            .filter(|session| session.nbd)
            .ok_or(unknown)?;
        if !admits(&session.peers, peer) {
            return Err(nbd::OpenError::Forbidden);
        }
        let export = session.disk(disk).ok_or(unknown)?;
        Ok(nbd::OpenedExport {
            export: Arc::clone(export),
            name: format!("{}/{disk}", session.name),
            description: session.description.clone(),
            withdrawn: session.withdrawn.clone(),
        })
    }
}

impl iscsi::TargetDirectory for Exports {
    fn list(&self, initiator: &Initiator) -> Vec<String> {
        let sessions = self.sessions();
        let may_see = |session: &&Arc<ServedSession>| {
            session.peers.admit(initiator.address.ip().to_canonical())
        };
        let visible = sessions.iter().filter(may_see);
        visible
            .filter_map(|session| session.target.as_ref())
            .filter(|served| served.admits(initiator))
            .map(|served| served.target.identity().name.clone())
            .collect()
    }

    fn open(&self, name: &str, initiator: &Initiator) -> Result<OpenedTarget, OpenError> {
        let sessions = self.sessions();
        let named = sessions.iter().find_map(|session| {
            let served = session.target.as_ref()?;
            (served.target.identity().name == name).then_some((session, served))
        });
        let (session, served) = named.ok_or(OpenError::Unknown)?;
        let may_come =
            session.peers.admit(initiator.address.ip().to_canonical()) && served.admits(initiator);
        if !may_come {
            return Err(OpenError::Forbidden);
        }
        Ok(OpenedTarget {
            target: Arc::clone(&served.target),
            alias: session.description.clone(),
            luns: LunMask::All,
            authentication: self.authentication.clone(),
            withdrawn: session.withdrawn.clone(),
        })
    }

    fn discovery(&self, _: &Initiator) -> Authentication {
        self.authentication.clone()
    }
}

impl nfs::ExportDirectory for Exports {
    fn list(&self, peer: IpAddr) -> Vec<Arc<Export>> {
        let mut all: Vec<_> = self
            .sessions()
            .iter()
            .filter_map(|session| session.export.clone())
            .collect();
        all.push(Arc::clone(&self.root));
        all.retain(|export| export.admits(peer));
        all
    }

    fn resolve(&self, path: &str, _: IpAddr) -> Result<Arc<Export>, Refusal> {
        let name = path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        match self
            .session(name)
            .and_then(|session| session.export.clone())
        {
            Some(export) => Ok(export),
            None => Ok(Arc::clone(&self.root)),
        }
    }

    fn by_id(&self, id: u64, _: IpAddr) -> Result<Arc<Export>, Refusal> {
        if id == ROOT_ID {
            return Ok(Arc::clone(&self.root));
        }
        let session = self.session_by_number(id).ok_or(Refusal::Unknown)?;
        session.export.clone().ok_or(Refusal::Unknown)
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.served.read().keys().cloned().collect();
        formatter
            .debug_struct("Exports")
            .field("sessions", &names)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ServedSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServedSession")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Unix sockets stand in a folder that only the daemon's user and root can enter, so they need no list.
fn admits(peers: &Peers, peer: &nbd::Peer) -> bool {
    peer.ip().is_none_or(|address| peers.admit(address))
}

fn options(peers: &Peers, read_only: bool) -> ExportOptions {
    ExportOptions {
        read_only,
        // ESXi makes virtual machines as root and nothing else.
        squash: Squash::None,
        addresses: peers.address_list().clone(),
        ..ExportOptions::default()
    }
}

/// Export id of the folder of all sessions; sessions count from the next.
pub(crate) const ROOT_ID: u64 = 1;
