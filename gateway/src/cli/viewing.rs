//! The disks of a restore point or session, to be looked into by this process.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};

use tokio::signal::unix::{SignalKind, signal};

use crate::api::RecoveryBody;
use crate::browse::{BrowsedDisk, RemoteDisk};
use crate::recovery::{Protocol, SessionMode, SessionState, SessionView};

use super::client::{Client, Place, segment};

/// Disks that are served for this process. A session that was started for it ends with it.
pub(super) struct Viewing<'a> {
    client: &'a Client,
    session: SessionView,
    is_own: bool,
}

impl<'a> Viewing<'a> {
    /// Opens `what`: a restore point, for which a session is started that nobody can write, or a session by name.
    pub(super) fn open(client: &'a Client, what: &str) -> Result<Self> {
        let is_own = what.contains('@');
        let session: SessionView = if is_own {
            let body = RecoveryBody {
                point: what.to_owned(),
                read_only: true,
                protocols: vec![Protocol::Nbd],
                ..RecoveryBody::default()
            };
            client.post("/v1/recoveries", &body)?
        } else {
            client.get(&format!("/v1/recoveries/{}", segment(what)))?
        };
        let viewing = Self {
            client,
            session,
            is_own,
        };
        if !is_own && viewing.session.state != SessionState::Active {
            bail!(
                "recovery session {what} is not served; `holdfast recover start {} --name {what}` serves it again",
                viewing.session.point
            );
        }
        Ok(viewing)
    }

    /// Has a session that was started for this process end when the process is told to: it holds its point until then.
    pub(super) fn end_on_signals(&self) -> Result<()> {
        if !self.is_own {
            return Ok(());
        }
        let client = Client::new(self.client.place().clone());
        let path = format!("/v1/recoveries/{}", segment(&self.session.session));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot wait for signals")?;
        let mut signals = runtime.block_on(async { Signals::listen() })?;
        std::thread::Builder::new()
            .name("viewing-end".to_owned())
            .spawn(move || {
                runtime.block_on(signals.next());
                drop(client.delete(&path));
                end_process();
            })
            .context("cannot start a thread")?;
        Ok(())
    }

    /// Whether nobody can change the disks.
    pub(super) fn is_read_only(&self) -> bool {
        self.session.mode == SessionMode::ReadOnly
    }

    /// The restore point.
    pub(super) fn point(&self) -> &str {
        &self.session.point
    }

    /// Its disks.
    pub(super) fn disks(&self) -> Result<Vec<BrowsedDisk>> {
        let disks = self.session.disks.iter();
        let connect = |view: &crate::recovery::DiskView| {
            let urls = &view.urls;
            let url = match self.client.place() {
                Place::Local { .. } => urls.nbd_unix.as_deref(),
                Place::Remote { .. } => urls.nbd.as_deref(),
            };
            let url = url.ok_or_else(|| {
                anyhow!(
                    "session {} is not served over NBD without TLS, through which this command looks into disks; run it on the daemon's machine, or start the session with --protocol nbd",
                    self.session.session
                )
            })?;
            let identity = format!("{}/disk-{}", self.session.point, view.disk);
            let disk = RemoteDisk::connect(url, &identity).with_context(|| {
                format!(
                    "cannot reach disk {} of {}",
                    view.disk, self.session.session
                )
            })?;
            Ok(BrowsedDisk {
                number: view.disk,
                disk: Arc::new(disk),
            })
        };
        disks.map(connect).collect()
    }
}

/// What tells a process to end.
pub(super) struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    /// Takes them from now on; inside a runtime.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[expect(
    clippy::exit,
    reason = "the main thread may be in the middle of a long read"
)]
fn end_process() -> ! {
    std::process::exit(130)
}

impl Drop for Viewing<'_> {
    fn drop(&mut self) {
        if self.is_own {
            let path = format!("/v1/recoveries/{}", segment(&self.session.session));
            if let Err(error) = self.client.delete(&path) {
                let session = &self.session.session;
                super::output::tell(format!(
                    "the session {session} is still there ({error}); `holdfast recover discard {session}` ends it"
                ));
            }
        }
    }
}
