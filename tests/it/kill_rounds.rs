//! A daemon under a mixed load is killed at random moments, again and again. After each start by itself all that was
//! answered is there, and nothing in part.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use export::Durability;
use nbd::client::{Address, Client, ConnectOptions};
use serde_json::{Value, json};
use support::{Daemon, Noise, client, scratch};

/// Bytes of each disk.
const BYTES: usize = 4 << 20;
/// What is written to a session at once is a number of these.
const BLOCK: usize = 4096;
const ROUNDS: u64 = 12;
/// No further round is begun after so long.
const ENOUGH: Duration = Duration::from_secs(75);

#[test]
fn a_daemon_that_is_killed_under_load_keeps_what_it_answered() {
    let seed = match std::env::var("HOLDFAST_KILL_SEED") {
        Ok(text) => text.parse().expect("HOLDFAST_KILL_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    println!("HOLDFAST_KILL_SEED={seed}");
    let folder = scratch();
    let mut daemon = Daemon::start(folder.path());
    let mut known = Known::begin(&daemon, folder.path());
    let mut chance = Noise::new(seed);
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < ROUNDS && started.elapsed() < ENOUGH {
        let load = known.load(&daemon, seed + rounds);
        let delay = Duration::from_millis(50 + chance.below(1_500));
        let killed = AtomicBool::new(false);
        let done = thread::scope(|scope| {
            let workers = load.start(scope, &killed);
            thread::sleep(delay);
            killed.store(true, Ordering::SeqCst);
            daemon.kill();
            workers.join()
        });
        daemon.serve();
        println!("round {rounds}: killed after {delay:?}: {}", done.summary());
        known.learn(&daemon, done);
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds} rounds only");
    known.check_end(&daemon);
    daemon.kill();
}

/// What was answered.
struct Known {
    folder: PathBuf,
    /// Content of points by name.
    points: BTreeMap<String, Vec<u8>>,
    expired: BTreeSet<String>,
    /// What the session that stays holds.
    session: Vec<u8>,
    session_url: String,
}

/// What a round does beside each other.
struct Load {
    state: PathBuf,
    folder: PathBuf,
    seed: u64,
    session: Vec<u8>,
    session_url: String,
    /// Points that may be expired.
    expirable: Vec<String>,
    /// What sessions that are sealed lie over.
    sealed_from: Vec<u8>,
}

/// What a round did until the daemon was killed.
#[derive(Default)]
struct Done {
    points: BTreeMap<String, Vec<u8>>,
    /// By workload: the backup or seal that was not answered.
    unanswered: Vec<(&'static str, Vec<u8>)>,
    expired: BTreeSet<String>,
    expiring: Option<String>,
    session: Vec<u8>,
    /// The last write to the session, if it was not answered.
    writing: Option<(usize, Vec<u8>)>,
    flushes: u64,
    collections: u64,
    verifications: u64,
}

impl Known {
    fn begin(daemon: &Daemon, folder: &Path) -> Self {
        let mut points = BTreeMap::new();
        for (number, workload) in ["web", "db", "mail"].into_iter().enumerate() {
            let content = content(number as u64);
            let disk = folder.join(format!("{workload}.raw"));
            fs::write(&disk, &content).unwrap();
            points.insert(daemon.back_up(workload, &disk), content);
        }
        let view = daemon.cli(["recover", "start", "web@1", "--name", "stays"]);
        Self {
            folder: folder.to_owned(),
            session: points["web@1"].clone(),
            session_url: url(&view),
            points,
            expired: BTreeSet::new(),
        }
    }

    fn load(&self, daemon: &Daemon, seed: u64) -> Load {
        let newest = |workload: &str| {
            let names = self.points.keys();
            let of_it = names.filter(|name| name.starts_with(&format!("{workload}@")));
            of_it.max_by_key(|name| sequence(name)).cloned()
        };
        let kept: Vec<String> = ["web", "db", "mail"]
            .into_iter()
            .filter_map(newest)
            .collect();
        let names = self.points.keys();
        let expirable = names.filter(|name| !kept.contains(name) && *name != "web@1");
        Load {
            state: daemon.state(),
            folder: self.folder.clone(),
            seed,
            session: self.session.clone(),
            session_url: self.session_url.clone(),
            expirable: expirable.cloned().collect(),
            sealed_from: newest("mail")
                .and_then(|name| self.points.get(&name).cloned())
                .expect("the workload always has a point"),
        }
    }

    /// Compares what is there with what was answered.
    fn learn(&mut self, daemon: &Daemon, done: Done) {
        let fresh: Vec<String> = done.points.keys().cloned().collect();
        self.points.extend(done.points);
        for name in &done.expired {
            self.points.remove(name);
        }
        self.expired.extend(done.expired);
        let shown = shown_points(daemon);
        if let Some(name) = done.expiring.filter(|name| !shown.contains(name)) {
            self.points.remove(&name);
            self.expired.insert(name);
        }
        for name in self.points.keys() {
            assert!(shown.contains(name), "{name} was answered and is gone");
        }
        let mut unanswered = done.unanswered;
        let mut found_seal = false;
        for name in &shown {
            assert!(
                !self.expired.contains(name),
                "{name} was expired and is back"
            );
            if self.points.contains_key(name) {
                continue;
            }
            let there = self.restore(daemon, name);
            let at = unanswered.iter().position(|(workload, content)| {
                name.starts_with(&format!("{workload}@")) && *content == there
            });
            let at = at.unwrap_or_else(|| panic!("{name} is like nothing that was under way"));
            found_seal |= unanswered[at].0 == "mail";
            self.points.insert(name.clone(), unanswered.remove(at).1);
        }
        for name in fresh.iter().filter(|name| self.points.contains_key(*name)) {
            assert!(
                self.restore(daemon, name) == self.points[name],
                "{name} differs"
            );
        }
        self.learn_session(daemon, done.session, done.writing);
        // A seal that was cut off has made its point, or its session is still there.
        let sessions = daemon.cli(["recover", "list"]);
        let there = |name: &str| {
            let sessions = sessions.as_array().unwrap();
            sessions
                .iter()
                .any(|session| session["session"] == json!(name))
        };
        let was_sealing = unanswered.iter().any(|(workload, _)| *workload == "mail");
        assert!(
            !was_sealing || found_seal || there("goes"),
            "a seal took its session away"
        );
        if there("goes") {
            daemon.cli(["recover", "discard", "goes"]);
        }
    }

    fn learn_session(&mut self, daemon: &Daemon, now: Vec<u8>, writing: Option<(usize, Vec<u8>)>) {
        self.session = now;
        let view = daemon.cli(["recover", "show", "stays"]);
        let mut found = vec![0; BYTES];
        let mut session = connect(&url(&view)).expect("the session is served again");
        session.read_at(0, &mut found).unwrap();
        let (start, written) = writing.unwrap_or_default();
        for at in (0..BYTES).step_by(BLOCK) {
            let there = &found[at..at + BLOCK];
            let may_be = at
                .checked_sub(start)
                .and_then(|offset| written.get(offset..offset + BLOCK));
            assert!(
                there == &self.session[at..at + BLOCK] || may_be == Some(there),
                "the session differs at {at}"
            );
        }
        self.session = found;
    }

    fn restore(&self, daemon: &Daemon, name: &str) -> Vec<u8> {
        let to = self.folder.join("back.raw");
        drop(fs::remove_file(&to));
        daemon.cli(["restore", "image", name, "--to", to.to_str().unwrap()]);
        fs::read(to).unwrap()
    }

    /// Everything that was kept is whole, and everything else can be cleared away.
    fn check_end(&self, daemon: &Daemon) {
        for (name, content) in &self.points {
            assert!(self.restore(daemon, name) == *content, "{name} differs");
        }
        daemon.cli(["recover", "discard", "stays"]);
        let done = daemon.cli(["collect", "--now", "--wait"]);
        assert_eq!(done["state"], json!("done"), "{done}");
        let audit = daemon.cli(["collect", "--audit", "--wait"]);
        assert_eq!(audit["sound"], json!(true), "{audit}");
        let verified = daemon.cli(["verify"]);
        assert_eq!(verified["sound"], json!(true), "{verified}");
        let findings = daemon.cli(["doctor"]);
        let problems: Vec<&Value> = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["level"] == json!("problem"))
            .collect();
        assert!(problems.is_empty(), "{problems:?}");
        let stats = daemon.cli(["stats"]);
        let (stored, needed) = (
            stats["stored_bytes"].as_u64().unwrap(),
            stats["space"]["alive_bytes"].as_u64().unwrap(),
        );
        assert!(stored < needed * 2 + (1 << 20), "{stats}");
        assert_eq!(stats["overlays"], json!(0), "{stats}");
        let left = files_below(&daemon.repository());
        let left: Vec<_> = left
            .iter()
            .filter(|path| path.contains("/.tmp-") || path.contains("/overlays/"))
            .collect();
        assert!(left.is_empty(), "nobody clears {left:?} away");
    }
}

/// The threads of a round.
struct Workers<'scope> {
    threads: Vec<thread::ScopedJoinHandle<'scope, Done>>,
}

impl Workers<'_> {
    fn join(self) -> Done {
        let mut all = Done::default();
        for thread in self.threads {
            let done = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.take(done);
        }
        all
    }
}

