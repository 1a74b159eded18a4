use proptest::prelude::*;

use super::*;

#[test]
fn users_of_images() {
    let parsed = |text| User::parse(text).map(|user| (user.uid, user.gid));
    assert_eq!(parsed("").unwrap(), (Id::Number(0), None));
    assert_eq!(parsed("web").unwrap(), (Id::Name("web".into()), None));
    assert_eq!(
        parsed("1000:2000").unwrap(),
        (Id::Number(1000), Some(Id::Number(2000)))
    );
    assert_eq!(parsed("web:").unwrap(), (Id::Name("web".into()), None));
    for odd in ["-1", "0x0", "+0", "1.0"] {
        assert_eq!(
            parsed(odd).unwrap().0,
            Id::Name(odd.into()),
            "digits alone are a number"
        );
    }
    for bad in [
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "a:b:c",
        "a\n",
        "1:4294967296",
    ] {
        assert!(parsed(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    /// What looks like a number is that number or an error, never a name that /etc/passwd may map to root.
    #[test]
    fn digits_are_never_a_name(text in "[0-9]{1,24}") {
        match Id::parse(&text) {
            Ok(Id::Number(number)) => prop_assert_eq!(u64::from(number), text.parse::<u64>().unwrap()),
            Ok(Id::Name(name)) => prop_assert!(false, "{} became a name", name),
            Err(_) => prop_assert!(text.parse::<u64>().map_or(true, |number| number >= u64::from(u32::MAX))),
        }
    }
}
