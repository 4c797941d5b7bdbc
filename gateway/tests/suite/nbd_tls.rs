//! NBD over TLS with other projects' clients.

use std::path::Path;
use std::process::{Command, Output};

use holdfast::config::{Config, NbdTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::support::{Daemon, content, need, read_nbd, url};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, in PEM.
fn issue(authority: &Authority, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A folder as libnbd and QEMU want it, with what a client trusts.
fn client_folder(daemon: &Daemon, name: &str, trusted: &str) -> String {
    let folder = daemon.path(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), trusted).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn is_refused(output: &Output) -> bool {
    !output.status.success()
}

#[test]
fn the_daemons_own_certificate_protects_nbd() {
    if !need("nbdinfo") || !need("nbdcopy") || !need("qemu-img") {
        return;
    }
    let daemon = Daemon::start_with(|config| config.nbd.tls = NbdTls::Require);
    let disk = content(5);
    daemon.back_up("web01", &disk);
    let session = daemon.json(&["recover", "start", "web01@1", "--name", "lab"]);
    let nbds = url(&session, "nbds");
    assert!(nbds.starts_with("nbds://127.0.0.1:"), "{nbds}");
    assert!(session["disks"][0]["urls"]["nbd"].is_null());

    let trusted = std::fs::read_to_string(daemon.state().join("certificate.pem")).unwrap();
    let folder = client_folder(&daemon, "trusting", &trusted);
    let uri = format!("{nbds}?tls-certificates={folder}");
    let info = run("nbdinfo", &["--json", &uri]);
    let text = String::from_utf8_lossy(&info.stdout);
    assert!(text.contains("\"TLS\": true"), "{info:?}");
    let out = daemon.path("out.raw");
    let copied = run("nbdcopy", &[&uri, out.to_str().unwrap()]);
    assert!(copied.status.success(), "{copied:?}");
    assert!(std::fs::read(&out).unwrap() == disk);

    let port = daemon.gateway().addresses().nbd.port();
    let credentials =
        format!("tls-creds-x509,id=tls,dir={folder},endpoint=client,sanity-check=off");
    let image = format!(
        "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=lab/disk-0,tls-creds=tls"
    );
    let raw = format!("driver=raw,file.filename={}", out.display());
    let compared = run(
        "qemu-img",
        &[
            "compare",
            "--object",
            &credentials,
            "--image-opts",
            &raw,
            &image,
        ],
    );
    assert!(compared.status.success(), "{compared:?}");

    let other = client_folder(&daemon, "mistrusting", &authority().pem());
    let wrong = format!("{nbds}?tls-certificates={other}");
    assert!(
        is_refused(&run("nbdinfo", &[&wrong])),
        "another certificate"
    );
    let plain = format!("nbd://127.0.0.1:{port}/lab/disk-0");
    assert!(is_refused(&run("nbdinfo", &[&plain])), "without TLS");
    assert!(
        read_nbd(url(&session, "nbd_unix")) == disk,
        "the unix socket does without"
    );
}

#[test]
fn clients_show_a_certificate_where_one_is_wanted() {
    if !need("nbdinfo") {
        return;
    }
    let (servers, clients) = (authority(), authority());
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let (certificate, key) = issue(&servers, ExtendedKeyUsagePurpose::ServerAuth);
    let daemon = Daemon::start_with(|config| {
        config.nbd.tls = NbdTls::Require;
        config.nbd.certificate = file("certificate.pem", &certificate);
        config.nbd.key = file("key.pem", &key);
        config.nbd.client_authority = file("clients.pem", &clients.pem());
    });
    daemon.back_up("web01", &content(5));
    let session = daemon.json(&["recover", "start", "web01@1"]);
    let nbds = url(&session, "nbds");
    let folder = client_folder(&daemon, "client", &servers.pem());
    let uri = format!("{nbds}?tls-certificates={folder}");
    let show = |authority: &Authority| {
        let (certificate, key) = issue(authority, ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(Path::new(&folder).join("client-cert.pem"), certificate).unwrap();
        std::fs::write(Path::new(&folder).join("client-key.pem"), key).unwrap();
        run("nbdinfo", &[&uri])
    };
    assert!(is_refused(&run("nbdinfo", &[&uri])), "no certificate");
    assert!(is_refused(&show(&servers)), "one of somebody else");
    let shown = show(&clients);
    assert!(shown.status.success(), "{shown:?}");
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_daemon_from_starting_and_is_named() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let (certificate, key) = issue(&authority(), ExtendedKeyUsagePurpose::ServerAuth);
    let (_, other_key) = issue(&authority(), ExtendedKeyUsagePurpose::ServerAuth);
    let file = |name: &str, text: &str| {
        std::fs::write(daemon.path(name), text).unwrap();
        Some(daemon.path(name))
    };
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = daemon.config();
        config.nbd.tls = NbdTls::Allow;
        config.nbd.certificate = file("certificate.pem", &certificate);
        config.nbd.key = file("key.pem", &key);
        change(&mut config);
        daemon.try_start(&config).unwrap_err().to_string()
    };
    let error = refused(&|config| config.nbd.key = Some(daemon.path("gone.pem")));
    assert!(error.contains("gone.pem"), "{error}");
    let error = refused(&|config| config.nbd.key = file("no-key.pem", "text"));
    assert!(error.contains("private key in PEM"), "{error}");
    let error = refused(&|config| config.nbd.key = file("other.pem", &other_key));
    assert!(error.contains("belong together"), "{error}");
    let error = refused(&|config| config.nbd.key = None);
    assert!(error.contains("certificate and key"), "{error}");
}
