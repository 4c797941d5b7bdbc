//! The whole configuration: one TOML file, every default written here.
//!
//! `deploy/holdfast.toml` shows every key; a test keeps the two equal.

mod files;
mod ingest;
mod iscsi;
mod peers;
mod smb;
mod tcmu;
mod units;
mod verify;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use files::FilesConfig;
pub use ingest::IngestConfig;
pub use iscsi::IscsiConfig;
pub use peers::{BadPeers, Peers};
pub use smb::{SmbConfig, SmbEncryption};
pub use tcmu::TcmuConfig;
pub use units::{ByteSize, Span, UnitError};
pub use verify::{Share, VerifyConfig};

/// Everything the daemon can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The repository to serve.
    pub repository: RepositoryConfig,
    /// Where the daemon keeps what is its own.
    pub state: StateConfig,
    /// The HTTP interface.
    pub api: ApiConfig,
    /// The NBD server.
    pub nbd: NbdConfig,
    /// The NFS server.
    pub nfs: NfsConfig,
    /// The iSCSI target.
    pub iscsi: IscsiConfig,
    /// The kernel's target.
    pub tcmu: TcmuConfig,
    /// Shares by Samba.
    pub smb: SmbConfig,
    /// Streams of databases.
    pub ingest: IngestConfig,
    /// Backups sent through the API.
    pub backup: BackupConfig,
    /// Recovery sessions.
    pub recovery: RecoveryConfig,
    /// Files on guests' disks.
    pub files: FilesConfig,
    /// The verification that runs by itself.
    pub verify: VerifyConfig,
    /// Giving space back.
    pub collect: CollectConfig,
    /// Retention rules.
    pub retention: RetentionConfig,
    /// Threads that may wait for a disk.
    pub workers: WorkersConfig,
    /// The log.
    pub log: LogConfig,
}

/// The repository to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// Its folder, made by `holdfast init`.
    pub path: PathBuf,
    /// Memory for decompressed chunks, and for what was lately read and written of writable disks.
    pub chunk_cache: ByteSize,
    /// Memory for nodes of image maps.
    pub node_cache: ByteSize,
    /// Memory for the index.
    pub index_cache: ByteSize,
    /// Whether it is told when something else changes its files.
    pub watch: bool,
    /// The key of an encrypted repository: a file with it,
    pub key_file: Option<PathBuf>,
    /// a file with a passphrase,
    pub passphrase_file: Option<PathBuf>,
    /// or a command for the shell that prints either.
    pub key_command: Option<String>,
    /// Parity beside each pack, of its size; 0%: none.
    pub parity: Share,
    /// Have the file system hold what locked points need, where it can.
    pub protect_files: bool,
}

/// Where the daemon keeps what is its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Empty: `daemon` inside the repository.
    pub path: Option<PathBuf>,
}

/// The HTTP interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Where HTTPS listens.
    pub listen: SocketAddr,
    /// Names and addresses besides `localhost` that the self-made certificate holds.
    pub certificate_names: Vec<String>,
    /// Longest JSON body.
    pub body_limit: ByteSize,
    /// Longest wait for the head of a request, and for the next piece of a body.
    pub read_timeout: Span,
    /// Longest time for a request that is neither an upload nor a hand-over.
    pub request_timeout: Span,
    /// Connections at once over TLS, and as many over the control socket.
    pub connections: usize,
    /// Whether `/metrics` answers without a token.
    pub metrics_without_token: bool,
}

/// The NBD server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NbdConfig {
    /// Where it listens; the unix socket in the state folder comes besides.
    pub listen: SocketAddr,
    /// Connections at once.
    pub connections: usize,
    /// Memory for the data of all connections that is on its way; clients wait where it is not enough.
    pub memory: ByteSize,
    /// Whether connections over TCP are protected by TLS.
    pub tls: NbdTls,
    /// A certificate chain in PEM, instead of the daemon's self-made certificate.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate`, in PEM.
    pub key: Option<PathBuf>,
    /// Certificates in PEM, one of which must have signed that of each client.
    pub client_authority: Option<PathBuf>,
}

/// Whether NBD over TCP is protected by TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NbdTls {
    /// Never.
    #[default]
    Off,
    /// If the client asks for it.
    Allow,
    /// Always.
    Require,
}

/// The NFS server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NfsConfig {
    /// Where NFS and MOUNT listen, on one port.
    pub listen: SocketAddr,
    /// `"off"`, `"register"` (at the rpcbind that runs here), or the address of a portmapper of our own.
    pub portmapper: Portmapper,
    /// Connections at once.
    pub connections: usize,
}

/// How clients learn the ports of NFS and MOUNT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portmapper {
    /// They are told by hand.
    Off,
    /// From the rpcbind of this machine.
    Register,
    /// From a portmapper in the daemon that listens here.
    Listen(SocketAddr),
}

