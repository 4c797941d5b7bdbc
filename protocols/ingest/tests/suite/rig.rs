//! A server, and a way to it that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingest::{BoundAddress, Client, Endpoint, Metrics, Place, Server, ServerConfig, Settings};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use crate::memory_store::{MemoryStore, TOKEN};

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) store: MemoryStore,
    fingerprint: [u8; 32],
    _home: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(ServerConfig {
            version: "of the test".to_owned(),
            ..ServerConfig::default()
        })
    }

    pub(crate) fn with(config: ServerConfig) -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let endpoints = vec![
            Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            Endpoint::Unix {
                path: home.path().join("ingest.sock"),
                mode: 0o600,
            },
        ];
        let server = Server::start(
            config,
            endpoints,
            Arc::new(tls),
            Arc::new(store.clone()),
            Metrics::default(),
        );
        Self {
            server: server.unwrap(),
            store,
            fingerprint: digest.as_ref().try_into().unwrap(),
            _home: home,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match &self.server.addresses()[0] {
            BoundAddress::Tcp(address) => *address,
            BoundAddress::Unix(path) => panic!("{}", path.display()),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        match &self.server.addresses()[1] {
            BoundAddress::Unix(path) => path.clone(),
            BoundAddress::Tcp(address) => panic!("{address}"),
        }
    }

    /// How to reach the server over TLS, at its address or another.
    pub(crate) fn settings(&self, address: SocketAddr) -> Settings {
        let place = Place::Tcp {
            address: address.to_string(),
            fingerprint: self.fingerprint,
        };
        Settings {
            token: Some(TOKEN.to_owned()),
            resume: Duration::from_secs(20),
            ..Settings::new(place, "a test")
        }
    }

    pub(crate) fn unix_settings(&self) -> Settings {
        Settings {
            token: Some(TOKEN.to_owned()),
            ..Settings::new(Place::Unix(self.socket()), "a test")
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.settings(self.address())).unwrap()
    }

    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let kept = self.store.0.lock().unwrap();
        kept.streams.get(name).map(|(_, content)| content.clone())
    }
}

/// Bytes that do not repeat.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Passes bytes on, and cuts its connections after so many of them, or when told to.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    shared: Arc<LineState>,
}

struct LineState {
    target: SocketAddr,
    /// Bytes to the server after which a connection is cut, and how often this is still done.
    cut_after: usize,
    cuts: AtomicUsize,
    /// Nothing comes back any more, as on a line that is dead in one direction.
    is_deaf: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Line {
    pub(crate) fn new(target: SocketAddr, cut_after: usize, cuts: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(LineState {
            target,
            cut_after,
            cuts: AtomicUsize::new(cuts),
            is_deaf: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(state.target)) else {
                    continue;
                };
                carry(&state, client, server);
            }
        });
        Self { address, shared }
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        for socket in self.shared.open.lock().unwrap().drain(..) {
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    pub(crate) fn set_deaf(&self, is_deaf: bool) {
        self.shared.is_deaf.store(is_deaf, Ordering::Relaxed);
    }

    pub(crate) fn cuts_left(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

fn carry(state: &Arc<LineState>, client: TcpStream, server: TcpStream) {
    let both = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
    state.open.lock().unwrap().extend(both());
    for towards_server in [true, false] {
        let [client, server] = both();
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let (mut from, mut to) = match towards_server {
                true => (client, server),
                false => (server, client),
            };
            let mut buffer = vec![0; 16_384];
            let mut carried = 0;
            while let Ok(read) = from.read(&mut buffer) {
                if !towards_server && state.is_deaf.load(Ordering::Relaxed) {
                    continue;
                }
                if read == 0 || to.write_all(&buffer[..read]).is_err() {
                    break;
                }
                carried += read;
                let is_due = towards_server && carried > state.cut_after;
                let left = |cuts: usize| cuts.checked_sub(1);
                if is_due
                    && state
                        .cuts
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
                        .is_ok()
                {
                    break;
                }
            }
            drop(from.shutdown(Shutdown::Both));
            drop(to.shutdown(Shutdown::Both));
        });
    }
}
