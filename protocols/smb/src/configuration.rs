//! Samba's configuration: sections of options, made from settings and shares and from nothing else.
//!
//! Values go in through one gate that refuses what could end a line, begin a section or be replaced by Samba.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use crate::folder::Folder;
use crate::{Access, Encryption, Settings, Share, SmbError};

/// A configuration, not yet written anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) global: Section,
    pub(crate) shares: Vec<(String, Section)>,
}

/// Options in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Section(Vec<(&'static str, String)>);

impl Configuration {
    /// The configuration of a server that has its state in `folder`.
    pub(crate) fn new<'a>(
        settings: &Settings,
        folder: &Folder,
        shares: impl IntoIterator<Item = &'a Share>,
    ) -> Result<Self, SmbError> {
        let shares = shares
            .into_iter()
            .map(|one| Ok((one.name.to_string(), share(one)?)));
        Ok(Self {
            global: global(settings, folder)?,
            shares: shares.collect::<Result<_, SmbError>>()?,
        })
    }

    /// As `smb.conf`.
    pub(crate) fn text(&self) -> String {
        let mut text = "# Made by Holdfast at every start and change; edits are lost.\n".to_owned();
        let shares = self
            .shares
            .iter()
            .map(|(name, section)| (name.as_str(), section));
        for (name, section) in std::iter::once(("global", &self.global)).chain(shares) {
            writeln!(text, "[{name}]").expect("a string takes any text");
            for (option, value) in section.options() {
                writeln!(text, "\t{option} = {value}").expect("a string takes any text");
            }
        }
        text
    }
}

impl Section {
    pub(crate) fn options(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .map(|(option, value)| (*option, value.as_str()))
    }

    fn fixed(&mut self, options: &[(&'static str, &str)]) {
        let options = options.iter();
        self.0
            .extend(options.map(|(option, value)| (*option, (*value).to_owned())));
    }

    fn value(&mut self, option: &'static str, value: impl Into<String>) -> Result<(), SmbError> {
        let value = value.into();
        if !is_plain(&value) {
            return Err(SmbError::BadValue(value));
        }
        self.0.push((option, value));
        Ok(())
    }

    fn path(&mut self, option: &'static str, path: &Path) -> Result<(), SmbError> {
        match path.to_str().filter(|_| path.is_absolute()) {
            Some(text) => self.value(option, text),
            None => Err(SmbError::BadValue(path.display().to_string())),
        }
    }
}

fn global(settings: &Settings, folder: &Folder) -> Result<Section, SmbError> {
    let mut section = Section::default();
    section.fixed(GLOBAL);
    let encryption = match settings.encryption {
        Encryption::Off => "off",
        Encryption::Allow => "if_required",
        Encryption::Require => "required",
    };
    section.fixed(&[("server smb encrypt", encryption)]);
    section.value("smb ports", settings.port.to_string())?;
    section.value("max smbd processes", settings.clients.to_string())?;
    if settings.addresses.iter().any(IpAddr::is_unspecified) {
        section.fixed(&[("bind interfaces only", "no")]);
    } else {
        section.value("interfaces", interfaces(&settings.addresses))?;
        section.fixed(&[("bind interfaces only", "yes")]);
    }
    for (option, path) in [
        ("private dir", folder.private()),
        ("lock directory", folder.lock()),
        ("state directory", folder.state()),
        ("cache directory", folder.cache()),
        ("pid directory", folder.pid()),
        ("ncalrpc dir", folder.rpc()),
        ("log file", folder.log_file()),
    ] {
        section.path(option, &path)?;
    }
    let passdb = folder.private().join("passdb.tdb");
    section.value("passdb backend", format!("tdbsam:{}", passdb.display()))?;
    Ok(section)
}

/// Samba listens on addresses of interfaces that it knows, and takes another if it comes with its network.
fn interfaces(addresses: &[IpAddr]) -> String {
    let interfaces = addresses.iter().map(|address| match address {
        IpAddr::V4(ip) if ip.is_loopback() => format!("{ip}/8"),
        ip => ip.to_string(),
    });
    interfaces.collect::<Vec<_>>().join(" ")
}

fn share(share: &Share) -> Result<Section, SmbError> {
    let mut section = Section::default();
    section.path("path", &share.path)?;
    let comment: String = share
        .comment
        .chars()
        .filter(|c| is_plain_char(*c))
        .collect();
    section.value("comment", comment.trim())?;
    section.value("valid users", share.user.as_str())?;
    let allow: Vec<_> = share.allow.iter().map(ToString::to_string).collect();
    if !allow.is_empty() {
        section.value("hosts allow", allow.join(" "))?;
    }
    section.fixed(SHARE);
    section.fixed(match share.access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite => READ_WRITE,
    });
    if let Some(earlier) = share.earlier {
        section.fixed(&[("vfs objects", "shadow_copy2"), ("shadow:sort", "desc")]);
        section.value("shadow:snapdir", earlier)?;
        section.path("shadow:mountpoint", &share.path)?;
        section.path("shadow:basedir", &share.path)?;
    }
    Ok(section)
}

/// Whether a value is one line that Samba takes as it is.
fn is_plain(value: &str) -> bool {
    value.chars().all(is_plain_char) && value.trim() == value
}

/// Samba replaces `%`, takes quotes off, and goes on in the next line after a backslash.
fn is_plain_char(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '%' | '"' | '\'' | '\\' | '$' | '\u{2028}' | '\u{2029}'
        )
}

