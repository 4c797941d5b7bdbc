//! CHAP (RFC 7143, 12.1.3; RFC 1994): the initiator proves that it knows a secret, and the target may prove it back.

use std::fmt;

use md5::{Digest, Md5};
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Which accounts are let in, and how the target proves itself.
#[derive(Debug, Clone)]
pub struct ChapPolicy {
    /// Those that an initiator may use.
    pub accounts: Vec<ChapAccount>,
    /// What the target shows an initiator that asks who it is.
    pub own: Option<ChapAccount>,
    /// What may be used to prove it; the initiator chooses.
    pub algorithms: Vec<ChapAlgorithm>,
}

/// A name with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapAccount {
    /// `CHAP_N`.
    pub name: String,
    /// What both sides know.
    pub secret: Secret,
}

/// Bytes that are shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// A secret that is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a CHAP secret has {} to {} bytes, this one {length}",
    Secret::LENGTH_MIN,
    Secret::LENGTH_MAX
)]
pub struct SecretLength {
    /// Bytes that it has.
    pub length: usize,
}

impl Secret {
    /// Shortest: 96 bits, which the standard demands where nothing else protects the connection.
    pub const LENGTH_MIN: usize = 12;
    /// Longest.
    pub const LENGTH_MAX: usize = 255;

    /// Takes the bytes of a secret.
    ///
    /// # Errors
    /// If there are too few or too many of them.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretLength> {
        let length = bytes.len();
        if (Self::LENGTH_MIN..=Self::LENGTH_MAX).contains(&length) {
            Ok(Self(Zeroizing::new(bytes.to_vec())))
        } else {
            Err(SecretLength { length })
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// A hash function of `CHAP_A`. SHA-1 (6) is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChapAlgorithm {
    /// MD5, which every initiator has.
    Md5,
    /// SHA-256.
    Sha256,
    /// SHA3-256.
    Sha3_256,
}

impl ChapAlgorithm {
    /// All, strongest first.
    pub const ALL: [Self; 3] = [Self::Sha3_256, Self::Sha256, Self::Md5];

    /// Its number (IANA, "PPP Authentication Algorithms").
    pub fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha256 => 7,
            Self::Sha3_256 => 8,
        }
    }

    /// The one of that number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| u64::from(algorithm.number()) == number)
    }

    /// What somebody who knows `secret` answers to `challenge`.
    pub fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update([identifier])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec()
        }
        match self {
            Self::Md5 => hash::<Md5>(identifier, &secret.0, challenge),
            Self::Sha256 => hash::<Sha256>(identifier, &secret.0, challenge),
            Self::Sha3_256 => hash::<Sha3_256>(identifier, &secret.0, challenge),
        }
    }

    /// Bytes of a response.
    pub fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }
}

/// A question that the target has asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) algorithm: ChapAlgorithm,
    pub(crate) identifier: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Challenge {
    /// Asks, with bytes from the system's random source. `None` if that gives none.
    pub(crate) fn new(algorithm: ChapAlgorithm) -> Option<Self> {
        let mut random = vec![0; 1 + algorithm.length()];
        let mut filled = 0;
        while let Some(rest) = random.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).ok()?;
        }
        let identifier = random.pop()?;
        Some(Self {
            algorithm,
            identifier,
            bytes: random,
        })
    }

    /// Whether `response` of `name` answers it. Takes the same time whatever is wrong.
    pub(crate) fn is_answered_by(&self, policy: &ChapPolicy, name: &str, response: &[u8]) -> bool {
        let nobody = Secret(Zeroizing::new(vec![0; Secret::LENGTH_MIN]));
        let account = policy.accounts.iter().find(|account| account.name == name);
        let secret = account.map_or(&nobody, |account| &account.secret);
        let wanted = self
            .algorithm
            .response(self.identifier, secret, &self.bytes);
        let equal = bool::from(wanted.ct_eq(response));
        equal && account.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed with Python's hashlib over identifier, secret and challenge.
    #[test]
    fn responses_are_those_of_others() {
        let secret = Secret::new(b"twelve bytes").unwrap();
        let check = |algorithm: ChapAlgorithm, wanted: &str| {
            let response = algorithm.response(0x17, &secret, b"challenge");
            assert_eq!(hex(&response), wanted, "{algorithm:?}");
            assert_eq!(response.len(), algorithm.length());
        };
        check(ChapAlgorithm::Md5, "daf471edd5f9a6712a74d0c90de2072b");
        check(
            ChapAlgorithm::Sha256,
            "60581abdadc367cc6d4ff00e8087ff0bf532f5928d75e9344d688fea22b6a910",
        );
        check(
            ChapAlgorithm::Sha3_256,
            "bcf3ea273db5c8cce0eb9c281237b312ed74bdfe8ddb026140d017520b2c60ab",
        );
    }

    #[test]
    fn only_the_right_name_and_secret_answer() {
        let account = |name: &str, secret: &[u8]| ChapAccount {
            name: name.to_owned(),
            secret: Secret::new(secret).unwrap(),
        };
        let policy = ChapPolicy {
            accounts: vec![
                account("a", b"secret of a ..."),
                account("b", b"secret of b ..."),
            ],
            own: None,
            algorithms: ChapAlgorithm::ALL.to_vec(),
        };
        for algorithm in ChapAlgorithm::ALL {
            let challenge = Challenge::new(algorithm).unwrap();
            assert_ne!(challenge, Challenge::new(algorithm).unwrap());
            let answer = |secret: &[u8]| {
                let secret = Secret::new(secret).unwrap();
                algorithm.response(challenge.identifier, &secret, &challenge.bytes)
            };
            let check = |name: &str, response: &[u8], wanted| {
                assert_eq!(challenge.is_answered_by(&policy, name, response), wanted);
            };
            check("a", &answer(b"secret of a ..."), true);
            check("b", &answer(b"secret of a ..."), false);
            check("c", &answer(b"secret of a ..."), false);
            // Nobody gets in with the secret that stands in for an unknown account.
            check("c", &answer(&[0; 12]), false);
            check("a", &[], false);
        }
    }

    #[test]
    fn secrets_have_a_length_and_stay_secret() {
        assert_eq!(Secret::new(b"short"), Err(SecretLength { length: 5 }));
        assert!(Secret::new(&[7; 256]).is_err());
        assert_eq!(format!("{:?}", Secret::new(&[7; 12]).unwrap()), "Secret");
    }
}
