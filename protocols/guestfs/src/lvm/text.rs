//! The text in which LVM2 keeps its metadata: sections, and values by name.

use std::collections::BTreeMap;

use crate::{GuestError, Place};

/// A section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Section {
    items: BTreeMap<String, Item>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Number(i64),
    Text(String),
    List(Vec<Item>),
    Section(Section),
}

impl Section {
    pub(crate) fn section(&self, name: &str) -> Option<&Self> {
        match self.items.get(name) {
            Some(Item::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// All sections in it, by name.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        let items = self.items.iter();
        items.filter_map(|(name, item)| match item {
            Item::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.items.get(name) {
            Some(Item::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.items.get(name) {
            Some(Item::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<&[Item]> {
        match self.items.get(name) {
            Some(Item::List(list)) => Some(list),
            _ => None,
        }
    }

    /// Whether a list has a text.
    pub(crate) fn lists(&self, name: &str, text: &str) -> bool {
        let list = self.list(name).unwrap_or_default();
        list.iter()
            .any(|item| matches!(item, Item::Text(found) if found == text))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }
}

/// Reads a text. What is in it twice counts as it stands last.
pub(crate) fn parse(bytes: &[u8]) -> Result<Section, GuestError> {
    let mut tokens = Tokens {
        bytes,
        at: 0,
        line: 1,
    };
    let mut open: Vec<(String, Section)> = Vec::new();
    let mut current = Section::default();
    let mut items = 0;
    while let Some(token) = tokens.next()? {
        items += 1;
        if items > ITEMS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of items of a volume group's metadata",
                limit: ITEMS_MAX,
            });
        }
        match token {
            Token::Word(name) => match tokens.next()? {
                Some(Token::Mark(b'{')) if open.len() < DEPTH_MAX => {
                    open.push((name, std::mem::take(&mut current)));
                }
                Some(Token::Mark(b'=')) => {
                    let value = tokens.value(&mut items)?;
                    current.items.insert(name, value);
                }
                _ => return Err(tokens.corrupt("a name is followed by neither value nor section")),
            },
            Token::Mark(b'}') => {
                let Some((name, outer)) = open.pop() else {
                    return Err(tokens.corrupt("a section ends that has not begun"));
                };
                let inner = std::mem::replace(&mut current, outer);
                current.items.insert(name, Item::Section(inner));
            }
            _ => return Err(tokens.corrupt("there is no name where one should be")),
        }
    }
    match open.is_empty() {
        true => Ok(current),
        false => Err(tokens.corrupt("the text ends within a section")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(u8),
}

struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl Tokens<'_> {
    fn corrupt(&self, detail: &'static str) -> GuestError {
        GuestError::corrupt(Place::GroupText { line: self.line }, detail)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn step(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += u32::from(byte == b'\n');
        Some(byte)
    }

    fn skip_blanks(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'#' => while self.step().is_some_and(|byte| byte != b'\n') {},
                // The text ends with a NUL.
                b' ' | b'\t' | b'\r' | b'\n' | 0 => {
                    self.step();
                }
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Result<Option<Token>, GuestError> {
        self.skip_blanks();
        let Some(byte) = self.peek() else {
            return Ok(None);
        };
        match byte {
            b'{' | b'}' | b'[' | b']' | b'=' | b',' => {
                self.step();
                Ok(Some(Token::Mark(byte)))
            }
            b'"' => self.quoted().map(Some),
            _ => self.word().map(Some),
        }
    }

    fn quoted(&mut self) -> Result<Token, GuestError> {
        self.step();
        let mut text = Vec::new();
        loop {
            match self.step() {
                Some(b'"') => return Ok(Token::Text(String::from_utf8_lossy(&text).into_owned())),
                Some(b'\\') => text.extend(self.step()),
                Some(byte) => text.push(byte),
                None => return Err(self.corrupt("a text does not end")),
            }
        }
    }

    fn word(&mut self) -> Result<Token, GuestError> {
        let begin = self.at;
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+./@".contains(&byte);
        while self.peek().is_some_and(is_part) {
            self.step();
        }
        match self.bytes.get(begin..self.at) {
            Some(word) if !word.is_empty() => {
                Ok(Token::Word(String::from_utf8_lossy(word).into_owned()))
            }
            _ => Err(self.corrupt("there is a character that has no meaning")),
        }
    }

    /// A number, a text, or a list of both.
    fn value(&mut self, items: &mut u64) -> Result<Item, GuestError> {
        match self.next()? {
            Some(Token::Mark(b'[')) => {}
            token => return self.single(token),
        }
        let mut list = Vec::new();
        loop {
            match self.next()? {
                Some(Token::Mark(b']')) => return Ok(Item::List(list)),
                Some(Token::Mark(b',')) => {}
                token => list.push(self.single(token)?),
            }
            *items += 1;
            if *items > ITEMS_MAX {
                return Err(self.corrupt("a list is too long"));
            }
        }
    }

    fn single(&self, token: Option<Token>) -> Result<Item, GuestError> {
        match token {
            Some(Token::Text(text)) => Ok(Item::Text(text)),
            Some(Token::Word(word)) => match word.parse() {
                Ok(number) => Ok(Item::Number(number)),
                // Fractions stand nowhere where they matter.
                Err(_) if word.parse::<f64>().is_ok() => Ok(Item::Text(word)),
                Err(_) => Err(self.corrupt("a value is neither number nor text")),
            },
            _ => Err(self.corrupt("there is no value where one should be")),
        }
    }
}

const ITEMS_MAX: u64 = 500_000;
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn check_damaged(text: &str, line: u32) {
        match parse(text.as_bytes()).unwrap_err() {
            GuestError::Corrupt {
                place: Place::GroupText { line: found },
                ..
            } => assert_eq!(found, line, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }

    #[test]
    fn texts_are_read_as_lvm_writes_them() {
        let text = b"# Generated\nvg0 {\nid = \"a\\\"b\"\nseqno = 3\nstatus = [\"READ\", \"WRITE\"]\nflags = []\npv {\nstart = -1\nfraction = 1.5\n}\n}\nversion = 1\n\0";
        let root = parse(text).unwrap();
        assert_eq!(root.number("version"), Some(1));
        let group = root.section("vg0").unwrap();
        assert_eq!(group.text("id"), Some("a\"b"));
        assert_eq!(group.number("seqno"), Some(3));
        assert!(group.lists("status", "WRITE") && !group.lists("flags", "WRITE"));
        assert_eq!(group.section("pv").unwrap().number("start"), None);
        assert_eq!(group.sections().count(), 1);
    }

    #[test]
    fn damage_has_a_line() {
        check_damaged("a {\nb = 1\n", 3);
        check_damaged("a = 1\n}", 2);
        check_damaged("a = \"b\n", 2);
        check_damaged("a =\n\n]", 3);
        check_damaged("a 1", 1);
        check_damaged("a = [1\n", 2);
        check_damaged("=", 1);
        check_damaged("a = [[", 1);
        check_damaged("a = \x01", 1);
        check_damaged("a = b", 1);
        check_damaged(&"a {".repeat(17), 1);
        let many = "a=1 ".repeat(500_001);
        assert!(matches!(
            parse(many.as_bytes()),
            Err(GuestError::TooLarge { .. })
        ));
        let long = format!("a=[{}]", "1,".repeat(500_001));
        assert!(parse(long.as_bytes()).is_err());
    }
}
