//! Stop signals: of the pod (an enum of the interface), of the image (free text), as numbers.

use oci_spec::image::Config as ImageConfig;
use proto::cri::{ContainerConfig, Signal};

use crate::Error;

const TERM: i32 = 15;
/// As the C libraries count them; the kernel's first two are the threads library's own.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// The signal that asks the container to end: the pod's, else the image's, else `SIGTERM`.
pub(crate) fn stop_signal(config: &ContainerConfig, image: Option<&ImageConfig>) -> Result<i32, Error> {
    if config.stop_signal() != Signal::RuntimeDefault {
        let name = config.stop_signal().as_str_name();
        return parse(name)
            .ok_or_else(|| Error::invalid("config.stop_signal", format!("unknown signal {name}")));
    }
    match image.and_then(|image| image.stop_signal().as_deref()) {
        None | Some("") => Ok(TERM),
        Some(text) => {
            parse(text).ok_or_else(|| Error::invalid("image stop signal", format!("unknown signal {text:?}")))
        }
    }
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1` and the interface's `SIGRTMINPLUS3`; any case.
fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(offset, '+', "PLUS").map(|offset| RTMIN + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(offset, '-', "MINUS").map(|offset| RTMAX - offset);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// The offset of a real-time signal from its end of the range, which holds two times fifteen.
fn real_time(text: &str, sign: char, word: &str) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign).or_else(|| text.strip_prefix(word))?;
    digits.parse().ok().filter(|offset| (1..=15).contains(offset))
}

/// The interface's name of signal `number`.
pub(crate) fn to_cri(number: i32) -> Signal {
    let name = match number {
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        35..=49 => format!("SIGRTMINPLUS{}", number - RTMIN),
        50..=63 => format!("SIGRTMAXMINUS{}", RTMAX - number),
        _ => match NAMES.iter().find(|(_, known)| *known == number) {
            Some((name, _)) => format!("SIG{name}"),
            None => return Signal::RuntimeDefault,
        },
    };
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}
