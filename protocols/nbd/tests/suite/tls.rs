//! TLS, with libnbd's and QEMU's clients.

use std::path::Path;
use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use nbd::client::{Client, ClientError};
use nbd::wire::ReplyType;
use nbd::{
    ExportDirectory, ExportSummary, Limits, OpenError, OpenedExport, Peer, ServerConfig,
    StaticDirectory, Tls,
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore};

use crate::support::{Fixture, need, options, run, run_failing, sparse};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name` and its key.
fn issue(
    authority: &Issuer,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> (rcgen::Certificate, KeyPair) {
    let mut parameters =
        CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    parameters.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    (parameters.signed_by(&key, authority).unwrap(), key)
}

fn server_config(authority: &Issuer) -> Arc<rustls::ServerConfig> {
    let (certificate, key) = issue(authority, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    Arc::new(config)
}

/// Puts what a client needs into `folder`; gives the client's certificate.
fn client_files(authority: &Issuer, folder: &Path) -> CertificateDer<'static> {
    let (certificate, key) = issue(authority, "client", ExtendedKeyUsagePurpose::ClientAuth);
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("client-cert.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("client-key.pem"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// Opens exports for peers whose certificate it knows, and nothing for others.
struct Guarded {
    inner: Arc<StaticDirectory>,
    known: Mutex<Vec<CertificateDer<'static>>>,
}

impl ExportDirectory for Guarded {
    fn list(&self, peer: &Peer) -> Vec<ExportSummary> {
        self.inner.list(peer)
    }

    fn open(&self, name: &str, peer: &Peer) -> Result<OpenedExport, OpenError> {
        let known = self.known.lock();
        if !peer.tls
            || !peer
                .certificates
                .first()
                .is_some_and(|certificate| known.contains(certificate))
        {
            return Err(OpenError::Forbidden);
        }
        self.inner.open(name, peer)
    }
}

/// A server that wants TLS and certificates, and the folder with the client's.
fn guarded(mode: impl Fn(Arc<rustls::ServerConfig>) -> Tls) -> (Fixture, Arc<Guarded>, String) {
    let authority = authority();
    let directory = Arc::new(StaticDirectory::new());
    directory.add("disk", "", Arc::new(MemoryDisk::new(8 << 20)));
    let guarded = Arc::new(Guarded {
        inner: Arc::clone(&directory),
        known: Mutex::default(),
    });
    let config = ServerConfig {
        tls: mode(server_config(&authority)),
        limits: Limits::default(),
    };
    let pool = BlockingPool::start(2, 16).unwrap();
    let fixture = Fixture::start(Arc::clone(&guarded) as _, directory, config, pool);
    let certificate = client_files(&authority, fixture.folder.path());
    guarded.known.lock().push(certificate);
    let folder = fixture.folder.path().to_str().unwrap().to_owned();
    (fixture, guarded, folder)
}

fn tls_uri(fixture: &Fixture, folder: &str) -> String {
    format!(
        "nbds://127.0.0.1:{}/disk?tls-certificates={folder}",
        fixture.tcp().port()
    )
}

#[test]
fn nbdcopy_works_under_tls_and_the_certificate_counts() {
    if !need("nbdcopy") || !need("nbdinfo") {
        return;
    }
    let (fixture, guarded, folder) = guarded(Tls::Required);
    let content = sparse(5, 8 << 20);
    let (source, target) = (
        fixture.file("in.img", &content),
        fixture.file("out.img", b""),
    );
    let uri = tls_uri(&fixture, &folder);
    run("nbdcopy", &[&source, &uri]);
    run("nbdcopy", &[&uri, &target]);
    assert!(std::fs::read(&target).unwrap() == content);
    let info = run("nbdinfo", &["--json", &uri]);
    assert!(info.contains("\"TLS\": true"), "{info}");
    guarded.known.lock().clear();
    run_failing("nbdinfo", &[&uri]);
    run_failing("nbdinfo", &[&fixture.tcp_uri()]);
}

#[test]
fn qemu_img_works_under_tls() {
    if !need("qemu-img") {
        return;
    }
    let (fixture, _, folder) = guarded(Tls::Required);
    let content = sparse(6, 8 << 20);
    let raw = fixture.file("in.raw", &content);
    let credentials = format!("tls-creds-x509,id=tls,dir={folder},endpoint=client");
    let target = format!(
        "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={},export=disk,tls-creds=tls",
        fixture.tcp().port()
    );
    run(
        "qemu-img",
        &[
            "convert",
            "--object",
            &credentials,
            "--target-image-opts",
            "-n",
            "-f",
            "raw",
            &raw,
            &target,
        ],
    );
    let source = format!("driver=raw,file.filename={raw}");
    run(
        "qemu-img",
        &[
            "compare",
            "--object",
            &credentials,
            "--image-opts",
            &source,
            &target,
        ],
    );
}

#[test]
fn plaintext_is_refused_where_tls_is_required_and_not_where_it_is_allowed() {
    let (fixture, ..) = guarded(Tls::Required);
    match Client::connect(&fixture.tcp_address(), "disk", &options()) {
        Err(ClientError::Refused {
            reply: ReplyType::ErrTlsReqd,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        Client::list(&fixture.unix_address(), &options())
            .unwrap()
            .len(),
        1,
        "a unix socket needs no TLS"
    );
    let (fixture, ..) = guarded(Tls::Allowed);
    assert_eq!(
        Client::list(&fixture.tcp_address(), &options())
            .unwrap()
            .len(),
        1
    );
    match Client::connect(&fixture.tcp_address(), "disk", &options()) {
        Err(ClientError::Refused {
            reply: ReplyType::ErrPolicy,
            ..
        }) => {}
        other => panic!("the directory wants a certificate: {other:?}"),
    }
}

#[test]
fn bytes_that_are_not_tls_end_the_connection() {
    use std::io::{Read, Write};
    let (fixture, ..) = guarded(Tls::Required);
    let mut stream = std::net::TcpStream::connect(fixture.tcp()).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream
        .write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0")
        .unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    stream.write_all(&[0x41; 200]).unwrap();
    let mut rest = Vec::new();
    // An alert may come first; then the end.
    drop(stream.read_to_end(&mut rest));
    assert!(rest.len() < 64, "{rest:?}");
}
