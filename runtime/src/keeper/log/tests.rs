use proptest::prelude::*;

use super::*;

fn cut(pieces: &[&[u8]], finish: bool) -> String {
    let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
    for piece in pieces {
        lines.feed(piece, "T", &mut out);
    }
    if finish {
        lines.finish("T", &mut out);
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn whole_lines_are_full_and_the_rest_is_partial() {
    assert_eq!(
        cut(&[b"a\nb", b"c\n\nd"], true),
        "T stdout F a\nT stdout F bc\nT stdout F \nT stdout P d\n"
    );
    assert_eq!(cut(&[b"a\n"], true), "T stdout F a\n");
}

#[test]
fn a_line_of_the_limit_is_full_and_one_byte_more_is_cut() {
    let limit = "x".repeat(MAX_LINE);
    assert_eq!(
        cut(&[limit.as_bytes(), b"\n"], true),
        format!("T stdout F {limit}\n")
    );
    let over = format!("{limit}y\n");
    assert_eq!(
        cut(&[over.as_bytes()], true),
        format!("T stdout P {limit}\nT stdout F y\n")
    );
}

proptest! {
    /// However output arrives, the text of the log lines joined by their tags is the output.
    #[test]
    fn nothing_is_lost_or_added(pieces in prop::collection::vec("[a\n]{0,40}|x{16000,40000}", 0..6)) {
        let whole: String = pieces.concat();
        let bytes: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let log = cut(&bytes, true);
        let mut back = String::new();
        for line in log.lines() {
            let text = line.strip_prefix("T stdout ").unwrap();
            prop_assert!(text.len() <= MAX_LINE + 2);
            back.push_str(&text[2..]);
            if text.starts_with('F') {
                back.push('\n');
            }
        }
        prop_assert_eq!(back, whole);
    }
}
