use export::{CreateMode, Durability, SetAttributes};
use serde_json::{Value, json};

use crate::support::{Daemon, content, mount, need, open_nbd, read_nbd, url};

fn start(daemon: &Daemon, arguments: &[&str]) -> Value {
    let mut all = vec!["recover", "start"];
    all.extend(arguments);
    daemon.json(&all)
}

#[test]
fn a_session_is_the_same_after_a_restart() {
    let mut daemon = Daemon::start();
    let mut expected = content(1);
    daemon.back_up("web01", &expected);
    let session = start(&daemon, &["web01@latest", "--name", "lab"]);
    open_nbd(url(&session, "nbd"))
        .write_at(4096, &[9; 8192], Durability::Stable)
        .unwrap();
    expected[4096..4096 + 8192].fill(9);
    let nfs = daemon.gateway().addresses().nfs;
    let mut client = mount(nfs, "/lab");
    let root = client.root();
    let plain = SetAttributes::default();
    let file = client
        .create(&root, b"guest.vmx", CreateMode::Guarded, &plain)
        .unwrap()
        .handle;
    client.write(&file, 0, b"memory", true).unwrap();
    let disk = client.find("disk-0.raw").unwrap().handle;
    daemon.restart();
    let after = daemon.json(&["recover", "show", "lab"]);
    assert_eq!(
        (&after["state"], &after["point"]),
        (&json!("active"), &json!("web01@1"))
    );
    assert!(read_nbd(url(&after, "nbd")) == expected);
    let mut client = nfs::client::Client::attach(
        daemon.gateway().addresses().nfs,
        root,
        &nfs::client::Identity::root(),
    )
    .unwrap();
    assert_eq!(
        client.read(&file, 0, 100).unwrap().data,
        b"memory",
        "the old handle holds"
    );
    assert_eq!(client.read(&disk, 4096, 100).unwrap().data, [9; 100]);
    assert_eq!(daemon.json(&["point", "list"])[0]["point"], "web01@1");
    let out = daemon.path("out");
    daemon.json(&["restore", "image", "web01@1", "--to", out.to_str().unwrap()]);
    assert!(
        std::fs::read(out).unwrap() == content(1),
        "the restore point is untouched"
    );
}

#[test]
fn a_stopped_session_keeps_what_was_written_and_a_discarded_one_does_not() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    let session = start(&daemon, &["web01@1", "--name", "lab", "--protocol", "nbd"]);
    assert!(session["disks"][0]["urls"].get("nfs").is_none());
    open_nbd(url(&session, "nbd"))
        .write_at(0, &[3; 512], Durability::Unstable)
        .unwrap();
    let again = start(&daemon, &["web01@1", "--name", "lab"]);
    assert_eq!(
        again["created"], session["created"],
        "the same name gives the same session"
    );
    let other = daemon.cli(&[
        "recover",
        "start",
        "web01@1",
        "--name",
        "lab",
        "--read-only",
    ]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("another mode"));
    let busy = daemon.cli(&["point", "expire", "web01@1"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("in use by recovery session lab"));
    let stopped = daemon.json(&["recover", "stop", "lab"]);
    assert_eq!(
        (&stopped["state"], &stopped["attach"]),
        (&json!("stopped"), &json!([]))
    );
    let session = start(&daemon, &["web01@1", "--name", "lab"]);
    assert_eq!(read_nbd(url(&session, "nbd"))[..512], [3; 512]);
    daemon.json(&["recover", "discard", "lab"]);
    assert_eq!(daemon.json(&["recover", "list"]), json!([]));
    let session = start(&daemon, &["web01@1", "--name", "lab"]);
    assert!(read_nbd(url(&session, "nbd")) == content(1));
    daemon.json(&["recover", "discard", "lab"]);
    daemon.json(&["point", "expire", "web01@1"]);
    assert_eq!(daemon.json(&["point", "list"]), json!([]));
}

