//! Passwords, made here and shown once.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::SmbError;

/// A password of 100 random bits. It is not kept: Samba has a hash of it.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Makes one.
    ///
    /// # Errors
    /// If the kernel has no random numbers.
    pub fn random() -> Result<Self, SmbError> {
        let mut bytes = [0_u8; LETTERS];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += getrandom(rest, GetRandomFlags::empty()).map_err(SmbError::Random)?;
        }
        let letter = |byte: &u8| {
            ALPHABET
                .get(usize::from(byte % 32))
                .copied()
                .map(char::from)
        };
        Ok(Self(Zeroizing::new(
            bytes.iter().filter_map(letter).collect(),
        )))
    }

    /// The password in clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password")
    }
}

/// Five bits each.
const LETTERS: usize = 20;
/// Letters and digits that nobody takes for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_typeable_and_never_the_same() {
        let first = Password::random().unwrap();
        assert_eq!(first.reveal().len(), 20);
        assert!(first.reveal().bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(first.reveal(), Password::random().unwrap().reveal());
        assert_eq!(format!("{first:?}"), "Password");
    }
}
