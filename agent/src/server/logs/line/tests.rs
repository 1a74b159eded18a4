use proptest::prelude::*;

use super::*;

#[test]
fn lines_are_taken_apart() {
    let good = parse(b"2026-01-02T03:04:05.5Z stdout F hello world\n").unwrap();
    assert_eq!(
        (good.timestamp_text, good.content),
        ("2026-01-02T03:04:05.5Z", &b"hello world\n"[..])
    );
    assert_eq!(
        parse(b"2026-01-02T03:04:05.5+01:00 stderr P:x part\n")
            .unwrap()
            .content,
        b"part"
    );
    assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F \n").unwrap().content, b"\n");
    assert_eq!(
        parse(b"2026-01-02T03:04:05Z stdout F torn").unwrap().content,
        b"torn"
    );
    for bad in [
        "",
        "\n",
        "x stdout F a\n",
        "2026-01-02T03:04:05Z stdin F a\n",
        "2026-01-02T03:04:05Z stdout F",
        "{}\n",
    ] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn timestamps_have_nine_digits() {
    for (text, expected) in [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z "),
        (
            "2026-01-02T03:04:05.12+05:30",
            "2026-01-02T03:04:05.120000000+05:30 ",
        ),
        (
            "2026-01-02T03:04:05.123456789-01:00",
            "2026-01-02T03:04:05.123456789-01:00 ",
        ),
        ("2026-01-02T03:04:05.1+00:00", "2026-01-02T03:04:05.100000000Z "),
    ] {
        assert_eq!(String::from_utf8(fixed_width(text)).unwrap(), expected);
    }
}

proptest! {
    /// Whatever stands in a log file: no panic, and never more bytes than asked for.
    #[test]
    fn garbage_is_harmless(
        lines in proptest::collection::vec("[0-9TZ:. A-Za-z+-]{0,40}\n?|2026-01-02T03:04:05Z (stdout|stderr) [FP] .{0,9}\n", 0..20),
        limit in proptest::option::of(0u64..50),
    ) {
        let mut shaper = Shaper::new(&Options { limit_bytes: limit, timestamps: true, ..Options::default() });
        let mut output = Vec::new();
        for line in &lines {
            let _ = shaper.line(line.as_bytes(), &mut output);
        }
        prop_assert!(limit.is_none_or(|limit| output.len() as u64 <= limit));
    }
}
