//! Who is let in, and how.

use smb::{Access, Encryption, Fate, Login, SmbError};

use crate::support::{Answer, Setup, User, can_serve, name};

#[test]
fn a_user_sees_its_own_share_and_no_other() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let first = setup.add(setup.share("first", 1, Access::ReadWrite));
    let second = setup.add(setup.share("second", 2, Access::ReadWrite));
    setup.client("first", &first, "ls").good();
    setup.client("second", &second, "ls").good();
    setup
        .client("second", &first, "ls")
        .refused("NT_STATUS_ACCESS_DENIED");
    let mut command = setup.client_command();
    command.args(["-g", "-L", "//127.0.0.1"]);
    Setup::log_in(&mut command, &first);
    let listed = Answer::of(command.output().unwrap()).text;
    assert!(listed.contains("Disk|first|the share first"), "{listed}");
    assert!(!listed.contains("second"), "{listed}");
}

#[test]
fn whoever_does_not_know_the_password_stays_out() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let user = setup.add(setup.share("disks", 1, Access::ReadWrite));
    let wrong = |password: &str| User {
        name: user.name.clone(),
        password: password.to_owned(),
    };
    for password in ["", "wrong", &user.password.to_uppercase()] {
        setup.client("disks", &wrong(password), "ls").kept_out();
    }
    for other in ["root", "nobody", "holdfast-2"] {
        let other = User {
            name: other.to_owned(),
            password: user.password.clone(),
        };
        setup.client("disks", &other, "ls").kept_out();
    }
    let mut command = setup.client_command();
    command.args(["-N", "//127.0.0.1/disks", "-c", "ls"]);
    Answer::of(command.output().unwrap()).refused("NT_STATUS_");
    let mut command = setup.client_command();
    command.args(["-N", "-g", "-L", "//127.0.0.1"]);
    let listed = Answer::of(command.output().unwrap()).text;
    assert!(!listed.contains("disks"), "{listed}");
}

#[test]
fn a_new_password_ends_the_old_one_and_a_kept_one_stays() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let share = setup.share("disks", 1, Access::ReadWrite);
    let first = setup.add(share.clone());
    let server = setup.server();
    server.remove(&share.name, Fate::Keep).unwrap();
    setup
        .client("disks", &first, "ls")
        .refused("NT_STATUS_BAD_NETWORK_NAME");
    assert!(server.add(share.clone(), Login::Kept).unwrap().is_none());
    setup.client("disks", &first, "ls").good();
    assert!(matches!(
        server.add(share.clone(), Login::New),
        Err(SmbError::NameTaken(_))
    ));
    server.remove(&share.name, Fate::Keep).unwrap();
    let second = setup.add(share.clone());
    setup.client("disks", &first, "ls").kept_out();
    setup.client("disks", &second, "ls").good();
    server.remove(&share.name, Fate::Forget).unwrap();
    setup.client("disks", &second, "ls").kept_out();
    server.remove(&share.name, Fate::Forget).unwrap();
}

#[test]
fn users_whom_a_crash_left_without_share_are_forgotten() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let kept = setup.add(setup.share("kept", 1, Access::ReadWrite));
    let left = setup.add(setup.share("left", 2, Access::ReadWrite));
    setup.server().remove(&name("left"), Fate::Keep).unwrap();
    let stopped = setup.share("stopped", 3, Access::ReadWrite);
    let (user, third) = (stopped.user.clone(), setup.add(stopped));
    setup.server().forget(&user).unwrap();
    setup.client("stopped", &third, "ls").good();
    setup.server().remove(&name("stopped"), Fate::Keep).unwrap();
    setup.server().forget(&user).unwrap();
    setup.server().forget(&user).unwrap();
    setup.client("stopped", &third, "ls").kept_out();
    setup.server().forget_others().unwrap();
    setup.client("left", &left, "ls").kept_out();
    setup.client("kept", &kept, "ls").good();
}

#[test]
fn old_dialects_are_refused() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let user = setup.add(setup.share("disks", 1, Access::ReadWrite));
    for dialect in ["NT1", "SMB2_02", "SMB2_10"] {
        setup
            .client_with("disks", &user, &["-m", dialect], "ls")
            .refused("negotiation failed");
    }
    for dialect in ["SMB3_00", "SMB3_02", "SMB3_11"] {
        setup
            .client_with("disks", &user, &["-m", dialect], "ls")
            .good();
    }
}

#[test]
fn traffic_is_signed_always_and_encrypted_as_set() {
    if !can_serve() {
        return;
    }
    for (encryption, wanted, encrypted) in [
        (Encryption::Off, "off", false),
        (Encryption::Allow, "required", true),
        (Encryption::Allow, "off", false),
        // Whatever the client would like.
        (Encryption::Require, "off", true),
    ] {
        let setup = Setup::start(encryption);
        let user = setup.add(setup.share("disks", 1, Access::ReadWrite));
        // The client would rather not sign.
        let options = [
            "--option=client signing=off",
            &format!("--option=client smb encrypt={wanted}"),
        ];
        let mut command = setup.client_command();
        command.arg("//127.0.0.1/disks").args(options);
        Setup::log_in(&mut command, &user);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::null());
        let mut client = command.spawn().unwrap();
        crate::support::eventually("the client logs in", || {
            let connections = setup.server().connections().unwrap();
            let first = connections.first();
            first.is_some_and(|first| first.encryption.is_some() == encrypted)
        });
        let connections = setup.server().connections().unwrap();
        assert_eq!(connections[0].user, "holdfast-1");
        assert_eq!(connections[0].dialect, "SMB3_11");
        assert_eq!(connections[0].machine, "127.0.0.1");
        assert!(connections[0].signing.is_some(), "{connections:?}");
        drop(client.stdin.take());
        client.wait().unwrap();
    }
}

#[test]
fn addresses_that_are_not_allowed_are_refused_this_machine_too() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let networks: [(&str, &[&str], bool); 5] = [
        ("one", &["127.0.0.1"], true),
        ("all", &["0.0.0.0/0", "::/0"], true),
        ("other", &["10.0.0.0/8", "::1"], false),
        ("near", &["127.0.0.2/32"], false),
        ("none", &[], false),
    ];
    for (number, (share, allow, admitted)) in (1..).zip(networks) {
        let mut share = setup.share(share, number, Access::ReadWrite);
        share.allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        let name = share.name.to_string();
        let user = setup.add(share);
        let answer = setup.client(&name, &user, "ls");
        match admitted {
            true => drop(answer.good()),
            false => answer.refused("NT_STATUS_ACCESS_DENIED"),
        }
    }
}
