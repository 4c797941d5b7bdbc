//! The format as documents tell it: a reader in another language, written from `docs/formats/` alone, reads what the
//! engine wrote today and what it wrote in earlier versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{need_reader_python, scratch, workspace};

/// The passphrase of encrypted fixtures.
const PASSPHRASE: &str = "correct horse battery staple";

struct Reader {
    python: PathBuf,
    folder: PathBuf,
    options: Vec<String>,
}

impl Reader {
    /// Reads `folder/repository`, whose content `folder/expected.json` tells.
    fn new(python: &Path, folder: &Path) -> Self {
        let mut options = Vec::new();
        if folder.join("repository/keys").exists() {
            let file = folder.join("passphrase");
            fs::write(&file, PASSPHRASE).unwrap();
            options = vec!["--passphrase-file".to_owned(), file.display().to_string()];
        }
        Self {
            python: python.to_owned(),
            folder: folder.to_owned(),
            options,
        }
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        Command::new(&self.python)
            .arg(workspace().join("tests/reader/holdfast_reader.py"))
            .args(&self.options)
            .args(options)
            .arg(self.folder.join("repository"))
            .args(command)
            .current_dir(&self.folder)
            .output()
            .unwrap()
    }

    fn succeed(&self, options: &[&str], command: &[&str]) -> String {
        let output = self.run(options, command);
        assert!(
            output.status.success(),
            "{options:?} {command:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Reads everything, in every way that the format allows.
    fn check(&self) {
        for options in [
            &[][..],
            &["--scan"],
            &["--no-places"],
            &["--scan", "--no-places"],
        ] {
            let text = self.succeed(options, &["compare", "expected.json"]);
            let told: Value = serde_json::from_str(&text).unwrap();
            for what in ["points", "disks", "streams"] {
                assert!(told[what].as_u64().unwrap() > 3, "{options:?}: {text}");
            }
        }
    }
}

fn unpack(fixture: &str, folder: &Path) {
    let archive = workspace().join("tests/fixtures").join(fixture);
    let tar = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .status();
    assert!(tar.unwrap().success());
}

fn make(encrypted: bool, folder: &Path) {
    let mut command = Command::new(env!("CARGO"));
    if encrypted {
        command.env("ENCRYPTED", "1");
    }
    let made = command
        .args([
            "run",
            "--quiet",
            "--package",
            "repo",
            "--example",
            "make_fixture",
            "--",
        ])
        .arg(folder)
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn every_stored_repository_is_read() {
    let Some(python) = need_reader_python() else {
        return;
    };
    let mut count = 0;
    for entry in fs::read_dir(workspace().join("tests/fixtures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("repository-") && name.ends_with(".tar.gz") {
            let folder = scratch();
            unpack(&name, folder.path());
            Reader::new(&python, folder.path()).check();
            count += 1;
        }
    }
    assert!(count >= 1);
}

#[test]
fn a_fresh_repository_is_read() {
    let Some(python) = need_reader_python() else {
        return;
    };
    for encrypted in [false, true] {
        let folder = scratch();
        make(encrypted, folder.path());
        Reader::new(&python, folder.path()).check();
    }
}

#[test]
fn disks_and_streams_are_restored_byte_for_byte_and_damage_is_refused() {
    let Some(python) = need_reader_python() else {
        return;
    };
    let folder = scratch();
    unpack("repository-v1.tar.gz", folder.path());
    let reader = Reader::new(&python, folder.path());
    let expected = fs::read(folder.path().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let hash = |file: &str| blake3::hash(&fs::read(folder.path().join(file)).unwrap()).to_string();
    reader.succeed(&[], &["disk", "web@2", "1", "disk"]);
    assert_eq!(hash("disk"), expected["points"][2]["disks"][1]["blake3"]);
    reader.succeed(&[], &["stream", "web@5", "log", "log"]);
    assert_eq!(hash("log"), expected["points"][4]["streams"][0]["blake3"]);

    // A bit of a chunk that web@1 needs.
    let pack = folder.path().join("repository/packs/01/00000001.00000001");
    let mut bytes = fs::read(&pack).unwrap();
    bytes[4096 + 200] ^= 1;
    fs::write(&pack, bytes).unwrap();
    for options in [&[][..], &["--scan", "--no-places"]] {
        let output = reader.run(options, &["compare", "expected.json"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains("gone or hurt"), "{complaint}");
    }
}
