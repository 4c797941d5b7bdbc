//! QEMU's machine protocol: one JSON document a line, one answer to each command, events between them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::process::Process;

const LIMIT: Duration = Duration::from_secs(120);

/// The socket to which QEMU connects when it starts, so that nobody has to wait for it in a loop.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    pub(super) fn bind(path: &Path) -> Self {
        let socket = UnixListener::bind(path).expect("a socket in a new folder");
        Self {
            socket,
            path: path.to_path_buf(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for QEMU and greets it.
    pub(super) fn accept(self, qemu: &Process) -> Qmp {
        let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let ready = poll(&mut waiting, Some(&limit)).expect("poll of one socket");
        assert!(ready == 1, "QEMU did not start:\n{}", qemu.stderr().all());
        let (stream, _) = self.socket.accept().expect("somebody is there");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("a limit above zero");
        let reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
        let mut qmp = Qmp { stream, reader };
        // It connects before it looks at its drives.
        let mut waiting = [PollFd::new(&qmp.stream, PollFlags::IN)];
        poll(&mut waiting, Some(&limit)).expect("poll of one socket");
        let greeting = qmp.try_read();
        let greeting =
            greeting.unwrap_or_else(|| panic!("QEMU ended at once:\n{}", qemu.stderr().all()));
        assert!(greeting.get("QMP").is_some(), "a greeting, not {greeting}");
        qmp.execute("qmp_capabilities", json!({}));
        qmp
    }
}

#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Qmp {
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{request}").expect("QEMU listens");
        loop {
            let mut answer = self.read();
            if let Some(result) = answer.get_mut("return") {
                return result.take();
            }
            assert!(
                answer.get("error").is_none(),
                "QEMU refuses {command}: {answer}"
            );
        }
    }

    /// The next message; none if QEMU is gone.
    fn try_read(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).ok()?;
        (read > 0).then(|| serde_json::from_str(&line).expect("QEMU writes JSON"))
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .expect("QEMU answers in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("JSON, not \"{line}\": {error}"))
    }
}
