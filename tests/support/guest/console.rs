//! The serial console: prompts, commands, and their statuses.

use std::time::Duration;

use crate::process::Process;

/// How long the guest's shell may take to answer.
const SHELL_LIMIT: Duration = Duration::from_secs(120);

/// What a command printed (stdout and stderr together), and its exit status.
#[derive(Debug)]
pub struct Output {
    /// The exit status.
    pub status: i32,
    /// The text, with plain line ends.
    pub text: String,
}

#[derive(Debug)]
pub(super) struct Console {
    process: Process,
    /// Everything before this byte has been read.
    position: usize,
    commands: u32,
}

impl Console {
    pub(super) fn new(process: Process) -> Self {
        Self {
            process,
            position: 0,
            commands: 0,
        }
    }

    pub(super) fn expect(&mut self, text: &str, limit: Duration) {
        self.position = self.process.stdout().wait_for(text, self.position, limit);
    }

    pub(super) fn log_in(&mut self) {
        self.process.type_text("root\n");
        self.expect("$ ", SHELL_LIMIT);
        // A shell that edits no lines, and so prints nothing but what it is told to.
        self.process.type_text("exec sh\n");
        self.expect("# ", SHELL_LIMIT);
        let quiet = "stty -echo -onlcr cols 4000; dmesg -n 1; PS1=; PS2=; echo re''ady\n";
        self.process.type_text(quiet);
        self.expect("ready\n", SHELL_LIMIT);
    }

    pub(super) fn run(&mut self, command: &str, limit: Duration) -> Output {
        self.begin(command);
        self.finish(limit)
    }

    pub(super) fn begin(&mut self, command: &str) {
        self.commands += 1;
        let number = self.commands;
        // A terminal's line holds 4095 bytes, so a long command goes through a file.
        for line in here_document(command) {
            self.process.type_text(&line);
        }
        self.process.type_text(&format!(
            "echo '<<'{number}; bash /tmp/command </dev/null 2>&1; echo '>>'{number}:$?:\n"
        ));
        self.expect(&format!("<<{number}\n"), SHELL_LIMIT);
    }

    pub(super) fn finish(&mut self, limit: Duration) -> Output {
        let start = self.position;
        let mark = format!(">>{}:", self.commands);
        let end = self.process.stdout().wait_for(&mark, start, limit);
        let colon = self.process.stdout().wait_for(":", end, SHELL_LIMIT);
        self.position = self.process.stdout().wait_for("\n", colon, SHELL_LIMIT);
        let status = self.process.stdout().text(end, colon - 1);
        let text = self.process.stdout().text(start, end - mark.len());
        Output {
            status: status
                .parse()
                .unwrap_or_else(|_| panic!("a status, not \"{status}\"")),
            text: text.replace("\r\n", "\n"),
        }
    }

    pub(super) fn power_off(&mut self, limit: Duration) {
        self.process.type_text("poweroff\n");
        let status = self.process.wait(limit);
        assert!(
            status.success(),
            "QEMU: {status}; its log:\n{}",
            self.process.stderr().all()
        );
    }

    pub(super) fn kill(&mut self) {
        self.process.kill();
    }
}

/// Lines to type so that `/tmp/command` holds `command`, each shorter than a terminal's line.
fn here_document(command: &str) -> Vec<String> {
    const END: &str = "END-OF-THE-COMMAND";
    let mut lines = vec![format!("cat >/tmp/command <<'{END}'\n")];
    lines.extend(command.lines().map(|line| {
        assert!(
            line.len() < 4000,
            "this line is too long to be typed: {line}"
        );
        format!("{line}\n")
    }));
    lines.push(format!("{END}\n"));
    lines
}