/// Backups sent through the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// A backup whose client says nothing for so long is dropped.
    pub idle_timeout: Span,
    /// Backups under way at once.
    pub at_once: usize,
}

/// Recovery sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryConfig {
    /// Peers that may use a session that was started without `--allow`.
    pub allow: Peers,
    /// Peers that may mount the folder of all sessions, `/`.
    pub allow_root: Peers,
    /// Files, folders and links that a hypervisor may make in one session.
    pub files: usize,
    /// Bytes of all of them together.
    pub file_bytes: ByteSize,
    /// Sessions at once.
    pub sessions: usize,
    /// When less space than this is left for the repository, initiators are told; `0B`: never.
    pub warn_below: ByteSize,
}

/// Giving space back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectConfig {
    /// How often it is done; `0s`: only when asked for.
    pub every: Span,
    /// How long packs that nobody needs stay before they are removed.
    pub grace: Span,
    /// A pack is rewritten when less than this share of it is needed, in percent.
    pub compact_below_percent: u8,
    /// Space that is kept free, so that a full disk can be collected.
    pub reserve: ByteSize,
}

/// Retention rules. What they say is set with `holdfast retention`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// How often they are applied; `0s`: only when asked for.
    pub every: Span,
}

/// Threads that may wait for a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// Threads for NBD and NFS.
    pub export_threads: usize,
    /// Calls that may queue for them.
    pub export_queue: usize,
    /// Threads for the HTTP interface and jobs.
    pub api_threads: usize,
    /// Threads of the engine's own pipeline; 0: one for each processor.
    pub engine_threads: usize,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// What is logged, for example `info` or `info,nfs=debug`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one object a line.
    Json,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; check the path and its rights", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what is expected.
    #[error("{} is not a valid configuration: {detail}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        detail: String,
    },
    /// No repository was named.
    #[error(
        "no repository is named; give --repository DIR, or set `path` under [repository] in the configuration"
    )]
    NoRepository,
    /// Two settings that do not go together.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// If the file cannot be read, or says something that is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })
    }

    /// Reads a configuration from text.
    ///
    /// # Errors
    /// If it says something that is not understood.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The defaults, for a repository.
    pub fn for_repository(path: &Path) -> Self {
        let mut config = Self::default();
        config.repository.path = path.to_owned();
        config
    }

    /// All ports chosen by the system, so that many daemons can run side by side.
    #[must_use]
    pub fn with_any_ports(mut self) -> Self {
        self.api.listen.set_port(0);
        self.nbd.listen.set_port(0);
        self.nfs.listen.set_port(0);
        for portal in &mut self.iscsi.listen {
            portal.set_port(0);
        }
        self.smb.port = 0;
        for address in &mut self.ingest.listen {
            address.set_port(0);
        }
        self
    }

    /// The folder of the daemon's own state.
    pub fn state_path(&self) -> PathBuf {
        self.state_path_under(&self.repository.path)
    }

    /// The folder of the daemon's own state, if the repository was there.
    pub fn state_path_under(&self, repository: &Path) -> PathBuf {
        self.state
            .path
            .clone()
            .unwrap_or_else(|| repository.join("daemon"))
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`ConfigError::NoRepository`] or [`ConfigError::Contradiction`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.repository.path.as_os_str().is_empty() {
            return Err(ConfigError::NoRepository);
        }
        self.nbd.check()?;
        self.iscsi.check()?;
        self.smb.check()?;
        self.ingest.check()?;
        self.tcmu.check()?;
        self.files.check()
    }
}

impl NbdConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let rule = if self.certificate.is_some() != self.key.is_some() {
            "[nbd] certificate and key belong together; set both, or neither to use the daemon's own certificate"
        } else if self.client_authority.is_some() && self.tls != NbdTls::Require {
            "[nbd] client_authority would keep nobody out who does without TLS; set tls = \"require\" with it"
        } else if self.memory < NBD_MEMORY_MIN {
            "[nbd] memory must be at least 32MiB, what the longest request needs"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }
}

impl Default for RepositoryConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            chunk_cache: ByteSize::mebibytes(256),
            node_cache: ByteSize::mebibytes(64),
            index_cache: ByteSize::mebibytes(128),
            watch: true,
            key_file: None,
            passphrase_file: None,
            key_command: None,
            parity: Share::default(),
            protect_files: true,
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: loopback(8700),
            certificate_names: Vec::new(),
            body_limit: ByteSize::mebibytes(8),
            read_timeout: Span::seconds(30),
            request_timeout: Span::seconds(120),
            connections: 1024,
            metrics_without_token: true,
        }
    }
}