#[test]
fn sealing_makes_the_next_point_and_ends_the_session() {
    let daemon = Daemon::start();
    let mut expected = content(1);
    daemon.back_up("web01", &expected);
    let session = start(&daemon, &["web01@latest"]);
    let name = session["session"].as_str().unwrap();
    let mut client = open_nbd(url(&session, "nbd"));
    client
        .write_at(700 * 512, &[42; 5 * 512], Durability::Unstable)
        .unwrap();
    client.flush().unwrap();
    expected[700 * 512..705 * 512].fill(42);
    let sealed = daemon.json(&["recover", "seal", name]);
    assert_eq!(
        (&sealed["point"]["point"], &sealed["point"]["kind"]),
        (&json!("web01@2"), &json!("sealed"))
    );
    assert!(
        client.write_at(0, &[1; 512], Durability::Stable).is_err(),
        "its writers are gone"
    );
    assert_eq!(daemon.json(&["recover", "list"]), json!([]));
    let out = daemon.path("out");
    daemon.json(&["restore", "image", "web01@2", "--to", out.to_str().unwrap()]);
    assert!(std::fs::read(out).unwrap() == expected);
    let session = start(&daemon, &["web01@2", "--read-only"]);
    let refused = daemon.cli(&["recover", "seal", session["session"].as_str().unwrap()]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("nothing to seal"), "{error}");
}

#[test]
fn some_disks_of_many_are_served_and_all_are_sealed() {
    let daemon = Daemon::start();
    let (first, second) = (daemon.path("a"), daemon.path("b"));
    std::fs::write(&first, content(1)).unwrap();
    std::fs::write(&second, content(2)).unwrap();
    daemon.json(&[
        "backup",
        "image",
        "vm",
        first.to_str().unwrap(),
        second.to_str().unwrap(),
    ]);
    let session = start(&daemon, &["vm@1", "--disk", "1", "--name", "lab"]);
    assert_eq!(session["disks"].as_array().unwrap().len(), 1);
    open_nbd(url(&session, "nbd"))
        .write_at(0, &[7; 512], Durability::Stable)
        .unwrap();
    let sealed = daemon.json(&["recover", "seal", "lab"]);
    assert_eq!(sealed["point"]["disks"].as_array().unwrap().len(), 2);
    for (disk, mut expected) in [("0", content(1)), ("1", content(2))] {
        if disk == "1" {
            expected[..512].fill(7);
        }
        let out = daemon.path(&format!("out-{disk}"));
        daemon.json(&[
            "restore",
            "image",
            "vm@latest",
            "--disk",
            disk,
            "--to",
            out.to_str().unwrap(),
        ]);
        assert!(std::fs::read(out).unwrap() == expected, "disk {disk}");
    }
}

#[test]
fn nfs_shows_all_sessions_and_a_peer_outside_the_list_sees_none() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    start(&daemon, &["web01@1", "--name", "one"]);
    let private = start(
        &daemon,
        &["web01@1", "--name", "two", "--allow", "192.0.2.0/24"],
    );
    let addresses = daemon.gateway().addresses().clone();
    let mut client = mount(addresses.nfs, "/");
    let found = client.find("one/disk-0.raw").unwrap();
    let read = client.read(&found.handle, 300_000, 1000).unwrap();
    assert_eq!(read.data, content(1)[300_000..301_000]);
    let paths = nfs::client::exported_paths(addresses.nfs).unwrap();
    assert_eq!(paths, ["/one".to_owned(), "/".to_owned()]);
    let root = nfs::client::Identity::root();
    assert!(nfs::client::Client::mount(addresses.nfs, addresses.nfs, "/two", &root).is_err());
    let (address, name) = nbd::client::Address::parse_uri(url(&private, "nbd")).unwrap();
    let options = nbd::client::ConnectOptions::default();
    assert!(nbd::client::Client::connect(&address, &name, &options).is_err());
    let listed = nbd::client::Client::list(&address, &options).unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|export| export.name.as_str())
            .collect::<Vec<_>>(),
        ["one/disk-0"]
    );
}

