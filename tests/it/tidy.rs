//! The house rules that no lint knows (docs/STYLE.md, docs/ARCHITECTURE.md), as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{run, workspace};

/// What may stand at the top of the workspace; names with a leading dot are tools' settings.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "docs",
    "gateway",
    "protocols",
    "repo",
    "sbt",
    "tests",
    "vdi",
];

/// Crates that serve one outside standard over the export traits.
const PROTOCOLS: &[&str] = &[
    "nbd",
    "nfs",
    "iscsi",
    "smb",
    "fuse",
    "tcmu",
    "diskimage",
    "guestfs",
    "guestworker",
];

/// Crates that run inside a database's process.
const SHIMS: &[&str] = &["sbt", "oracle", "dm", "vdi"];

/// Licences under which we may ship what others wrote, by their names in SPDX.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

const LINES_MAX: usize = 1000;

/// The arrows: which crates of ours `name` may use; `None` for one that stands in no table.
fn may_use(name: &str) -> Option<Vec<&'static str>> {
    let everything_below = || {
        let own = ["export", "ingest", "repo", "scsi"];
        own.into_iter()
            .chain(PROTOCOLS.iter().copied())
            .collect::<Vec<_>>()
    };
    match name {
        "export" | "ingest" | "repo" => Some(vec![]),
        "scsi" => Some(vec!["export"]),
        "iscsi" | "tcmu" => Some(vec!["export", "scsi"]),
        "guestworker" => Some(vec!["export", "guestfs", "nbd"]),
        name if PROTOCOLS.contains(&name) => Some(vec!["export"]),
        name if SHIMS.contains(&name) => Some(vec!["ingest"]),
        "holdfast" => Some(everything_below()),
        "tests" => Some(
            everything_below()
                .into_iter()
                .chain(["holdfast"])
                .chain(SHIMS.iter().copied())
                .collect(),
        ),
        _ => None,
    }
}

