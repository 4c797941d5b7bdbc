//! The thread that starts `smbd`, waits for its end, and starts it again.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::file;
use crate::server::Core;
use crate::{Phase, SmbError};

/// Keeps the server running until it is told to end. The processes end with this thread, so it stays for all of them.
pub(crate) fn watch(core: &Core) {
    let mut pause = PAUSE_FIRST;
    loop {
        let began = Instant::now();
        let end = match run(core) {
            Ok(status) => how_it_ended(core, status),
            Err(error) => text(&error),
        };
        core.metrics.up.set(0);
        let mut state = core.state.lock();
        state.process = None;
        if state.is_stopping {
            break;
        }
        if began.elapsed() > LONG {
            pause = PAUSE_FIRST;
        }
        tracing::error!(end, pause = ?pause, "smbd ended by itself and is started again after a pause");
        state.last_end = Some(end);
        state.phase = Phase::Waiting;
        core.changed.notify_all();
        let until = Instant::now() + pause;
        while !state.is_stopping && Instant::now() < until {
            core.changed.wait_until(&mut state, until);
        }
        if state.is_stopping {
            break;
        }
        state.restarts += 1;
        core.metrics.restarts.inc();
        pause = (pause * 2).min(PAUSE_LAST);
    }
    core.state.lock().phase = Phase::Stopped;
    core.changed.notify_all();
}

/// Runs it once, to its end.
fn run(core: &Core) -> Result<ExitStatus, SmbError> {
    let failed = |source| SmbError::Run {
        name: "smbd",
        source,
    };
    let mut child = {
        let _turn = core.changes.lock();
        core.folder.clear()?;
        let said = core.folder.log().join(SAID);
        let printed = fs::File::create(&said).map_err(file("create", &said))?;
        let mut command = core.namespace.kept(&core.programs.smbd);
        command.args(["-F", "--no-process-group", "-l"]);
        command.arg(core.folder.log()).arg("-s");
        command.arg(core.folder.configuration());
        command.stdout(printed.try_clone().map_err(file("open", &said))?);
        command.stderr(printed);
        command.spawn().map_err(failed)?
    };
    core.state.lock().phase = Phase::Starting;
    core.changed.notify_all();
    wait_until_up(core, &mut child).map_err(failed)?;
    wait_for_end(core, &mut child).map_err(failed)
}

/// Returns when it has ended, and keeps users of ours before its eyes until then.
fn wait_for_end(core: &Core, child: &mut Child) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let process = {
            let mut state = core.state.lock();
            let pause = match state.is_stopping {
                true => LOOK_AGAIN,
                false => LOOK_AT_USERS,
            };
            core.changed.wait_for(&mut state, pause);
            state.process.filter(|_| !state.is_stopping)
        };
        match process.map(|process| core.namespace.mend(process)) {
            Some(Ok(mended)) if !mended.is_empty() => {
                tracing::info!(
                    ?mended,
                    "the machine's files were replaced; smbd sees ours again"
                );
            }
            // It may have ended meanwhile.
            Some(Err(error)) if child.try_wait()?.is_none() => {
                tracing::warn!(error = text(&error), "smbd may not know its users for now");
            }
            _ => {}
        }
    }
}

/// Returns when it answers, has ended, or is to end.
fn wait_until_up(core: &Core, child: &mut Child) -> std::io::Result<()> {
    let address = core.settings.reachable();
    while child.try_wait()?.is_none() {
        let process = child_of(child.id());
        let answers =
            process.is_some() && TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).is_ok();
        let mut state = core.state.lock();
        state.process = process;
        if state.is_stopping {
            // Whoever stops it may have looked for a process before there was one.
            drop(state);
            return child.kill();
        }
        if answers {
            state.phase = Phase::Running;
            core.metrics.up.set(1);
            core.changed.notify_all();
            tracing::info!(%address, process, "smbd answers");
            return Ok(());
        }
        core.changed.wait_for(&mut state, LOOK_AGAIN);
    }
    Ok(())
}

/// The one child of a process.
fn child_of(process: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// What is known of the end, for a person.
fn how_it_ended(core: &Core, status: ExitStatus) -> String {
    let said = fs::read_to_string(core.folder.log().join(SAID)).unwrap_or_default();
    // `unshare` cannot end itself by the signal that ended what it held, and says so.
    if status.signal() == Some(Signal::KILL.as_raw()) || said.contains("sigprocmask unblock failed")
    {
        return "somebody killed it (SIGKILL; the kernel does so where memory is short)".to_owned();
    }
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(last) => format!("{status}: {}", last.trim()),
        None => status.to_string(),
    }
}

fn text(error: &SmbError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What it prints besides its log, in the folder of logs.
const SAID: &str = "smbd.out";

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// Who has run for so long does not end for the reason of before.
const LONG: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For so long nobody may be able to log in after the machine's users have changed.
const LOOK_AT_USERS: Duration = Duration::from_millis(500);
