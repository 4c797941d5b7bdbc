//! Certificates: the daemon's own, made at its first start and told to clients by fingerprint, and those that the
//! operator brings.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{StateError, StateFolder, hexadecimal};

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate itself, then those above it.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The text is no fingerprint.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a certificate fingerprint; it has 64 hexadecimal digits, and `holdfast serve` prints it when it starts"
)]
pub struct BadFingerprint(String);

impl Identity {
    /// Loads the daemon's own certificate, or makes one that holds `names` besides this machine's loopback names.
    ///
    /// # Errors
    /// If it cannot be made, stored or read.
    pub fn load_or_create(state: &StateFolder, names: &[String]) -> Result<Self, StateError> {
        let (certificate, key) = (Path::new("certificate.der"), Path::new("key.der"));
        let identity = match (
            state.read(certificate, LIMIT_BYTES)?,
            state.read(key, LIMIT_BYTES)?,
        ) {
            (Some(certificate), Some(key)) => Self::new(certificate, key),
            (None, alone) => {
                // The certificate comes last: a key alone was never told to anyone.
                if alone.is_some() {
                    state.remove(key)?;
                }
                let (made, made_key) = make(names)?;
                state.create_secret(key, &made_key)?;
                state.create_secret(certificate, &made)?;
                Self::new(made, made_key)
            }
            (Some(_), None) => {
                return Err(StateError::Damaged {
                    path: state.file(certificate),
                    detail: "its key.der is gone".to_owned(),
                    remedy: "remove it and start again; clients then need the new fingerprint",
                });
            }
        };
        identity.publish(state)?;
        Ok(identity)
    }

    /// Loads a certificate chain and its key from files in PEM.
    ///
    /// # Errors
    /// If one of them cannot be read or holds something else.
    pub fn load_pem(chain: &Path, key: &Path) -> Result<Self, StateError> {
        let text = read_text(key)?;
        Ok(Self {
            chain: read_certificates(chain)?,
            key: PrivateKeyDer::from_pem_slice(&text)
                .map_err(|error| unusable(key, &error, "it must hold a private key in PEM"))?,
        })
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.chain
            .first()
            .map_or(Fingerprint([0; 32]), Fingerprint::of)
    }

    /// What TLS for HTTP needs.
    ///
    /// # Errors
    /// If certificate and key do not fit one another.
    pub fn http_config(&self) -> Result<Arc<ServerConfig>, StateError> {
        let mut config = self.config(None)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// What TLS for NBD needs. With `client_authority`, a file of certificates in PEM, clients without a certificate
    /// that one of those signed are turned away.
    ///
    /// # Errors
    /// If certificate and key do not fit one another, or the file holds no certificate.
    pub fn nbd_config(
        &self,
        client_authority: Option<&Path>,
    ) -> Result<Arc<ServerConfig>, StateError> {
        let authorities = client_authority
            .map(|path| {
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(path)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| unusable(path, &error, ONLY_CERTIFICATES))?;
                }
                Ok::<_, StateError>(roots)
            })
            .transpose()?;
        Ok(Arc::new(self.config(authorities)?))
    }

    fn config(
        &self,
        client_authorities: Option<RootCertStore>,
    ) -> Result<ServerConfig, StateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused = |error: rustls::Error| StateError::Certificate(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match client_authorities {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| StateError::Certificate(error.to_string()))?,
            ),
        };
        builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(refused)
    }

    /// Writes the certificate in the form that NBD clients want to be given.
    fn publish(&self, state: &StateFolder) -> Result<(), StateError> {
        let blocks = self
            .chain
            .iter()
            .map(|certificate| pem::Pem::new("CERTIFICATE", certificate.to_vec()))
            .collect::<Vec<_>>();
        let text = pem::encode_many(&blocks);
        let name = Path::new("certificate.pem");
        if state.read(name, LIMIT_BYTES)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        state.replace(name, text.as_bytes())
    }

    fn new(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self {
            chain: vec![certificate.into()],
            key: PrivatePkcs8KeyDer::from(key).into(),
        }
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hexadecimal(&self.0))
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = BadFingerprint;

    /// Takes 64 digits, with colons or without, after `sha256:` or alone.
    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let refused = || BadFingerprint(text.to_owned());
        let digits: Vec<u32> = text
            .trim_start_matches("sha256:")
            .chars()
            .filter(|&character| character != ':')
            .map(|character| character.to_digit(16))
            .collect::<Option<_>>()
            .ok_or_else(refused)?;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .filter_map(|pair| {
                u8::try_from(pair.iter().fold(0, |value, digit| value * 16 + digit)).ok()
            })
            .collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) if digits.len() == 64 => Ok(Self(bytes)),
            _ => Err(refused()),
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StateError> {
    let text = read_text(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(path, &error, ONLY_CERTIFICATES))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it is empty", ONLY_CERTIFICATES));
    }
    Ok(certificates)
}

