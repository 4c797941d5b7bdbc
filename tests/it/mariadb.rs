//! A real MariaDB is backed up by its own command straight into the repository, whole and by what changed, and comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, need, need_root, run};

/// A server with a folder of data of its own.
struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    fn start(data: &Path) -> Self {
        let socket = data.with_extension("sock");
        let process = Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--skip-networking"])
            .args([
                "--innodb-buffer-pool-size=32M",
                "--innodb-log-file-size=16M",
            ])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, socket };
        let began = Instant::now();
        while server
            .command("mariadb")
            .arg("-e")
            .arg("select 1")
            .output()
            .is_ok_and(|done| !done.status.success())
        {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the server does not answer"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// A program of MariaDB that talks to this server.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["--no-defaults", "--user=root"]);
        command.arg(format!("--socket={}", self.socket.display()));
        command
    }

    fn sql(&self, text: &str) -> String {
        run(self
            .command("mariadb")
            .args(["--skip-column-names", "-e", text]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.command("mariadb").args(["-e", "shutdown"]).output();
        if !stopped.is_ok_and(|done| done.status.success()) {
            drop(self.process.kill());
        }
        drop(self.process.wait());
    }
}

/// `mariabackup` into `holdfast stream put`. `options` say what it is based on.
fn back_up(daemon: &Daemon, server: &Server, folder: &Path, name: &str, options: &[&str]) {
    let mut backup = server
        .command("mariabackup")
        .args(["--backup", "--stream=xbstream"])
        .arg(format!("--target-dir={}", folder.join("unused").display()))
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let kind = if options
        .iter()
        .any(|option| option.starts_with("--incremental"))
    {
        "incremental"
    } else {
        "full"
    };
    let written = backup.stdout.take().unwrap();
    let put = daemon
        .command()
        .args([
            "stream", "put", "shop-db", name, "--kind", kind, "--source", "mariadb",
        ])
        .stdin(written)
        .output()
        .unwrap();
    assert!(
        put.status.success(),
        "{}",
        String::from_utf8_lossy(&put.stderr)
    );
    assert!(backup.wait().unwrap().success());
}

/// `holdfast stream get` into `mbstream`, so that the files lie in a new folder.
fn unpack(daemon: &Daemon, name: &str, target: &Path) {
    fs::create_dir(target).unwrap();
    let mut get = daemon
        .command()
        .args(["stream", "get", "shop-db", name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let content = get.stdout.take().unwrap();
    let unpacked = Command::new("mbstream")
        .args(["-x", "-C"])
        .arg(target)
        .stdin(content)
        .status()
        .unwrap();
    assert!(unpacked.success() && get.wait().unwrap().success());
}

#[test]
fn a_mariadb_comes_back_from_a_full_and_an_incremental_stream() {
    if need("mariadbd").is_none() || need("mariabackup").is_none() || need_root().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let mut daemon = Daemon::start(home);
    let data = home.join("original");
    run(Command::new("mariadb-install-db")
        .args(["--no-defaults", "--user=root", "--skip-test-db"])
        .arg("--auth-root-authentication-method=normal")
        .arg(format!("--datadir={}", data.display())));
    let server = Server::start(&data);
    server.sql(
        "create database shop; use shop;
         create table sales (id int primary key auto_increment, what varchar(200));
         insert into sales (what) select md5(seq) from seq_1_to_20000",
    );
    let lsn = |number: u32| path(&format!("lsn-{number}"));
    back_up(
        &daemon,
        &server,
        home,
        "full",
        &[&format!("--extra-lsndir={}", lsn(0))],
    );
    server.sql(
        "use shop; insert into sales (what) select md5(seq + 7) from seq_1_to_5000;
         update sales set what = 'changed' where id % 100 = 0; delete from sales where id % 77 = 0",
    );
    let options = [
        format!("--incremental-basedir={}", lsn(0)),
        format!("--extra-lsndir={}", lsn(1)),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    back_up(&daemon, &server, home, "changes", &options);
    let expected = server.sql("checksum table shop.sales; select count(*) from shop.sales");
    drop(server);
    // Nothing but the repository is left of it.
    fs::remove_dir_all(&data).unwrap();
    daemon.kill();
    daemon.serve();
    for name in ["full", "changes"] {
        unpack(&daemon, name, &home.join(name));
    }
    let prepare = |options: &[String]| {
        let mut command = Command::new("mariabackup");
        command.args(["--no-defaults", "--prepare"]);
        run(command
            .arg(format!("--target-dir={}", path("full")))
            .args(options));
    };
    prepare(&[]);
    prepare(&[format!("--incremental-dir={}", path("changes"))]);
    let server = Server::start(&home.join("full"));
    let found = server.sql("checksum table shop.sales; select count(*) from shop.sales");
    assert_eq!(found, expected);
    drop(server);
    daemon.kill();
}