#[test]
fn other_formats_are_restored_through_qemu() {
    if std::process::Command::new("qemu-img")
        .arg("--version")
        .output()
        .is_err()
    {
        assert!(std::env::var_os("CI").is_none(), "CI has qemu-utils");
        return;
    }
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(5));
    for format in ["qcow2", "vmdk", "vhdx"] {
        let out = daemon.path(&format!("out.{format}"));
        daemon.json(&[
            "restore",
            "image",
            "web01@1",
            "--format",
            format,
            "--to",
            out.to_str().unwrap(),
        ]);
        daemon.json(&[
            "backup",
            "image",
            &format!("again-{format}"),
            out.to_str().unwrap(),
        ]);
        let raw = daemon.path(&format!("raw-{format}"));
        daemon.json(&[
            "restore",
            "image",
            &format!("again-{format}@1"),
            "--to",
            raw.to_str().unwrap(),
        ]);
        assert!(std::fs::read(raw).unwrap() == content(5), "{format}");
    }
    assert_eq!(
        daemon.json(&["recover", "list"]),
        json!([]),
        "no session is left behind"
    );
}

fn run(words: &[&str]) {
    let (tool, arguments) = words.split_first().unwrap();
    let output = std::process::Command::new(tool)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

#[test]
fn a_disk_is_a_file_of_every_format_and_all_are_the_same_disk() {
    if !need("qemu-img") || !need("qemu-io") {
        return;
    }
    let mut daemon = Daemon::start();
    let mut expected = content(6);
    daemon.back_up("web01", &expected);
    let every = "raw,qcow2,vmdk,vmdk-sparse,vhd,vhdx";
    let session = start(&daemon, &["web01@1", "--name", "lab", "--format", every]);
    let raw = url(&session, "nbd_unix").to_owned();
    let files = session["disks"][0]["formats"].as_array().unwrap().clone();
    assert_eq!(files.len(), 5, "{session}");
    let mut turn = 0;
    for file in files.iter().filter(|file| file["format"] != json!("vmdk")) {
        let format = match file["format"].as_str().unwrap() {
            "vmdk-sparse" => "vmdk",
            "vhd" => "vpc",
            other => other,
        };
        let address = file["nbd_unix"].as_str().unwrap();
        run(&[
            "qemu-img", "compare", "-f", format, "-F", "raw", address, &raw,
        ]);
        turn += 1;
        let command = format!("write -P {turn} {} 4096", turn * 8192);
        run(&[
            "qemu-io", "-f", format, "-c", &command, "-c", "flush", address,
        ]);
        let at = turn * 8192;
        expected[at..at + 4096].fill(u8::try_from(turn).unwrap());
        assert!(read_nbd(url(&session, "nbd")) == expected, "{format}");
    }
    assert_eq!(turn, 4);

    // Over NFS the same bytes, and the two files of ESXi.
    let nfs = daemon.gateway().addresses().nfs;
    let mut client = mount(nfs, "/lab");
    let flat = client.find("disk-0-flat.vmdk").unwrap().handle;
    assert_eq!(
        client.read(&flat, 8192, 4096).unwrap().data,
        expected[8192..12288]
    );
    let descriptor = client.find("disk-0.vmdk").unwrap().handle;
    let text = client.read(&descriptor, 0, 4096).unwrap().data;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(" VMFS \"disk-0-flat.vmdk\""), "{text}");
    let sparse = client.find("disk-0-sparse.vmdk").unwrap().handle;
    assert_eq!(client.read(&sparse, 0, 4).unwrap().data, b"KDMV"[..]);
    // A hypervisor gives the disk another content number; that stays.
    let changed = text.replacen("CID=", "CID=c", 1);
    client
        .write(&descriptor, 0, changed.as_bytes(), true)
        .unwrap();
    daemon.restart();
    let mut client = mount(daemon.gateway().addresses().nfs, "/lab");
    let descriptor = client.find("disk-0.vmdk").unwrap().handle;
    assert_eq!(
        client.read(&descriptor, 0, 4096).unwrap().data,
        changed.as_bytes()
    );
    let session = daemon.json(&["recover", "show", "lab"]);
    assert_eq!(session["disks"][0]["formats"].as_array().unwrap().len(), 5);
    assert!(read_nbd(url(&session, "nbd")) == expected);
    daemon.json(&["recover", "discard", "lab"]);
    let out = daemon.path("out");
    daemon.json(&["restore", "image", "web01@1", "--to", out.to_str().unwrap()]);
    assert!(
        std::fs::read(out).unwrap() == content(6),
        "the point is untouched"
    );
}
