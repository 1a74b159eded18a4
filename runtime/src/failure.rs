//! Trouble on the way to a [`Failure`]: what was touched and what the kernel said; the step is added by who runs it.

use rustix::io::Errno;

use crate::sys::mount::Refused;
use crate::wire::Failure;

/// An operation that failed, before its step is known.
#[derive(Debug)]
pub(crate) struct Trouble {
    object: String,
    errno: i32,
    message: String,
}

impl Trouble {
    /// A refusal of ours, not of the kernel.
    pub(crate) fn rule(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            errno: 0,
            message: message.into(),
        }
    }

    /// As [`Self::rule`], with the error number upstream would show.
    pub(crate) fn worded(object: impl Into<String>, errno: Errno, message: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            errno: errno.raw_os_error(),
            message: message.into(),
        }
    }

    /// A refusal of the kernel.
    pub(crate) fn kernel(object: impl Into<String>, errno: Errno) -> Self {
        Self {
            object: object.into(),
            errno: errno.raw_os_error(),
            message: text_of(errno),
        }
    }

    /// The failure of `step`.
    pub(crate) fn in_step(self, step: &str) -> Failure {
        Failure {
            step: step.to_owned(),
            object: self.object,
            errno: self.errno,
            message: self.message,
        }
    }
}

/// The kernel's text for an error number, as Go programs print it: no number, no capital.
pub(crate) fn text_of(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

/// Says what an effect was done to.
pub(crate) trait About<T> {
    /// Names the object of a failed effect.
    fn about(self, object: impl Into<String>) -> Result<T, Trouble>;
}

impl<T> About<T> for Result<T, Errno> {
    fn about(self, object: impl Into<String>) -> Result<T, Trouble> {
        self.map_err(|errno| Trouble::kernel(object, errno))
    }
}

impl<T> About<T> for Result<T, Refused> {
    fn about(self, object: impl Into<String>) -> Result<T, Trouble> {
        self.map_err(|Refused { errno, message }| match message {
            Some(message) => Trouble::worded(object, errno, format!("{}: {message}", text_of(errno))),
            None => Trouble::kernel(object, errno),
        })
    }
}
