//! Files of restore points over HTTP, by a client that is not ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::files::{assert_same_trees, backed_up, paths};
use crate::support::{Daemon, need};

/// What came back.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn get(daemon: &Daemon, path: &str, more: &[&str]) -> Got {
    let (head, body) = (daemon.path("head"), daemon.path("body"));
    drop(fs::remove_file(&body));
    let output = Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(&daemon.gateway().addresses().control_socket)
        .arg("-D")
        .arg(&head)
        .arg("-o")
        .arg(&body)
        .args(more)
        .arg(format!("http://daemon/v1/points/web01@1/files{path}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}: {output:?}");
    let head = fs::read_to_string(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Got {
        status: status.parse().unwrap(),
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: fs::read(body).unwrap_or_default(),
    }
}

#[test]
fn folders_are_listed_part_by_part_and_searched() {
    let Some((daemon, _)) = backed_up() else {
        return;
    };
    let top = get(&daemon, "", &[]).json();
    assert_eq!(paths(&top["files"]), ["disk-0"]);
    let mut names = Vec::new();
    let mut after = 0;
    loop {
        let part = get(
            &daemon,
            &format!("?path=disk-0/p1/many&limit=700&after={after}"),
            &[],
        );
        let part = part.json();
        names.extend(paths(&part["files"]).into_iter().map(str::to_owned));
        match part["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(names.len(), 2500);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 2500, "each once");

    let found = get(&daemon, "/search?name=GR%C3%9C%C3%9FE", &[]).json();
    assert_eq!(
        paths(&found["files"]),
        ["disk-0/p1/etc/deep/deeper/grüße.txt"]
    );
    assert_eq!(found["cut"], false);
    let found = get(
        &daemon,
        "/search?path=disk-0/p1/many&name=file&limit=10",
        &[],
    )
    .json();
    assert_eq!(
        (paths(&found["files"]).len(), &found["cut"]),
        (10, &Value::Bool(true))
    );
}

#[test]
fn a_file_comes_in_whole_in_parts_and_goes_on() {
    let Some((daemon, tree)) = backed_up() else {
        return;
    };
    let wanted = fs::read(tree.join("etc/big")).unwrap();
    let path = "/content?path=disk-0/p1/etc/big";
    let whole = get(&daemon, path, &[]);
    assert!(whole.status == 200 && whole.body == wanted);
    assert_eq!(whole.headers["content-length"], wanted.len().to_string());
    assert_eq!(
        whole.headers["content-disposition"],
        "attachment; filename*=UTF-8''big"
    );
    let part = get(&daemon, path, &["-r", "1000000-2000000"]);
    assert!(part.status == 206 && part.body == wanted[1_000_000..=2_000_000]);
    let range = format!("bytes 1000000-2000000/{}", wanted.len());
    assert_eq!(part.headers["content-range"], range);
    let tag = format!("If-Range: {}", whole.headers["etag"]);
    let end = get(&daemon, path, &["-r", "-7", "-H", &tag]);
    assert!(end.status == 206 && end.body == wanted[wanted.len() - 7..]);
    let other = get(&daemon, path, &["-r", "-7", "-H", "If-Range: \"other\""]);
    assert!(other.status == 200 && other.body == wanted);
    let beyond = get(&daemon, path, &["-r", "9999999999-"]);
    assert_eq!(beyond.status, 416);
    assert_eq!(
        beyond.headers["content-range"],
        format!("bytes */{}", wanted.len())
    );

    for (path, status, word) in [
        ("/content?path=disk-0/p1/nothing", 404, "has no nothing"),
        (
            "/content?path=disk-0/p2/etc",
            404,
            "The files of p2 are not shown",
        ),
        ("/content?path=disk-0/p1/../p1", 400, "without it"),
        ("/content?path=disk-0/p1/etc", 400, "get it as an archive"),
        ("/content?path=disk-0/p1/etc/link", 400, "it is a link"),
        ("/content?path=disk-0/p1/etc/big/x", 404, "is no folder"),
        ("?path=disk-0/p1/etc/big", 400, "no folder"),
        ("/archive?path=disk-0/p1/etc/big", 400, "no folder"),
        (
            "/archive?path=disk-0/p1/etc&format=rar",
            400,
            "`zip` or `tar`",
        ),
        ("/search?path=disk-0", 400, "name"),
    ] {
        let got = get(&daemon, path, &[]);
        assert_eq!(got.status, status, "{path}");
        assert!(got.detail().contains(word), "{path}: {}", got.detail());
    }
}

#[test]
fn a_folder_comes_as_an_archive() {
    if !need("python3") {
        return;
    }
    let Some((daemon, tree)) = backed_up() else {
        return;
    };
    let unpack = |name: &str, command: &mut Command| {
        let folder = daemon.path(name);
        fs::create_dir(&folder).unwrap();
        let output = command.current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        folder
    };
    let archive = daemon.path("body");
    let got = get(&daemon, "/archive?path=disk-0/p1&format=tar", &[]);
    assert_eq!(
        got.headers["content-disposition"],
        "attachment; filename*=UTF-8''p1.tar"
    );
    let folder = unpack(
        "tar",
        Command::new("tar")
            .args(["--same-permissions", "-xf"])
            .arg(&archive),
    );
    assert_same_trees(&tree, &folder);

    let got = get(&daemon, "/archive?path=disk-0/p1", &[]);
    assert_eq!(got.headers["content-type"], "application/zip");
    assert!(
        got.body.len() < 5 << 20,
        "holes and zeroes are small: {}",
        got.body.len()
    );
    let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; z.extractall()";
    let folder = unpack(
        "zip",
        Command::new("python3").args(["-c", script]).arg(&archive),
    );
    let same =
        |name: &str| fs::read(folder.join(name)).unwrap() == fs::read(tree.join(name)).unwrap();
    for name in [
        "etc/hostname",
        "etc/big",
        "etc/sparse",
        "etc/deep/deeper/grüße.txt",
        "many/file-2499",
    ] {
        assert!(same(name), "{name}");
    }
    assert_eq!(fs::read_dir(folder.join("many")).unwrap().count(), 2500);
    // The same by the command line.
    let out = daemon.path("copied.zip");
    daemon.json(&[
        "files",
        "get",
        "web01@1",
        "disk-0/p1/etc",
        "--to",
        out.to_str().unwrap(),
    ]);
    let folder = unpack(
        "again",
        Command::new("python3").args(["-c", script]).arg(&out),
    );
    assert!(fs::read(folder.join("big")).unwrap() == fs::read(tree.join("etc/big")).unwrap());
}

#[test]
fn files_are_for_those_who_may_restore() {
    let Some((daemon, _)) = backed_up() else {
        return;
    };
    let token = |role: &str| {
        let made = daemon.json(&["token", "add", role, "--role", role]);
        made["token"].as_str().unwrap().to_owned()
    };
    for (role, status) in [("admin", 200), ("backup", 403), ("read-only", 403)] {
        let token = token(role);
        for path in [
            "",
            "/search?name=big",
            "/content?path=disk-0/p1/etc/big",
            "/archive?path=disk-0/p1/etc",
        ] {
            let path = format!("/v1/points/web01@1/files{path}");
            assert_eq!(
                daemon.remote_call(&token, "GET", &path),
                status,
                "{role} {path}"
            );
        }
    }
    // Whoever looks into a point does not keep it from being expired.
    daemon.json(&["point", "expire", "web01@1"]);
    let gone = get(&daemon, "", &[]);
    assert_eq!(gone.status, 404, "{}", gone.detail());
    assert!(Path::new(&daemon.state()).exists());
}
