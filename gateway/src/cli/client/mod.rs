//! The command line's way to the daemon: HTTP over the control socket on the same machine, else HTTPS with the
//! certificate pinned by its fingerprint.

mod handover;
mod locate;
mod transport;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::{Agent, Body, RequestExt as _, SendBody, http};

use crate::api::Problem;

pub(super) use handover::HandedOver;
pub(super) use locate::{ClientArgs, Place, note_state};

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    place: Place,
    /// Whether the daemon closed its end of the request under way. A client has one at a time that sends a stream.
    closed: Arc<AtomicBool>,
}

/// A body that ends early when nobody reads it any more.
struct WhileRead<'a> {
    reader: &'a mut (dyn Read + Send),
    closed: &'a AtomicBool,
}

impl Read for WhileRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.closed.load(Ordering::Relaxed) {
            Ok(0)
        } else {
            self.reader.read(buffer)
        }
    }
}

impl Client {
    /// A client of the daemon at `place`. Nothing is connected yet.
    pub(super) fn new(place: Place) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent("holdfast")
            .build();
        let closed = Arc::new(AtomicBool::new(false));
        let connector = transport::Connector::new(&place, Arc::clone(&closed));
        let agent = Agent::with_parts(
            config,
            connector,
            ureq::unversioned::resolver::DefaultResolver::default(),
        );
        Self {
            agent,
            place,
            closed,
        }
    }

    /// Where the daemon is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("GET", path, SendBody::none(), "")
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let text = serde_json::to_vec(body).context("cannot write the request")?;
        self.call(
            "POST",
            path,
            SendBody::from_owned_reader(std::io::Cursor::new(text)),
            "application/json",
        )
    }

    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let text = serde_json::to_vec(body).context("cannot write the request")?;
        let body = SendBody::from_owned_reader(std::io::Cursor::new(text));
        self.call("PUT", path, body, "application/json")
    }

    pub(super) fn delete(&self, path: &str) -> Result<()> {
        self.send("DELETE", path, SendBody::none(), "").map(drop)
    }

    /// Deletes something and shows what it belonged to.
    pub(super) fn delete_from<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("DELETE", path, SendBody::none(), "")
    }

    /// Sends a body of any length.
    pub(super) fn put_stream(&self, path: &str, reader: &mut (dyn Read + Send)) -> Result<()> {
        let mut reader = WhileRead {
            reader,
            closed: &self.closed,
        };
        self.send("PUT", path, SendBody::from_reader(&mut reader), EXTENTS)
            .map(drop)
    }

    /// Gets a body of any length.
    pub(super) fn get_stream(&self, path: &str) -> Result<impl Read + use<>> {
        Ok(self
            .send("GET", path, SendBody::none(), "")?
            .into_body()
            .into_reader())
    }

    /// Gives the daemon an open file, if it runs on this machine.
    pub(super) fn hand_over(&self, file: &std::fs::File) -> Option<Result<HandedOver>> {
        match &self.place {
            Place::Local { socket } => Some(HandedOver::new(socket, file)),
            Place::Remote { .. } => None,
        }
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: SendBody<'_>,
        kind: &str,
    ) -> Result<T> {
        let mut response = self.send(method, path, body, kind)?;
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .context("the daemon's answer was cut")?;
        let text = if text.is_empty() {
            b"null".to_vec()
        } else {
            text
        };
        serde_json::from_slice(&text)
            .context("the daemon's answer is not what was expected; do both have the same version?")
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: SendBody<'_>,
        kind: &str,
    ) -> Result<http::Response<Body>> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.place.base()));
        if let Some(token) = self.place.token() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(body).context("cannot write the request")?;
        let mut response = request
            .with_agent(&self.agent)
            .run()
            .map_err(|error| self.place.explain(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        match serde_json::from_str::<Problem>(&text) {
            Ok(Problem { kind, detail, .. }) => Err(Refused { kind, detail }.into()),
            Err(_) => Err(anyhow!(
                "the daemon answered {} and no more; see its log",
                response.status()
            )),
        }
    }
}

/// The daemon refused or failed, and said why.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Refused {
    kind: String,
    detail: String,
}

impl Refused {
    /// Whether what is stored is damaged.
    pub(super) fn is_damage(&self) -> bool {
        self.kind == "urn:holdfast:damaged"
    }
}

/// A name in the path of a URL. `@` and the characters of names stand for themselves.
pub(super) fn segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'@' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

const EXTENTS: &str = "application/vnd.holdfast.extents";
const ANSWER_BYTES_MAX: u64 = 1 << 30;