impl Load {
    fn start<'scope, 'env>(
        &'env self,
        scope: &'scope thread::Scope<'scope, 'env>,
        killed: &'env AtomicBool,
    ) -> Workers<'scope> {
        let backups = ["web", "db"].map(|workload| scope.spawn(|| self.back_up(workload, killed)));
        let mut threads = Vec::from(backups);
        threads.push(scope.spawn(|| self.write(killed)));
        threads.push(scope.spawn(|| self.tidy_up(killed)));
        Workers { threads }
    }

    /// Runs a verb; `None` if the daemon was killed meanwhile.
    fn cli(&self, killed: &AtomicBool, arguments: &[&str]) -> Option<Value> {
        let mut command = client(&self.state);
        let output = command.args(arguments).arg("--json").output().unwrap();
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            return Some(serde_json::from_str(&text).expect("one JSON document"));
        }
        assert!(
            killed.load(Ordering::SeqCst),
            "{arguments:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        None
    }

    fn back_up(&self, workload: &'static str, killed: &AtomicBool) -> Done {
        let mut done = Done::default();
        let disk = self.folder.join(format!("{workload}.raw"));
        for number in 0.. {
            let content = content(self.seed * 1_000 + number);
            fs::write(&disk, &content).unwrap();
            let arguments = ["backup", "image", workload, disk.to_str().unwrap()];
            match self.cli(killed, &arguments) {
                Some(view) => done.points.insert(point_name(&view), content),
                None => {
                    done.unanswered.push((workload, content));
                    break;
                }
            };
        }
        done
    }

    /// Writes to the session that stays, and flushes now and then.
    fn write(&self, killed: &AtomicBool) -> Done {
        let mut done = Done {
            session: self.session.clone(),
            ..Done::default()
        };
        let mut noise = Noise::new(self.seed);
        let mut session = match connect(&self.session_url) {
            Ok(session) => session,
            // The round was over before this began.
            Err(_) if killed.load(Ordering::SeqCst) => return done,
            Err(error) => panic!("the session is not served: {error}"),
        };
        loop {
            let blocks = 1 + usize::try_from(noise.below(32)).unwrap();
            let places = (BYTES / BLOCK - blocks) as u64;
            let at = usize::try_from(noise.below(places)).unwrap() * BLOCK;
            let bytes = noise.bytes(blocks * BLOCK);
            if session
                .write_at(at as u64, &bytes, Durability::Unstable)
                .is_err()
            {
                done.writing = Some((at, bytes));
                break;
            }
            done.session[at..at + bytes.len()].copy_from_slice(&bytes);
            if noise.below(4) == 0 {
                if session.flush().is_err() {
                    break;
                }
                done.flushes += 1;
            }
        }
        assert!(killed.load(Ordering::SeqCst), "the session ended by itself");
        done
    }

    /// Expires, collects, verifies and seals until the daemon is gone.
    fn tidy_up(&self, killed: &AtomicBool) -> Done {
        let mut done = Done::default();
        let mut chance = Noise::new(self.seed ^ 1);
        let mut expirable = self.expirable.clone();
        let mut below = self.sealed_from.clone();
        loop {
            let goes_on = match chance.below(5) {
                0 | 1 => match expirable.pop() {
                    None => true,
                    Some(name) => {
                        let answer = self.cli(killed, &["point", "expire", &name]);
                        match answer.is_some() {
                            true => drop(done.expired.insert(name)),
                            false => done.expiring = Some(name),
                        }
                        answer.is_some()
                    }
                },
                2 => {
                    done.collections += 1;
                    self.cli(killed, &["collect", "--now", "--wait"]).is_some()
                }
                3 => {
                    done.verifications += 1;
                    let answer = self.cli(killed, &["verify"]);
                    let sound = answer
                        .as_ref()
                        .is_none_or(|view| view["sound"] == json!(true));
                    assert!(sound, "{answer:?}");
                    answer.is_some()
                }
                _ => self.seal(killed, &mut below, &mut chance, &mut done),
            };
            if !goes_on {
                return done;
            }
        }
    }

    /// Starts a session, writes to it and seals it.
    fn seal(
        &self,
        killed: &AtomicBool,
        below: &mut [u8],
        chance: &mut Noise,
        done: &mut Done,
    ) -> bool {
        let start = ["recover", "start", "mail@latest", "--name", "goes"];
        let Some(view) = self.cli(killed, &start) else {
            return false;
        };
        let at = usize::try_from(chance.below((BYTES / BLOCK) as u64)).unwrap() * BLOCK;
        let bytes = chance.bytes(BLOCK);
        let written = connect(&url(&view))
            .and_then(|mut session| session.write_at(at as u64, &bytes, Durability::Unstable));
        if written.is_err() {
            return false;
        }
        below[at..at + BLOCK].copy_from_slice(&bytes);
        match self.cli(killed, &["recover", "seal", "goes"]) {
            Some(view) => {
                done.points
                    .insert(point_name(&view["point"]), below.to_vec());
                true
            }
            None => {
                done.unanswered.push(("mail", below.to_vec()));
                false
            }
        }
    }
}

