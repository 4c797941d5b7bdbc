//! Programs that a test runs beside itself.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::transcript::{Transcript, last_lines};

/// A running program whose output is kept, and which is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Transcript,
    stderr: Transcript,
}

impl Process {
    /// Starts `command` with pipes to all three of its streams.
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = Transcript::follow(child.stdout.take().expect("a pipe was asked for"));
        let stderr = Transcript::follow(child.stderr.take().expect("a pipe was asked for"));
        Self {
            name,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
        }
    }

    /// What it prints on stdout.
    pub fn stdout(&self) -> &Transcript {
        &self.stdout
    }

    /// What it prints on stderr.
    pub fn stderr(&self) -> &Transcript {
        &self.stderr
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types `text` into its stdin.
    pub fn type_text(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open until the end");
        stdin.write_all(text.as_bytes()).unwrap_or_else(|error| {
            panic!(
                "{} no longer reads: {error}; its log:\n{}",
                self.name,
                self.stderr.all()
            );
        });
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .expect("the child is ours and not yet waited for");
    }

    /// Ends it as a crash would, at once, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        for stream in [&self.stdout, &self.stderr] {
            let log = || last_lines(&self.stderr.all(), 40);
            assert!(
                stream.ends_within(limit),
                "{} did not end in {limit:?}; its log:\n{}",
                self.name,
                log()
            );
        }
        self.child.wait().expect("the child is ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `command` to its end and gives its stdout.
///
/// # Panics
/// When it fails, with what it printed, or when it takes more than ten minutes.
pub fn run(command: &mut Command) -> String {
    let words = format!("{command:?}");
    let mut process = Process::start(command);
    drop(process.stdin.take());
    let status = process.wait(Duration::from_secs(600));
    let stdout = process.stdout.all();
    let [shown, log] = [&stdout, &process.stderr.all()].map(|text| last_lines(text, 40));
    assert!(status.success(), "{words}: {status}\n{shown}\n{log}");
    stdout
}
