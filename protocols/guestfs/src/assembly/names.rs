//! Names that are safe as names of files, each once.

use std::collections::BTreeSet;

/// Names that were given.
#[derive(Debug, Default)]
pub(super) struct Names {
    given: BTreeSet<String>,
}

impl Names {
    /// A name like `wanted` that nobody has.
    pub(super) fn give(&mut self, wanted: &str) -> String {
        let safe = safe(wanted);
        let numbered = (2_u64..).map(|number| format!("{safe}-{number}"));
        let name = std::iter::once(safe.clone())
            .chain(numbered)
            .find(|name| !self.given.contains(name))
            .unwrap_or(safe);
        self.given.insert(name.clone());
        name
    }
}

/// What no file system and no terminal takes amiss: letters, digits, and some marks within.
pub(super) fn safe(name: &str) -> String {
    let kept = |letter: char| match letter {
        '+' | '-' | '.' | '_' => letter,
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '_',
    };
    let name: String = name.chars().take(LENGTH_MAX).map(kept).collect();
    match name.chars().next() {
        None | Some('-' | '.') => format!("_{name}"),
        Some(_) => name,
    }
}

const LENGTH_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_given_once() {
        let mut names = Names::default();
        let mut check = |wanted: &str, given: &str| assert_eq!(names.give(wanted), given);
        check("vg-lv", "vg-lv");
        check("vg-lv", "vg-lv-2");
        check("vg-lv-2", "vg-lv-2-2");
        check("..", "_..");
        check("", "_");
        check("a/b\0\u{1b}[31m\u{202e}ü", "a_b___31m__");
        check(&"x".repeat(500), &"x".repeat(120));
    }
}
