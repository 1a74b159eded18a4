//! How ends and failures read.

use runtime::wire::{Exit, Failure};

use super::outcome::{lost, of, reason};

fn exit(code: i32, oom_killed: bool, started_at: i64) -> Exit {
    Exit {
        code,
        signal: None,
        oom_killed,
        started_at,
        finished_at: 9,
    }
}

#[test]
fn ends_have_the_interfaces_reasons() {
    let table = [
        (exit(0, false, 1), "Completed", 0),
        (exit(1, false, 1), "Error", 1),
        (exit(137, false, 1), "Error", 137),
        (exit(137, true, 1), "OOMKilled", 137),
        (exit(0, true, 1), "OOMKilled", 0),
        (exit(1, false, 0), "StartError", 128),
    ];
    for (exit, wanted, code) in table {
        let outcome = of(&exit);
        assert_eq!(
            (outcome.reason.as_str(), outcome.exit_code),
            (wanted, code),
            "{exit:?}"
        );
        assert_eq!((outcome.started_at, outcome.finished_at), (exit.started_at, 9));
    }
    assert_eq!(lost(1, 2).exit_code, 137);
}

#[test]
fn failures_name_their_object_once() {
    let failure = |step: &str, object: &str, message: &str| Failure {
        step: step.into(),
        object: object.into(),
        errno: 2,
        message: message.into(),
    };
    let words = "exec: \"foo\": executable file not found in $PATH";
    assert_eq!(reason(&failure("find program", "foo", words)), words);
    assert_eq!(
        reason(&failure("mount", "/x", "permission denied")),
        "mount /x: permission denied"
    );
}