fn read_text(path: &Path) -> Result<Vec<u8>, StateError> {
    let read = std::fs::File::open(path).and_then(|file| {
        let mut text = Vec::new();
        file.take(LIMIT_BYTES + 1).read_to_end(&mut text)?;
        Ok(text)
    });
    match read {
        Ok(text) if text.len() as u64 <= LIMIT_BYTES => Ok(text),
        Ok(_) => Err(unusable(
            path,
            &"it has more than 64 KiB",
            "give the right file",
        )),
        Err(error) => Err(unusable(
            path,
            &error,
            "check the path, and that the daemon's user may read it",
        )),
    }
}

fn unusable(path: &Path, detail: &dyn fmt::Display, remedy: &'static str) -> StateError {
    StateError::Unusable {
        path: path.to_owned(),
        detail: detail.to_string(),
        remedy,
    }
}

fn make(names: &[String]) -> Result<(Vec<u8>, Vec<u8>), StateError> {
    let refused = |error: rcgen::Error| StateError::Certificate(error.to_string());
    let mut all = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    all.extend(names.iter().cloned());
    let mut parameters = rcgen::CertificateParams::new(all).map_err(refused)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "holdfast");
    // Clients trust the fingerprint; an expiry date would only break them one day.
    parameters.not_after = rcgen::date_time_ymd(2500, 1, 1);
    let key = rcgen::KeyPair::generate().map_err(refused)?;
    let certificate = parameters.self_signed(&key).map_err(refused)?;
    Ok((certificate.der().to_vec(), key.serialize_der()))
}

const LIMIT_BYTES: u64 = 64 * 1024;
const ONLY_CERTIFICATES: &str = "it must hold certificates in PEM";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_stays_the_same_and_its_fingerprint_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let first = Identity::load_or_create(&state, &["backup.example".to_owned()]).unwrap();
        first.http_config().unwrap();
        let pem = read_certificates(&folder.path().join("certificate.pem")).unwrap();
        assert_eq!(Fingerprint::of(&pem[0]), first.fingerprint());
        let second = Identity::load_or_create(&state, &[]).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        let text = first.fingerprint().to_string();
        assert_eq!(
            format!("sha256:{}", text.to_uppercase())
                .parse::<Fingerprint>()
                .unwrap(),
            first.fingerprint()
        );
        assert!(text[1..].parse::<Fingerprint>().is_err());
        std::fs::remove_file(folder.path().join("key.der")).unwrap();
        assert!(Identity::load_or_create(&state, &[]).is_err());
    }

    #[test]
    fn files_that_are_no_certificates_are_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        Identity::load_or_create(&state, &[]).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("none.pem"), "nothing").unwrap();
        std::fs::write(path("long.pem"), vec![b'x'; 100_000]).unwrap();
        for (key, word) in [
            ("gone.pem", "No such file"),
            ("none.pem", "private key in PEM"),
            ("long.pem", "64 KiB"),
        ] {
            let loaded = Identity::load_pem(&path("certificate.pem"), &path(key));
            let error = loaded.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(key), "{error}");
        }
        for name in ["gone.pem", "none.pem", "long.pem"] {
            let error = read_certificates(&path(name)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("; "), "{error}");
        }
    }
}
