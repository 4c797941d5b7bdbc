//! A server with folders of this machine as shares, and Samba's own client.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use smb::{
    Access, Encryption, Login, Metrics, Password, Programs, Server, Settings, Share, ShareName,
};

/// A running server.
pub(crate) struct Setup {
    pub(crate) server: Option<Server>,
    pub(crate) settings: Settings,
    folder: tempfile::TempDir,
}

/// A user with its password.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Setup {
    pub(crate) fn start(encryption: Encryption) -> Self {
        let folder = tempfile::Builder::new().prefix("smb-").tempdir().unwrap();
        let settings = Settings {
            folder: folder.path().join("state"),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            port: free_port(),
            encryption,
            clients: 32,
        };
        let server = Server::start(settings.clone(), Metrics::default()).unwrap();
        Self {
            server: Some(server),
            settings,
            folder,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// A folder beside the server's.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn share(&self, name: &str, number: u32, access: Access) -> Share {
        Share {
            name: name.parse().unwrap(),
            path: self.folder(name),
            comment: format!("the share {name}"),
            user: format!("holdfast-{number}").parse().unwrap(),
            access,
            earlier: None,
            allow: vec!["127.0.0.0/8".parse().unwrap()],
        }
    }

    pub(crate) fn add(&self, share: Share) -> User {
        let name = share.user.to_string();
        let password = self.server().add(share, Login::New).unwrap();
        User::new(&name, &password.unwrap())
    }

    /// What the client says to commands in a share.
    pub(crate) fn client(&self, share: &str, user: &User, commands: &str) -> Answer {
        self.client_with(share, user, &[], commands)
    }

    pub(crate) fn client_with(
        &self,
        share: &str,
        user: &User,
        options: &[&str],
        commands: &str,
    ) -> Answer {
        let mut command = self.client_command();
        command.arg(format!("//127.0.0.1/{share}"));
        command.args(options).args(["-c", commands]);
        command
            .env("USER", &user.name)
            .env("PASSWD", &user.password);
        Answer::of(command.output().unwrap())
    }

    /// Has the client log in as a user, and as nobody else if that is refused.
    pub(crate) fn log_in(command: &mut Command, user: &User) {
        command.arg(format!("-U{}%{}", user.name, user.password));
    }

    /// The client with a configuration of its own that forbids it nothing.
    pub(crate) fn client_command(&self) -> Command {
        let own = self.folder("client");
        let text = format!(
            "[global]\nclient min protocol = NT1\nprivate dir = {0}\nlock directory = {0}\nstate directory = {0}\ncache directory = {0}\n",
            own.display()
        );
        let configuration = own.join("smb.conf");
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("smbclient");
        command.arg("-s").arg(configuration);
        command.args(["-p", &self.settings.port.to_string()]);
        command
    }
}

impl User {
    pub(crate) fn new(name: &str, password: &Password) -> Self {
        Self {
            name: name.to_owned(),
            password: password.reveal().to_owned(),
        }
    }
}

/// What the client printed.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            ok: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// What it printed, if all went well.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert!(
            self.ok && !self.text.contains("NT_STATUS_"),
            "{}",
            self.text
        );
        self.text
    }

    /// The login was refused; the client may have tried as nobody then, who sees nothing.
    #[track_caller]
    pub(crate) fn kept_out(self) {
        let nobody = self.text.contains("Anonymous login successful")
            && self.text.contains("tree connect failed: NT_STATUS_");
        let refused = self.text.contains("NT_STATUS_LOGON_FAILURE");
        assert!(!self.ok && (nobody || refused), "{}", self.text);
    }

    #[track_caller]
    pub(crate) fn refused(self, word: &str) {
        assert!(
            !self.ok || self.text.contains("NT_STATUS_"),
            "{}",
            self.text
        );
        assert!(self.text.contains(word), "{word} in {}", self.text);
    }
}

/// Whether this machine can serve. Where it cannot, tests are left out, but not where all must run.
#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests must see what was left out"
)]
pub(crate) fn can_serve() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "only root serves SMB".to_owned()
    } else if let Err(error) = Programs::find() {
        error.to_string()
    } else if Command::new("smbclient").arg("-V").output().is_err() {
        "smbclient is not installed".to_owned()
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    eprintln!("left out: {reason}");
    false
}

/// A port that was free a moment ago, above those that the kernel gives to clients.
pub(crate) fn free_port() -> u16 {
    let first = 61_000 + u16::try_from(std::process::id() % 4000).unwrap();
    (first..65_000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .unwrap()
}

/// Waits until something holds, which it must within two minutes, as the machine may be busy.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose command line names the configuration of the server in `folder`.
pub(crate) fn processes_of(folder: &Path) -> Vec<i32> {
    let configuration = folder.join("smb.conf").display().to_string();
    let entries = fs::read_dir("/proc").unwrap();
    let numbers = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    numbers
        .filter(|process: &i32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&configuration)
        })
        .collect()
}

pub(crate) fn name(text: &str) -> ShareName {
    text.parse().unwrap()
}
