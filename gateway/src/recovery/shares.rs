//! Sessions as SMB shares: the folder of each is mounted where only root and our `smbd` come, and shared from there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use export::FileExport;
use fuse::{Caching, Mount, MountOptions};
use guestworker::WorkerOptions;
use parking_lot::Mutex;
use smb::{Access, Fate, Login, MountPoints, Network, Password, ShareName, UserName};

use crate::browse::POINTS_FOLDER;
use crate::config::Peers;

use super::RecoveryError;
use super::record::{Protocol, SessionMode, SessionRecord};

/// All shares; none at all where SMB is not served.
#[derive(Default)]
pub struct Shares {
    served: Option<Served>,
}

struct Served {
    server: smb::Server,
    points: MountPoints,
    worker: WorkerOptions,
    /// By session.
    mounts: Mutex<BTreeMap<String, (ShareName, Mount)>>,
}

/// The name of a session's share. Case does not tell shares apart, and some names are Samba's own; a session for which
/// that matters has its number in the name, behind a character that no session has in its own.
pub(super) fn share_name(record: &SessionRecord) -> String {
    let is_own = record.name.parse::<ShareName>().is_ok()
        && !record.name.contains(|c: char| c.is_ascii_uppercase());
    match is_own {
        true => record.name.clone(),
        false => {
            let name = record.name.get(..NAME_BYTES).unwrap_or(&record.name);
            format!("{}~{}", name.trim_end_matches('.'), record.number)
        }
    }
}

/// The name of the user who may use a session's share.
pub(super) fn user_name(record: &SessionRecord) -> String {
    format!("holdfast-{}", record.number)
}

impl Shares {
    /// Shares by `server`, mounted under `points`; what lies on disks is read by workers with these options.
    pub fn new(server: smb::Server, points: MountPoints, worker: WorkerOptions) -> Self {
        Self {
            served: Some(Served {
                server,
                points,
                worker,
                mounts: Mutex::default(),
            }),
        }
    }

    /// The server, where SMB is served.
    pub fn server(&self) -> Option<&smb::Server> {
        self.served.as_ref().map(|served| &served.server)
    }

    /// How what lies on disks is read, where SMB is served.
    pub(super) fn worker(&self) -> Option<&WorkerOptions> {
        self.served.as_ref().map(|served| &served.worker)
    }

    /// Serves a session's `tree`. Gives the password of its user if it has a new one.
    pub(super) fn serve(
        &self,
        record: &SessionRecord,
        tree: Arc<dyn FileExport>,
        login: Login,
    ) -> Result<Option<Password>, RecoveryError> {
        let Some(served) = &self.served else {
            return Err(RecoveryError::NotServed("smb"));
        };
        let failed = |source| RecoveryError::Share {
            session: record.name.clone(),
            source,
        };
        let name: ShareName = share_name(record).parse().map_err(failed)?;
        let user: UserName = user_name(record).parse().map_err(failed)?;
        let point = record.number.to_string();
        let path = served.points.create(&point).map_err(failed)?;
        let is_read_only = record.mode == SessionMode::ReadOnly;
        let options = MountOptions {
            read_only: is_read_only,
            // Only root sees the mount, and who may do what is for the share to say.
            default_permissions: false,
            caching: Caching::Shared,
            name: format!("holdfast:{}", record.name),
            threads: 4,
            ..MountOptions::default()
        };
        let mount =
            Mount::start(tree, &path, &options).map_err(|source| RecoveryError::ShareMount {
                session: record.name.clone(),
                source,
            })?;
        let share = smb::Share {
            name: name.clone(),
            path,
            comment: format!("{} of {}", record.name, record.point),
            user,
            access: match is_read_only {
                true => Access::ReadOnly,
                false => Access::ReadWrite,
            },
            earlier: record.files.then_some(POINTS_FOLDER),
            allow: networks(&record.allow).map_err(failed)?,
        };
        let password = served.server.add(share, login).map_err(failed)?;
        let mut mounts = served.mounts.lock();
        mounts.insert(record.name.clone(), (name, mount));
        Ok(password)
    }

    /// Ends serving a session; one that is not served is fine.
    pub(super) fn remove(&self, record: &SessionRecord, fate: Fate) {
        let Some(served) = &self.served else {
            return;
        };
        let found = served.mounts.lock().remove(&record.name);
        let removed = match &found {
            Some((name, _)) => served.server.remove(name, fate),
            None if fate == Fate::Forget && record.protocols.contains(&Protocol::Smb) => {
                let user = user_name(record).parse::<UserName>();
                user.and_then(|user| served.server.forget(&user))
            }
            None => Ok(()),
        };
        if let Err(error) = removed {
            // Without its mount it shows nothing, and the next start forgets its user.
            tracing::warn!(session = record.name, %error, "a share is not taken back in good order");
        }
        if found.is_some() {
            drop(found);
            served.points.remove(&record.number.to_string());
        }
    }

    /// Forgets the passwords of sessions that are no more.
    pub(super) fn forget_others(&self) {
        if let Some(served) = &self.served
            && let Err(error) = served.server.forget_others()
        {
            tracing::warn!(%error, "passwords of sessions that are gone are left; none of them opens a share");
        }
    }

    /// Ends serving everything. Passwords are kept for the next start.
    pub(super) fn leave_all(&self) {
        if let Some(served) = &self.served {
            served.server.stop();
            let mounts = std::mem::take(&mut *served.mounts.lock());
            drop(mounts);
        }
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shares")
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

fn networks(peers: &Peers) -> Result<Vec<Network>, smb::SmbError> {
    let mut networks = Vec::new();
    for text in peers.texts() {
        match text.trim() {
            "*" => networks.extend(["0.0.0.0/0".parse::<Network>()?, "::/0".parse()?]),
            text => networks.push(text.parse()?),
        }
    }
    Ok(networks)
}

/// Of a session's name in the name of its share, where the number stands behind it.
const NAME_BYTES: usize = 59;

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn every_session_has_a_share_that_no_other_has() {
        let named = |name: &str, number| {
            let mut record = record();
            record.name = name.to_owned();
            record.number = number;
            let name = share_name(&record);
            name.parse::<ShareName>().unwrap();
            user_name(&record).parse::<UserName>().unwrap();
            name
        };
        assert_eq!(named("web01-3", 2), "web01-3");
        assert_eq!(named("Web01-3", 3), "Web01-3~3");
        assert_eq!(named("homes", 4), "homes~4");
        assert_eq!(named("a..", 5), "a~5");
        let longest = named(&"X".repeat(64), u64::MAX);
        assert!(longest.len() <= 80, "{longest}");
    }

    #[test]
    fn everybody_is_two_networks() {
        let peers = Peers::parse(&["*".to_owned(), "10.0.0.0/8".to_owned()]).unwrap();
        let texts: Vec<_> = networks(&peers)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["0.0.0.0/0", "::/0", "10.0.0.0/8"]);
    }
}
