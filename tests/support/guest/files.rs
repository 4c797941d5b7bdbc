//! The guest's files, as `deploy/guest` makes them; its header comment is the contract.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::need::{need, need_root, target_folder, workspace};
use crate::process::run;

/// A folder made by `deploy/guest`.
#[derive(Debug)]
pub struct GuestFiles {
    folder: PathBuf,
    pub(super) machine: Vec<String>,
    pub(super) command_line: String,
    prompts: Vec<String>,
}

impl GuestFiles {
    /// The guest with the test tools, made now if nobody has made it yet.
    ///
    /// `HOLDFAST_TEST_GUEST` names a folder to use instead of `target/guest/test`. Gives `None`, after saying why,
    /// on a machine that cannot make or run it.
    pub fn find() -> Option<Self> {
        need("qemu-system-x86_64")?;
        let folder = match env::var_os("HOLDFAST_TEST_GUEST") {
            Some(folder) => PathBuf::from(folder),
            None => target_folder().join("guest/test"),
        };
        if !folder.join("stamp").is_file() {
            need("mmdebstrap")?;
            need_root()?;
            run(Command::new(workspace().join("deploy/guest"))
                .args(["make", "--kind", "test"])
                .arg(&folder));
        }
        Some(Self::read(folder))
    }

    /// The path of one file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The guest's disk: 1 as it was made, 2 after it changed itself.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.path(&format!("disk-{number}.raw"))
    }

    /// A copy of a disk, for a test that writes to it.
    pub fn copy_of_disk(&self, number: usize, to: &Path) {
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(self.disk(number))
            .arg(to));
    }

    /// Makes an initrd that boots from the logical unit which `iscsi.target=` and `iscsi.port=` of the kernel's command
    /// line name, at 10.0.2.2. Gives `None`, after saying why, on a machine that cannot make it.
    pub fn make_iscsi_initrd(&self, to: &Path) -> Option<()> {
        need("debugfs")?;
        need("cpio")?;
        let script = workspace().join("tests/fixtures/iscsi-initrd.sh");
        run(Command::new("bash").arg(script).arg(&self.folder).arg(to));
        Some(())
    }

    /// The login prompt that tells which disk was booted.
    pub fn prompt(&self, number: usize) -> &str {
        self.prompts
            .get(number - 1)
            .expect("one prompt for each disk")
    }

    fn read(folder: PathBuf) -> Self {
        let lines = |name: &str| -> Vec<String> {
            let path = folder.join(name);
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            text.lines().map(str::to_owned).collect()
        };
        let machine = lines("qemu");
        let command_line = lines("cmdline").concat();
        let prompts = lines("expect");
        Self {
            folder,
            machine,
            command_line,
            prompts,
        }
    }
}
