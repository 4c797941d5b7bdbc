//! Who may come in, and how far.

use std::sync::Arc;

use ingest::{Code, Credentials, Peer, Refusal, StreamStore, StreamWorkload};
use repo::{Repository, WorkloadName};

use super::names::Names;
use super::workload::{Reachable, Rights};
use crate::state::{Role, Tokens, Verdict};

/// Lets clients of streams in: holders of a token, and on this machine the daemon's own user and root.
#[derive(Debug)]
pub(crate) struct Doors {
    repository: Repository,
    names: Arc<Names>,
    tokens: Arc<Tokens>,
}

impl Doors {
    pub(crate) fn new(repository: &Repository, tokens: &Arc<Tokens>) -> Arc<Self> {
        Arc::new(Self {
            repository: repository.clone(),
            names: Names::of(repository),
            tokens: Arc::clone(tokens),
        })
    }

    /// Who it is, how far it may reach, and the workload that its token is for.
    fn judge(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<(String, Rights, Option<WorkloadName>), Refusal> {
        let refused = |message: String| Refusal::new(Code::Unauthorized, message);
        let Some(token) = credentials.token else {
            return match credentials.peer {
                Peer::Unix { uid: Some(uid) } if is_trusted(uid) => {
                    Ok((format!("user {uid}"), Rights::All, None))
                }
                _ => Err(refused(
                    "a token is needed; make one with `holdfast token add NAME --role streams --workload WORKLOAD`"
                        .to_owned(),
                )),
            };
        };
        match self.tokens.judge(token.trim()) {
            Verdict::Valid {
                name,
                role,
                workload,
            } => {
                let rights = match role {
                    Role::Admin | Role::Streams => Rights::All,
                    Role::Backup => Rights::Bring,
                    Role::ReadOnly => Rights::Look,
                };
                Ok((format!("the token {name}"), rights, workload))
            }
            Verdict::Expired { name, at } => Err(refused(format!(
                "the token {name} has expired at {at}; make another one"
            ))),
            Verdict::Unknown => Err(refused(
                "the token is not known to this daemon: it is wrong, or was revoked".to_owned(),
            )),
        }
    }
}

impl StreamStore for Doors {
    fn admit(&self, credentials: &Credentials<'_>) -> Result<Box<dyn StreamWorkload>, Refusal> {
        let (holder, rights, own) = self.judge(credentials)?;
        let asked = credentials.workload.map(WorkloadName::parse).transpose();
        let asked = asked.map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        let workload = match (own, asked) {
            (Some(own), Some(asked)) if own != asked => {
                let message = format!("{holder} is for the workload {own} alone");
                return Err(Refusal::new(Code::Unauthorized, message));
            }
            (Some(own), _) => own,
            (None, Some(asked)) => asked,
            (None, None) => {
                return Err(Refusal::new(
                    Code::Invalid,
                    "a workload is needed, as the token is for none; name it",
                ));
            }
        };
        Ok(Box::new(Reachable {
            repository: self.repository.clone(),
            names: Arc::clone(&self.names),
            workload,
            holder,
            rights,
        }))
    }
}

/// The daemon's own user and root.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::getuid().as_raw()
}
