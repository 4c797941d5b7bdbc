//! The same server for those who run Samba in containers: the description that sambacc reads, its format `v0`.

use serde_json::{Map, Value, json};

use crate::configuration::{Configuration, Section};
use crate::folder::Folder;
use crate::{Settings, Share, SmbError};

/// The description of a server with these shares. Folders must be seen in the container under the same paths. Passwords
/// are not in it, as nobody has them: set them in `users`, or with `smbpasswd` in the container.
///
/// # Errors
/// If something cannot stand in Samba's configuration.
pub fn description(settings: &Settings, shares: &[Share]) -> Result<Value, SmbError> {
    let folder = Folder::at(&settings.folder);
    let configuration = Configuration::new(settings, &folder, shares)?;
    let names: Vec<&String> = configuration.shares.iter().map(|(name, _)| name).collect();
    let described = configuration.shares.iter().map(|(name, section)| {
        let options = options(section, &[]);
        (
            name.clone(),
            json!({ "options": options, "permissions": { "method": "none" } }),
        )
    });
    let users = shares
        .iter()
        .zip(FIRST_ID..)
        .map(|(share, id)| json!({ "name": share.user.as_str(), "uid": id, "gid": id }));
    Ok(json!({
        "samba-container-config": "v0",
        "configs": {
            "holdfast": {
                "instance_name": "HOLDFAST",
                "globals": ["holdfast"],
                "shares": names,
                "permissions": { "method": "none" },
            },
        },
        "globals": { "holdfast": { "options": options(&configuration.global, OF_THE_MACHINE) } },
        "shares": described.collect::<Map<_, _>>(),
        "users": { "all_entries": users.collect::<Vec<_>>() },
        "groups": { "all_entries": [] },
    }))
}

fn options(section: &Section, without: &[&str]) -> Map<String, Value> {
    let options = section.options();
    options
        .filter(|(option, _)| !without.contains(option))
        .map(|(option, value)| (option.to_owned(), Value::from(value)))
        .collect()
}

/// What a container has in places of its own, or listens at as it likes.
const OF_THE_MACHINE: &[&str] = &[
    "private dir",
    "lock directory",
    "state directory",
    "cache directory",
    "pid directory",
    "ncalrpc dir",
    "log file",
    "logging",
    "passdb backend",
    "interfaces",
    "bind interfaces only",
    "netbios name",
    "smb ports",
];

const FIRST_ID: u32 = 0x6000_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::tests::{a_share, settings};

    /// The keys that sambacc's schema allows at each place, and what they hold.
    #[test]
    fn the_description_has_the_shape_that_sambacc_reads() {
        let description = description(&settings(), &[a_share()]).unwrap();
        let keys = |value: &Value| {
            let object = value.as_object().unwrap();
            object.keys().cloned().collect::<Vec<_>>()
        };
        let top = keys(&description);
        for key in &top {
            let known = [
                "samba-container-config",
                "configs",
                "globals",
                "shares",
                "users",
                "groups",
            ];
            assert!(known.contains(&key.as_str()), "{key}");
        }
        assert_eq!(description["samba-container-config"], "v0");
        let config = &description["configs"]["holdfast"];
        for key in keys(config) {
            let known = [
                "shares",
                "globals",
                "instance_features",
                "permissions",
                "instance_name",
                "domain_settings",
            ];
            assert!(known.contains(&key.as_str()), "{key}");
        }
        for choice in ["shares", "globals"] {
            for name in config[choice].as_array().unwrap() {
                let section = &description[choice][name.as_str().unwrap()];
                for key in keys(section) {
                    assert!(["options", "permissions"].contains(&key.as_str()), "{key}");
                }
                assert!(
                    section["options"]
                        .as_object()
                        .unwrap()
                        .values()
                        .all(Value::is_string)
                );
            }
        }
        assert_eq!(
            description["shares"]["web01-3"]["options"]["path"],
            "/state/smb/mounts/17"
        );
        for user in description["users"]["all_entries"].as_array().unwrap() {
            assert_eq!(keys(user), ["gid", "name", "uid"]);
            assert!(user["name"].is_string() && user["uid"].is_u64() && user["gid"].is_u64());
        }
        assert!(
            description["globals"]["holdfast"]["options"]
                .get("private dir")
                .is_none()
        );
        assert_eq!(
            description["globals"]["holdfast"]["options"]["server min protocol"],
            "SMB3_00"
        );
    }
}