impl Default for NbdConfig {
    fn default() -> Self {
        Self {
            listen: loopback(10809),
            connections: 1024,
            memory: ByteSize::mebibytes(128),
            tls: NbdTls::Off,
            certificate: None,
            key: None,
            client_authority: None,
        }
    }
}

impl Default for NfsConfig {
    fn default() -> Self {
        Self {
            listen: loopback(2049),
            portmapper: Portmapper::Off,
            connections: 1024,
        }
    }
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Span::seconds(600),
            at_once: 16,
        }
    }
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            allow: Peers::loopback(),
            allow_root: Peers::loopback(),
            files: 10_000,
            file_bytes: ByteSize::mebibytes(16 * 1024),
            sessions: 1024,
            warn_below: ByteSize::mebibytes(1024),
        }
    }
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self {
            every: Span::seconds(24 * 60 * 60),
            grace: Span::seconds(24 * 60 * 60),
            compact_below_percent: 60,
            reserve: ByteSize::mebibytes(64),
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            every: Span::seconds(24 * 60 * 60),
        }
    }
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            export_threads: 16,
            export_queue: 4096,
            api_threads: 8,
            engine_threads: 0,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Portmapper {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Portmapper {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Register => serializer.serialize_str("register"),
            Self::Listen(address) => serializer.collect_str(address),
        }
    }
}

impl std::str::FromStr for Portmapper {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "register" => Ok(Self::Register),
            address => address
                .parse()
                .map(Self::Listen)
                .map_err(|_| format!("`{text}` is not a portmapper; write off, register, or an address such as 127.0.0.1:111")),
        }
    }
}

/// One request of the longest kind must be possible.
const NBD_MEMORY_MIN: ByteSize = ByteSize::mebibytes(32);

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_every_key_with_its_default() {
        let text = include_str!("../../../deploy/holdfast.toml");
        let mut expected = Config::default();
        expected.repository.path = PathBuf::from("/var/lib/holdfast");
        assert_eq!(Config::parse(text).unwrap(), expected);
        for key in [
            "state.path",
            "certificate_names",
            "allow_root",
            "engine_threads",
            "portmapper",
            "idle_timeout",
            "certificate",
            "key",
            "client_authority",
            "chap_user",
            "chap_secret_file",
            "target_user",
            "target_secret_file",
            "parity",
            "period",
        ] {
            let name = key.rsplit('.').next().unwrap();
            assert!(text.contains(name), "{key} is not in the example");
        }
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        for (text, word) in [
            ("certificate = \"/c\"", "certificate and key"),
            ("key = \"/k\"", "certificate and key"),
            ("client_authority = \"/a\"", "tls = \"require\""),
            ("memory = \"31MiB\"", "32MiB"),
            (
                "tls = \"allow\"\nclient_authority = \"/a\"",
                "tls = \"require\"",
            ),
        ] {
            let text = format!("[repository]\npath = \"/r\"\n[nbd]\n{text}");
            let error = Config::parse(&text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        for (text, word) in [
            ("name = \"backup\"", "iqn."),
            ("name = \"iqn.2026-01.A\"", "lower-case"),
            ("block_bytes = 1024", "512 or 4096"),
            ("physical_block_bytes = 8192", "512 or 4096"),
            ("block_bytes = 4096\nphysical_block_bytes = 512", "not less"),
            ("chap_user = \"a\"", "chap_secret_file"),
            ("target_secret_file = \"/s\"", "target_user"),
            (
                "target_user = \"a\"\ntarget_secret_file = \"/s\"",
                "chap_user",
            ),
            ("memory = \"15MiB\"", "16MiB"),
            ("initiators = []", "nobody"),
        ] {
            let text = format!("[repository]\npath = \"/r\"\n[iscsi]\n{text}");
            let error = Config::parse(&text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        for (text, word) in [
            ("block_bytes = 1024", "512 or 4096"),
            ("data_area = \"16MiB\"", "32MiB"),
            ("data_area = \"40000KiB\"", "whole MiB"),
        ] {
            let text = format!("[repository]\npath = \"/r\"\n[tcmu]\n{text}");
            let error = Config::parse(&text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        for (text, word) in [
            ("connections = 0", "listen = []"),
            ("folder = \"smb\"", "from the root"),
        ] {
            let text = format!("[repository]\npath = \"/r\"\n[smb]\n{text}");
            let error = Config::parse(&text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        for (text, word) in [
            ("[api]\nlissten = \"127.0.0.1:1\"", "lissten"),
            ("[api]\nlisten = \"nowhere\"", "listen"),
            ("[repository]\nchunk_cache = \"12\"", "KiB"),
            ("[backup]\nidle_timeout = \"soon\"", "30s"),
            ("[nfs]\nportmapper = \"maybe\"", "register"),
            ("[recovery]\nallow = [\"10.0.0.0/40\"]", "10.0.0.0/40"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
