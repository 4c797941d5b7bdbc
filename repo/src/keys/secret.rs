//! What opens a repository, and what it opens to.

use std::fmt;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::cipher::random;
use crate::error::RepoError;

/// The key of an encrypted repository, from which all others are made. Random, and the same for ever.
#[derive(Clone)]
pub(crate) struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    pub(crate) fn random() -> Result<Self, RepoError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one use in one repository.
    pub(crate) fn subkey(&self, repository: Uuid, context: &'static str) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(self.bytes());
        hasher.update(repository.as_bytes());
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MasterKey")
    }
}

/// What a person or machine has to open an encrypted repository with: it opens a key slot.
#[derive(Clone)]
pub struct Secret(SecretKind);

#[derive(Clone)]
pub(super) enum SecretKind {
    /// Words; stretched, since they may be few.
    Passphrase(Zeroizing<String>),
    /// 32 random bytes, in a file or printed.
    Key(Zeroizing<[u8; 32]>),
}

impl Secret {
    /// A passphrase, any text that is not empty.
    ///
    /// # Errors
    /// If it is empty or longer than 1024 bytes.
    pub fn passphrase(words: &str) -> Result<Self, RepoError> {
        if words.is_empty() || words.len() > PASSPHRASE_BYTES_MAX {
            return Err(RepoError::Refused("a passphrase has 1 to 1024 bytes"));
        }
        Ok(Self(SecretKind::Passphrase(Zeroizing::new(
            words.to_owned(),
        ))))
    }

    /// A new random key.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn random_key() -> Result<Self, RepoError> {
        Ok(Self(SecretKind::Key(Zeroizing::new(random()?))))
    }

    /// A key from the content of a key file: 32 bytes as they are, or the text that
    /// [`key_text`](Self::key_text) gives.
    ///
    /// # Errors
    /// If it is neither, or a letter of the text is wrong.
    pub fn from_key_file(content: &[u8]) -> Result<Self, RepoError> {
        if let Ok(bytes) = <[u8; 32]>::try_from(content) {
            return Ok(Self(SecretKind::Key(Zeroizing::new(bytes))));
        }
        let text = std::str::from_utf8(content).ok();
        text.and_then(parse_key_text)
            .map(|key| Self(SecretKind::Key(key)))
            .ok_or(RepoError::Refused(
                "this is no key: a key file has 32 bytes, or one line that starts with HFKEY1-, every letter as it was made",
            ))
    }

    /// A key or passphrase from what a command printed, or a file that may have either: the text of a key, or else a
    /// passphrase, without the line's end.
    ///
    /// # Errors
    /// If it is empty, no text, or a key with a wrong letter.
    pub fn from_text(content: &[u8]) -> Result<Self, RepoError> {
        let text = std::str::from_utf8(content)
            .map_err(|_| RepoError::Refused("a passphrase is text (UTF-8)"))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.trim_start().starts_with(KEY_TEXT_START) {
            return Self::from_key_file(text.as_bytes());
        }
        Self::passphrase(text)
    }

    /// The line to print or put into a file for a key; nothing for a passphrase.
    pub fn key_text(&self) -> Option<Zeroizing<String>> {
        let SecretKind::Key(key) = &self.0 else {
            return None;
        };
        let mut text = Zeroizing::new(String::with_capacity(KEY_TEXT_LETTERS));
        text.push_str(KEY_TEXT_START);
        for (place, byte) in key.iter().chain(&check_of(key)).enumerate() {
            if place > 0 && place.is_multiple_of(4) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        Some(text)
    }

    /// What [`from_text`](Self::from_text) reads it from again: the passphrase itself, or the text of the key.
    pub fn text(&self) -> Zeroizing<String> {
        match (&self.0, self.key_text()) {
            (SecretKind::Passphrase(words), _) => words.clone(),
            (SecretKind::Key(_), text) => text.unwrap_or_default(),
        }
    }

    pub(super) fn kind(&self) -> &SecretKind {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            SecretKind::Passphrase(_) => "Passphrase",
            SecretKind::Key(_) => "Key",
        })
    }
}

/// Reads the text of a key. Case, blanks and hyphens do not count.
fn parse_key_text(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.trim().strip_prefix(KEY_TEXT_START)?;
    let mut bytes = Zeroizing::new([0_u8; 34]);
    let mut count = 0;
    for letter in digits.chars().filter(|letter| !matches!(letter, '-' | ' ')) {
        let digit = u8::try_from(letter.to_digit(16)?).ok()?;
        let byte = bytes.get_mut(count / 2)?;
        *byte = *byte << 4 | digit;
        count += 1;
    }
    let (key, check) = bytes.split_first_chunk::<32>()?;
    let key = Zeroizing::new(*key);
    (count == 68 && *check == check_of(&key)).then_some(key)
}

/// Finds a letter that was copied wrongly.
fn check_of(key: &[u8; 32]) -> [u8; 2] {
    let [first, second, ..] = blake3::derive_key(KEY_TEXT_CHECK, key);
    [first, second]
}

const KEY_TEXT_START: &str = "HFKEY1-";
const KEY_TEXT_LETTERS: usize = 90;
const KEY_TEXT_CHECK: &str = "holdfast key text v1: check";
const PASSPHRASE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_text_and_a_wrong_letter_is_found() {
        let secret = Secret::random_key().unwrap();
        let text = secret.key_text().unwrap();
        assert!(text.len() <= KEY_TEXT_LETTERS, "{} letters", text.len());
        let back = |text: &str| Secret::from_key_file(text.as_bytes()).ok()?.key_text();
        assert_eq!(back(&text), Some(text.clone()));
        assert_eq!(
            back(&format!(
                "  {}\n",
                text.replace('-', " ").replacen(' ', "-", 1)
            )),
            Some(text.clone())
        );
        for place in 0..text.len() {
            let mut wrong = text.to_string();
            let letter = if wrong.as_bytes()[place] == b'0' {
                "1"
            } else {
                "0"
            };
            wrong.replace_range(place..=place, letter);
            assert_eq!(back(&wrong), None, "letter {place}");
        }
        assert_eq!(back(&text[..text.len() - 1]), None);
        assert!(Secret::from_key_file(&[7; 32]).is_ok());
        assert!(Secret::from_key_file(&[7; 31]).is_err());
    }

    #[test]
    fn what_a_command_prints_is_a_key_or_a_passphrase() {
        let key = Secret::random_key().unwrap().key_text().unwrap();
        let printed = format!("{}\n", *key);
        assert_eq!(
            Secret::from_text(printed.as_bytes()).unwrap().key_text(),
            Some(key)
        );
        let SecretKind::Passphrase(words) = Secret::from_text(b"two words\r\n").unwrap().0 else {
            panic!("it is a passphrase");
        };
        assert_eq!(words.as_str(), "two words");
        for bad in [b"\n".as_slice(), b"\xff", b"HFKEY1-00"] {
            assert!(Secret::from_text(bad).is_err(), "{bad:?}");
        }
        let shown = format!("{:?}", Secret::passphrase("two words").unwrap());
        assert_eq!(shown, "Passphrase");
    }
}