/// What is the same in every server.
const GLOBAL: &[(&str, &str)] = &[
    ("server role", "standalone server"),
    ("workgroup", "HOLDFAST"),
    ("netbios name", "HOLDFAST"),
    ("server string", "Holdfast"),
    ("disable netbios", "yes"),
    ("server min protocol", "SMB3_00"),
    ("server signing", "mandatory"),
    ("ntlm auth", "ntlmv2-only"),
    ("map to guest", "never"),
    ("restrict anonymous", "2"),
    ("access based share enum", "yes"),
    ("server multi channel support", "no"),
    // Handles that outlive their connection would need what the tree behind the folder does not promise.
    ("durable handles", "no"),
    ("load printers", "no"),
    ("printing", "bsd"),
    ("printcap name", "/dev/null"),
    ("disable spoolss", "yes"),
    ("usershare max shares", "0"),
    ("enable core files", "no"),
    ("logging", "file"),
    ("log level", "1"),
    ("max log size", "1000"),
    ("idmap config * : backend", "tdb"),
    ("idmap config * : range", "1700000000-1700999999"),
];

/// What is the same in every share.
const SHARE: &[(&str, &str)] = &[
    // Without this the machine itself is always let in.
    ("hosts deny", "ALL"),
    ("force user", "root"),
    ("wide links", "no"),
    ("browseable", "yes"),
    // Who is told that something is stable must find it after a loss of power; nobody else waits.
    ("strict sync", "yes"),
    ("sync always", "no"),
    ("strict allocate", "no"),
    ("aio read size", "1"),
    ("aio write size", "1"),
    // The kernel's own locks would bind programs of this machine and no other client.
    ("kernel oplocks", "no"),
    ("kernel share modes", "no"),
    ("posix locking", "no"),
    ("ea support", "no"),
    ("store dos attributes", "no"),
    ("map archive", "no"),
    ("map readonly", "no"),
];

const READ_ONLY: &[(&str, &str)] = &[
    ("read only", "yes"),
    ("oplocks", "yes"),
    ("follow symlinks", "yes"),
];

const READ_WRITE: &[(&str, &str)] = &[
    ("read only", "no"),
    ("oplocks", "no"),
    ("level2 oplocks", "no"),
    ("follow symlinks", "no"),
    ("create mask", "0644"),
    ("directory mask", "0755"),
];

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            folder: "/state/smb".into(),
            addresses: vec!["127.0.0.8".parse().unwrap(), "::1".parse().unwrap()],
            port: 4450,
            encryption: Encryption::Require,
            clients: 64,
        }
    }

    pub(crate) fn a_share() -> Share {
        Share {
            name: "web01-3".parse().unwrap(),
            path: "/state/smb/mounts/17".into(),
            comment: "web01-3 of web01@3".to_owned(),
            user: "holdfast-17".parse().unwrap(),
            access: Access::ReadOnly,
            earlier: Some(".snapshots"),
            allow: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        }
    }

    fn made(settings: &Settings, share: &Share) -> Result<Configuration, SmbError> {
        Configuration::new(settings, &Folder::at(&settings.folder), [share])
    }

    #[test]
    fn the_configuration_has_what_was_set() {
        let text = made(&settings(), &a_share()).unwrap().text();
        for line in [
            "[global]",
            "\tserver smb encrypt = required",
            "\tsmb ports = 4450",
            "\tinterfaces = 127.0.0.8/8 ::1",
            "\tbind interfaces only = yes",
            "\tprivate dir = /state/smb/private",
            "\tpassdb backend = tdbsam:/state/smb/private/passdb.tdb",
            "\tserver min protocol = SMB3_00",
            "\tserver signing = mandatory",
            "[web01-3]",
            "\tvalid users = holdfast-17",
            "\thosts allow = 10.0.0.0/8 ::1",
            "\thosts deny = ALL",
            "\tread only = yes",
            "\tshadow:snapdir = .snapshots",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let mut settings = settings();
        settings.addresses.push("0.0.0.0".parse().unwrap());
        let text = made(&settings, &a_share()).unwrap().text();
        assert!(text.contains("\tbind interfaces only = no\n") && !text.contains("\tinterfaces"));
    }

    #[test]
    fn nothing_can_be_slipped_in() {
        for path in [
            "/a\n[global]",
            "/a%U",
            "/a\\",
            "/a ",
            "/\"a\"",
            "relative",
            "/a\r\nx = y",
            "/a\u{85}b",
        ] {
            let mut share = a_share();
            share.path = path.into();
            let refused = made(&settings(), &share);
            assert!(matches!(refused, Err(SmbError::BadValue(_))), "{path:?}");
            if path.ends_with(' ') {
                continue;
            }
            let mut settings = settings();
            settings.folder = path.into();
            let refused = made(&settings, &a_share());
            assert!(matches!(refused, Err(SmbError::BadValue(_))), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn no_comment_makes_a_line_of_its_own(comment in any::<String>()) {
            let mut share = a_share();
            let lines = made(&settings(), &share).unwrap().text().lines().count();
            share.comment = comment;
            let text = made(&settings(), &share).unwrap().text();
            assert_eq!(text.lines().count(), lines);
            assert!(text.lines().filter(|line| line.starts_with('[')).count() == 2);
            assert!(!text.contains('%'));
        }
    }
}