impl Done {
    fn take(&mut self, other: Self) {
        self.points.extend(other.points);
        self.unanswered.extend(other.unanswered);
        self.expired.extend(other.expired);
        self.expiring = self.expiring.take().or(other.expiring);
        if !other.session.is_empty() {
            self.session = other.session;
            self.writing = other.writing;
        }
        self.flushes += other.flushes;
        self.collections += other.collections;
        self.verifications += other.verifications;
    }

    fn summary(&self) -> String {
        format!(
            "{} points made, {} expired, {} flushes, {} collections and {} verifications begun, not answered: {}{}{}",
            self.points.len(),
            self.expired.len(),
            self.flushes,
            self.collections,
            self.verifications,
            self.unanswered
                .iter()
                .map(|(workload, _)| format!("{workload} "))
                .collect::<String>(),
            if self.expiring.is_some() {
                "expiry "
            } else {
                ""
            },
            if self.writing.is_some() { "write" } else { "" },
        )
    }
}

fn connect(uri: &str) -> Result<Client, nbd::client::ClientError> {
    let (address, name) = Address::parse_uri(uri).expect("the daemon prints URIs");
    let options = ConnectOptions {
        timeout: Some(Duration::from_secs(60)),
        ..ConnectOptions::default()
    };
    Client::connect(&address, &name, &options)
}

fn url(view: &Value) -> String {
    let url = view["disks"][0]["urls"]["nbd_unix"].as_str();
    url.unwrap_or_else(|| panic!("no address in {view}"))
        .to_owned()
}

fn point_name(view: &Value) -> String {
    let name = view["point"].as_str();
    name.unwrap_or_else(|| panic!("no point in {view}"))
        .to_owned()
}

fn sequence(name: &str) -> u64 {
    let (_, sequence) = name.split_once('@').unwrap();
    sequence.parse().unwrap()
}

fn shown_points(daemon: &Daemon) -> BTreeSet<String> {
    let list = daemon.cli(["point", "list"]);
    list.as_array().unwrap().iter().map(point_name).collect()
}

/// Half of it is like no other disk, half as in some others.
fn content(seed: u64) -> Vec<u8> {
    let mut content = Noise::new(seed).bytes(BYTES / 2);
    content.extend(Noise::new(u64::MAX - seed / 3).bytes(BYTES / 2));
    content
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        }
        files.push(path.to_str().unwrap().to_owned());
    }
    files
}