#[test]
fn arrows_point_one_way() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    let mut faults = Vec::new();
    for (name, package) in &packages {
        let Some(allowed) = may_use(name) else {
            faults.push(format!(
                "{name} stands in no table: say in docs/ARCHITECTURE.md and here whom it may use"
            ));
            continue;
        };
        for used in dependencies(package).filter(|used| ours.contains(used)) {
            if used != name && !allowed.contains(&used) {
                faults.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn no_tokio_below_the_async_line() {
    let mut faults = Vec::new();
    let synchronous = ["repo", "ingest"].into_iter().chain(SHIMS.iter().copied());
    let packages = packages();
    for name in synchronous.filter(|name| packages.contains_key(*name)) {
        let tree = run(Command::new(env!("CARGO")).current_dir(workspace()).args([
            "tree",
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
            "--package",
            name,
        ]));
        assert!(tree.contains(name), "cargo tree shows {name} itself");
        if tree.lines().any(|line| line.starts_with("tokio ")) {
            faults.push(format!("{name} reaches tokio"));
        }
    }
    assert_none(&faults);
}

#[test]
fn versions_stand_in_the_workspace_only() {
    let mut faults = Vec::new();
    for (name, package) in packages() {
        let manifest = PathBuf::from(text(&package, "manifest_path"));
        let document: toml::Table = fs::read_to_string(&manifest).unwrap().parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (used, value) in document
                .get(section)
                .and_then(toml::Value::as_table)
                .into_iter()
                .flatten()
            {
                let shared = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                if !shared {
                    faults.push(format!(
                        "{name}: {used} belongs into [workspace.dependencies]"
                    ));
                }
            }
        }
        for dependency in list(&package, "dependencies") {
            if dependency["source"]
                .as_str()
                .is_some_and(|source| source.starts_with("git"))
            {
                faults.push(format!(
                    "{name}: {} comes from git",
                    text(dependency, "name")
                ));
            }
        }
    }
    assert_none(&faults);
}

/// Whether an SPDX expression without nested parentheses can be met by [`LICENCES`].
fn may_ship(expression: &str) -> bool {
    expression.split(" AND ").all(|part| {
        let part = part.trim_matches(['(', ')']).replace('/', " OR ");
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn every_dependency_comes_from_crates_io_under_a_licence_that_we_may_ship() {
    assert!(may_ship("MIT/Apache-2.0") && may_ship("(GPL-3.0 OR MIT) AND Unicode-3.0"));
    assert!(!may_ship("GPL-3.0") && !may_ship("MIT AND GPL-3.0"));
    let everything = metadata(&[]);
    let all: Vec<&Value> = list(&everything, "packages").collect();
    assert!(all.len() > 200, "all are listed: {}", all.len());
    let mut faults = Vec::new();
    for package in all {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        if !may_ship(licence) {
            faults.push(format!(
                "{name}: the licence `{licence}` is not in the list"
            ));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| source != CRATES_IO) {
            faults.push(format!("{name}: comes from {source:?}"));
        }
    }
    assert_none(&faults);
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn every_crate_that_needs_no_unsafe_forbids_it() {
    let mut faults = Vec::new();
    for (name, package) in packages()
        .into_iter()
        .filter(|(name, _)| !SHIMS.contains(&name.as_str()))
    {
        for target in list(&package, "targets").filter(|target| is_library_or_binary(target)) {
            let path = text(target, "src_path");
            if !fs::read_to_string(path)
                .unwrap()
                .contains("#![forbid(unsafe_code)]")
            {
                faults.push(format!(
                    "{name}: {path} does not say #![forbid(unsafe_code)]"
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn top_level_is_fixed() {
    let extra: Vec<String> = files()
        .iter()
        .filter_map(|path| path.components().next())
        .map(|top| top.as_os_str().to_string_lossy().into_owned())
        .filter(|top| !top.starts_with('.') && !TOP.contains(&top.as_str()))
        .collect();
    assert_none(&extra);
}

#[test]
fn files_stay_short_and_modules_have_one_entry() {
    let mut faults = Vec::new();
    for path in files().iter().filter(|path| is_rust(path)) {
        let lines = read(path).lines().count();
        if lines > LINES_MAX {
            faults.push(format!(
                "{}: {lines} lines; split it by concept",
                path.display()
            ));
        }
        let folder = workspace().join(path.with_extension(""));
        let beside_its_folder = folder.join("mod.rs").exists()
            || fs::read_dir(&folder)
                .is_ok_and(|mut entries| entries.any(|entry| is_rust(&entry.unwrap().path())));
        let root = ["main", "lib"]
            .iter()
            .any(|root| path.file_stem().is_some_and(|stem| stem == *root));
        if beside_its_folder && !root {
            faults.push(format!(
                "{} stands beside a folder of its name: use mod.rs",
                path.display()
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_left_undone_or_tied_to_a_machine() {
    // Put together here, so that this file does not find itself.
    let stubs = [
        ("todo", "!"),
        ("unimplemented", "!"),
        ("#[", "ignore"),
        ("assert!(", "true"),
        ("FIX", "ME"),
        ("XX", "X:"),
    ]
    .map(|(start, end)| (format!("{start}{end}"), "a stub"));
    let hosts = ["index", "static", "files", "registry", "deb"]
        .into_iter()
        .flat_map(|host| {
            [".crates.io/", ".pypi.org/", ".npmjs.org/", ".debian.org/"]
                .map(|site| format!("{host}{site}"))
        })
        .map(|host| (host, "a registry's host"));
    let here = [(
        format!("{}/", workspace().display()),
        "a path of this machine",
    )];
    let words: Vec<(String, &str)> = stubs.into_iter().chain(hosts).chain(here).collect();

    let mut faults = Vec::new();
    for path in files()
        .iter()
        .filter(|path| !path.ends_with("Cargo.lock") && !path.ends_with("it/tidy.rs"))
    {
        for (number, line) in read(path).lines().enumerate() {
            let at = || format!("{}:{}", path.display(), number + 1);
            for (word, what) in words
                .iter()
                .filter(|(word, _)| line.contains(word.as_str()))
            {
                faults.push(format!("{}: \"{word}\": {what}", at()));
            }
            if is_rust(path) && line.contains("TODO") && !line.contains("TODO(#") {
                faults.push(format!("{}: a TODO carries the number of its issue", at()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn documents_that_are_named_exist() {
    let mut faults = BTreeSet::new();
    for path in files() {
        let content = read(&path);
        for (start, _) in content.match_indices("docs/") {
            let longer = content[..start]
                .ends_with(|before: char| before.is_alphanumeric() || "./-_".contains(before));
            let name = content[start..]
                .split(|after: char| !(after.is_alphanumeric() || "/._-".contains(after)))
                .next();
            let name = name.unwrap_or_default().trim_end_matches('.');
            if !longer && name.contains(".md") && !workspace().join(name).exists() {
                faults.insert(format!("{}: there is no {name}", path.display()));
            }
        }
    }
    assert_none(&faults.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_decoder_is_fuzzed_and_tested() {
    let functions: BTreeSet<String> = files()
        .iter()
        .filter(|path| is_rust(path))
        .flat_map(|path| {
            let content = read(path);
            let names = content
                .split("pub fn fuzz_")
                .skip(1)
                .filter_map(|rest| rest.split('(').next());
            names.map(|name| format!("fuzz_{name}")).collect::<Vec<_>>()
        })
        .filter(|name| {
            name.chars()
                .all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter))
        })
        .collect();
    assert!(functions.contains("fuzz_pack"), "the decoders were found");
    let calls = |folder: &str, name: &str| {
        let call = format!("{name}(");
        files()
            .iter()
            .any(|path| path.to_string_lossy().contains(folder) && read(path).contains(&call))
    };
    let mut faults = Vec::new();
    for name in functions {
        if !calls("tests/fuzz/fuzz_targets/", &name) {
            faults.push(format!("{name} has no target in tests/fuzz"));
        }
        if !calls("tests/suite/", &name) {
            faults.push(format!(
                "{name} is not run by an ordinary test of its crate"
            ));
        }
    }
    assert_none(&faults);
}

/// What cargo tells of the workspace and all that it depends on.
fn metadata(arguments: &[&str]) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(workspace())
        .args(["metadata", "--format-version=1", "--locked"]);
    let told = run(cargo.args(arguments));
    serde_json::from_str(&told).expect("cargo prints JSON")
}

/// The workspace's packages by name, as cargo describes them.
fn packages() -> BTreeMap<String, Value> {
    let metadata = metadata(&["--no-deps"]);
    let packages: BTreeMap<_, _> = list(&metadata, "packages")
        .map(|package| (text(package, "name").to_owned(), package.clone()))
        .collect();
    assert!(
        packages.contains_key("repo") && packages.contains_key("holdfast"),
        "the workspace is here"
    );
    packages
}

fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    list(package, "dependencies").map(|dependency| text(dependency, "name"))
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name]
        .as_array()
        .expect("cargo's documents have this list")
        .iter()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .expect("cargo's documents have this text")
}

fn is_library_or_binary(target: &Value) -> bool {
    list(target, "kind").any(|kind| ["lib", "bin", "cdylib"].iter().any(|wanted| kind == wanted))
}

/// Every file of the tree that git keeps or would keep.
fn files() -> Vec<PathBuf> {
    let listed = run(Command::new("git").current_dir(workspace()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]));
    let files: Vec<PathBuf> = listed
        .lines()
        .map(PathBuf::from)
        .filter(|path| workspace().join(path).is_file())
        .collect();
    assert!(
        files.iter().any(|path| path.ends_with("it/tidy.rs")),
        "git lists the tree"
    );
    files
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// The text of a file; nothing for one that is not text.
fn read(path: &Path) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_default()
}

fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
