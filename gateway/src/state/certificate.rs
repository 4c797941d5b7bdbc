//! The daemon's certificate, made at its first start and told to clients by fingerprint.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{StateError, StateFolder, hexadecimal};

/// The certificate and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
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
    /// Loads the certificate, or makes one that holds `names` besides this machine's loopback names.
    ///
    /// # Errors
    /// If it cannot be made, stored or read.
    pub fn load_or_create(state: &StateFolder, names: &[String]) -> Result<Self, StateError> {
        let (certificate, key) = (Path::new("certificate.der"), Path::new("key.der"));
        match (
            state.read(certificate, LIMIT_BYTES)?,
            state.read(key, LIMIT_BYTES)?,
        ) {
            (Some(certificate), Some(key)) => Ok(Self::new(certificate, key)),
            (None, alone) => {
                // The certificate comes last: a key alone was never told to anyone.
                if alone.is_some() {
                    state.remove(key)?;
                }
                let (made, made_key) = make(names)?;
                state.create_secret(key, &made_key)?;
                state.create_secret(certificate, &made)?;
                Ok(Self::new(made, made_key))
            }
            (Some(_), None) => Err(StateError::Damaged {
                path: state.file(certificate),
                detail: "its key.der is gone".to_owned(),
                remedy: "remove it and start again; clients then need the new fingerprint",
            }),
        }
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// What the TLS acceptor needs.
    ///
    /// # Errors
    /// If certificate and key do not fit one another.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, StateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused = |error: rustls::Error| StateError::Certificate(error.to_string());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .map_err(refused)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn new(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self {
            certificate: certificate.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_stays_the_same_and_its_fingerprint_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let first = Identity::load_or_create(&state, &["backup.example".to_owned()]).unwrap();
        first.server_config().unwrap();
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
}
