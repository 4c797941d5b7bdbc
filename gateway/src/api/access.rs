//! Who may come in and what for: holders of a token over TLS, and the daemon's own user or root over the control
//! socket.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use repo::WorkloadName;
use uuid::Uuid;

use crate::Core;
use crate::state::{Role, Verdict};

use super::problem::Problem;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// Over TLS.
    Remote,
    /// Over the control socket, let in by its user number.
    Local,
}

/// What the holder of the token may back up. Every request that is let in has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any workload.
    All,
    /// This one, and no look at anything.
    Only(WorkloadName),
}

impl Reach {
    /// Whether a backup of the workload is covered.
    pub(super) fn covers(&self, workload: &WorkloadName) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => only == workload,
        }
    }
}

/// What a request is about, as far as roles tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To see what there is.
    Look,
    /// To make a backup.
    Backup,
    /// Everything else: contents of disks, changes, tokens, the configuration.
    Rule,
}

/// Lets a request in or not. `/v1/health` says no more than that the daemon runs and needs no token; `/metrics` names
/// no workload and needs none unless the configuration says so.
pub(super) async fn admit(
    State(core): State<Arc<Core>>,
    mut request: Request,
    next: Next,
) -> Response {
    match judge(&core, &request) {
        Ok(reach) => {
            request.extensions_mut().insert(reach);
            next.run(request).await
        }
        Err(problem) => {
            core.metrics.api_unauthorized.inc();
            drain(request.into_body()).await;
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    header::HeaderValue::from_static("Bearer"),
                );
            }
            response
        }
    }
}

/// Takes what little a client may still be sending: one that is cut off while it writes does not come to read why.
async fn drain(body: Body) {
    let read = axum::body::to_bytes(body, DRAINED_BYTES_MAX);
    drop(tokio::time::timeout(DRAIN_LIMIT, read).await);
}

fn judge(core: &Core, request: &Request) -> Result<Reach, Problem> {
    let path = request.uri().path();
    let open = match path {
        "/v1/health" => true,
        "/metrics" => core.config.api.metrics_without_token,
        _ => false,
    };
    if open || matches!(request.extensions().get::<Peer>(), Some(Peer::Local)) {
        return Ok(Reach::All);
    }
    let refused = |detail: String| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    let token = token.ok_or_else(|| {
        refused(
            "a token is missing; send the header `Authorization: Bearer TOKEN` (the command line reads --token-file)"
                .to_owned(),
        )
    })?;
    match core.tokens.judge(token) {
        Verdict::Valid {
            role,
            workload: Some(workload),
            ..
        } => {
            let reach = Reach::Only(workload);
            match allows(role, Purpose::Backup) && reaches(core, request.method(), path, &reach) {
                true => Ok(reach),
                false => Err(out_of_reach(&reach)),
            }
        }
        Verdict::Valid {
            name,
            role,
            workload: None,
        } => {
            let purpose = purpose(request.method(), path);
            if allows(role, purpose) {
                return Ok(Reach::All);
            }
            let detail = format!(
                "the token {name} has the role {}, which does not cover this; use one with the role {}",
                role.word(),
                enough(purpose).word()
            );
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
        }
        Verdict::Expired { name, at } => Err(refused(format!(
            "the token {name} expired at {at}; make a new one with `holdfast token add`"
        ))),
        Verdict::Unknown => Err(refused(
            "the token is wrong or was revoked; `holdfast token add` on the daemon's machine makes a new one"
                .to_owned(),
        )),
    }
}

/// Whether a request begins a backup, of what is yet to be seen, or belongs to one of the right workload.
fn reaches(core: &Core, method: &Method, path: &str, reach: &Reach) -> bool {
    let Some(rest) = path.strip_prefix("/v1/backups") else {
        return false;
    };
    let mut segments = rest.split('/').skip(1);
    match segments.next().unwrap_or_default() {
        "" => *method == Method::POST,
        id => Uuid::parse_str(id)
            .ok()
            .and_then(|id| core.backups.find(id).ok())
            .is_some_and(|backup| reach.covers(&backup.workload)),
    }
}

/// The answer to whoever asks for more than backups of one workload, whether it is there or not.
pub(super) fn out_of_reach(reach: &Reach) -> Problem {
    let detail = match reach {
        Reach::All => "the token does not cover this".to_owned(),
        Reach::Only(workload) => {
            format!("the token is for backups of {workload} alone; use another one for this")
        }
    };
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

fn purpose(method: &Method, path: &str) -> Purpose {
    let is_look = *method == Method::GET || *method == Method::HEAD;
    let mut segments = path.trim_start_matches('/').split('/').skip(1);
    match (segments.next().unwrap_or_default(), segments.nth(1)) {
        ("tokens" | "config" | "keys", _) | ("points", Some("images" | "files")) => Purpose::Rule,
        _ if is_look => Purpose::Look,
        ("backups", _) => Purpose::Backup,
        _ => Purpose::Rule,
    }
}

fn allows(role: Role, purpose: Purpose) -> bool {
    match role {
        Role::Admin => true,
        Role::Backup => purpose != Purpose::Rule,
        Role::ReadOnly => purpose == Purpose::Look,
        Role::Streams => false,
    }
}

/// The smallest role that is enough.
fn enough(purpose: Purpose) -> Role {
    match purpose {
        Purpose::Look => Role::ReadOnly,
        Purpose::Backup => Role::Backup,
        Purpose::Rule => Role::Admin,
    }
}

const DRAINED_BYTES_MAX: usize = 64 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_method_and_path() {
        for (method, path, expected) in [
            (Method::GET, "/v1/points", Purpose::Look),
            (Method::GET, "/v1/points/web@1", Purpose::Look),
            (
                Method::GET,
                "/v1/points/web@1/images/0/extents",
                Purpose::Rule,
            ),
            (Method::GET, "/v1/points/web@1/files", Purpose::Rule),
            (Method::GET, "/v1/points/web@1/files/content", Purpose::Rule),
            (
                Method::POST,
                "/v1/points/web@1/images/0/file",
                Purpose::Rule,
            ),
            (Method::DELETE, "/v1/points/web@1", Purpose::Rule),
            (Method::GET, "/v1/backups", Purpose::Look),
            (Method::POST, "/v1/backups", Purpose::Backup),
            (
                Method::PUT,
                "/v1/backups/x/images/0/extents",
                Purpose::Backup,
            ),
            (Method::GET, "/v1/tokens", Purpose::Rule),
            (Method::GET, "/v1/config", Purpose::Rule),
            (Method::GET, "/v1/keys", Purpose::Rule),
            (Method::POST, "/v1/recoveries", Purpose::Rule),
            (Method::GET, "/metrics", Purpose::Look),
            (Method::POST, "/v1/something-new", Purpose::Rule),
        ] {
            assert_eq!(purpose(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn each_role_covers_what_it_names() {
        let all = [Purpose::Look, Purpose::Backup, Purpose::Rule];
        assert!(all.iter().all(|&purpose| allows(Role::Admin, purpose)));
        assert_eq!(
            all.map(|one| allows(Role::Backup, one)),
            [true, true, false]
        );
        assert_eq!(
            all.map(|one| allows(Role::ReadOnly, one)),
            [true, false, false]
        );
        assert!(all.iter().all(|&purpose| allows(enough(purpose), purpose)));
    }
}
