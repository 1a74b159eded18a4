use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:33:34:web:/srv:/bin/false\nnohome:x:50:51:::\n\
                      1000:x:7:7::/evil:\n";
const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:other,web\nadm:x:41:web\n";

fn user(uid: Id, gid: Option<Id>, image_groups: bool) -> User {
    User {
        uid,
        gid,
        additional_gids: vec![40, 99],
        image_groups,
    }
}

fn name(name: &str) -> Id {
    Id::Name(name.to_owned())
}

#[test]
fn name_brings_group_home_and_groups_of_the_image() {
    let account = look_up(&user(name("web"), None, true), PASSWD, GROUP).unwrap();
    assert_eq!(
        (account.uid, account.gid, account.home.as_str()),
        (33, 34, "/srv")
    );
    assert_eq!(account.groups, [34, 40, 99, 41]);
}

#[test]
fn groups_of_the_image_stay_out_unless_asked() {
    let account = look_up(&user(name("web"), None, false), PASSWD, GROUP).unwrap();
    assert_eq!(account.groups, [34, 40, 99]);
}

#[test]
fn a_number_is_never_a_name() {
    let account = look_up(&user(Id::Number(1000), None, true), PASSWD, GROUP).unwrap();
    assert_eq!((account.uid, account.gid, account.home.as_str()), (1000, 0, "/"));
    assert_eq!(account.groups, [0, 40, 99]);
}

#[test]
fn group_by_name_overrides() {
    let account = look_up(&user(Id::Number(33), Some(name("adm")), false), PASSWD, GROUP).unwrap();
    assert_eq!((account.uid, account.gid), (33, 41));
}

#[test]
fn unknown_names_have_the_words_of_upstream() {
    let failure = look_up(&user(name("ghost"), None, false), PASSWD, GROUP)
        .unwrap_err()
        .in_step("s");
    assert_eq!(
        failure.message,
        "unable to find user ghost: no matching entries in passwd file"
    );
    let failure = look_up(&user(name("web"), Some(name("ghosts")), false), PASSWD, GROUP)
        .unwrap_err()
        .in_step("s");
    assert_eq!(
        failure.message,
        "unable to find group ghosts: no matching entries in group file"
    );
}

#[test]
fn the_number_that_means_unchanged_is_refused() {
    assert!(look_up(&user(Id::Number(u32::MAX), None, false), PASSWD, GROUP).is_err());
    assert!(
        look_up(
            &user(Id::Number(1), Some(Id::Number(u32::MAX)), false),
            PASSWD,
            GROUP
        )
        .is_err()
    );
}
