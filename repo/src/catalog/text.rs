//! The head line of the text files of `docs/formats/catalog.md`, which proves the rest without a key.

use crate::error::RepoError;

/// Puts the head line before a body: `holdfast KIND VERSION HASH`.
pub(crate) fn seal_head(kind: &str, version: u32, body: &[u8]) -> Vec<u8> {
    let hash = text_hash(kind, version, body);
    let mut text = format!("holdfast {kind} {version} {hash}\n").into_bytes();
    text.extend_from_slice(body);
    text
}

/// The hash in the head line covers the rest of that line, too.
fn text_hash(kind: &str, version: u32, body: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("holdfast {kind} {version}\n").as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The version and body of what [`seal_head`] made, proven.
pub(crate) fn open_head<'a>(
    what: &str,
    kind: &str,
    known: u32,
    text: &'a [u8],
) -> Result<(u32, &'a [u8]), RepoError> {
    let corrupt = |detail: &str| RepoError::Corrupt {
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let head = Head::read(text).map_err(corrupt)?;
    if head.kind != kind {
        return Err(corrupt(&format!("it is a {}, not a {kind}", head.kind)));
    }
    if head.version > known {
        return Err(RepoError::TooNew {
            what: what.to_owned(),
            found: head.version,
            known,
        });
    }
    head.prove().map_err(corrupt)?;
    Ok((head.version, head.body))
}

/// Whether a text of any kind and version has the hash in its first line.
pub(crate) fn check_head(text: &[u8]) -> Result<(), &'static str> {
    Head::read(text)?.prove()
}

/// A text, taken apart.
struct Head<'a> {
    kind: &'a str,
    version: u32,
    hash: &'a str,
    body: &'a [u8],
}

impl<'a> Head<'a> {
    fn read(text: &'a [u8]) -> Result<Self, &'static str> {
        let end = text.iter().position(|byte| *byte == b'\n');
        let (head, body) = end
            .and_then(|end| text.split_at_checked(end))
            .ok_or("it is cut off in its first line")?;
        let head = std::str::from_utf8(head).map_err(|_| "it is not text")?;
        let words: Vec<&str> = head.split(' ').collect();
        let ["holdfast", kind, version, hash] = words.as_slice() else {
            return Err("its first line is not one of holdfast's");
        };
        Ok(Self {
            kind,
            version: version
                .parse()
                .map_err(|_| "its format version is no number")?,
            hash,
            body: body.get(1..).unwrap_or_default(),
        })
    }

    fn prove(&self) -> Result<(), &'static str> {
        match text_hash(self.kind, self.version, self.body)
            .to_hex()
            .as_str()
            == self.hash
        {
            true => Ok(()),
            false => Err("its content does not have the hash in its first line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_named_as_such() {
        let error = open_head("manifest x", "point", 1, b"holdfast point 2 00\n{}").unwrap_err();
        assert!(
            matches!(
                error,
                RepoError::TooNew {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_body_need_not_be_text() {
        let text = seal_head("x", 3, b"\xff\n\x00");
        assert_eq!(
            open_head("x", "x", 3, &text).unwrap(),
            (3, b"\xff\n\x00".as_slice())
        );
    }
}
