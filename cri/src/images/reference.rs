//! Names of images, normalised as Docker and containerd do: `nginx` is `docker.io/library/nginx:latest`.
//!
//! Grammar: the distribution project's reference grammar. A reference with tag and digest loses its tag, as in
//! containerd's CRI.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

#[cfg(test)]
mod tests;

const DOCKER_HUB: &str = "docker.io";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image reference. [`fmt::Display`] gives the full name: `DOMAIN/PATH:TAG` or `DOMAIN/PATH@DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// Which content of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Version {
    /// What the tag stands for at the moment.
    Tag(String),
    /// Exactly this content.
    Digest(Digest),
}

/// A text that names no image. Its text is what a pod's `InvalidImageName` shows after the default-tag words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{name}\": {reason}")]
pub struct ReferenceError {
    /// The text as given.
    pub name: String,
    /// Upstream's words for what is wrong.
    pub reason: Reason,
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has an upper-case letter.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository is longer than 255 bytes.
    #[error("repository name must not be more than {MAX_PATH} characters")]
    TooLong,
    /// A bare id where a name belongs.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    BareId(String),
    /// A digest other than SHA-256.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// A SHA-256 with the wrong number of digits.
    #[error("invalid checksum digest length")]
    DigestLength,
}

impl Reference {
    /// Registry host, with port where one was given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository within the registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Tag or digest.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// `DOMAIN/PATH`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository at a fixed content.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self {
            version: Version::Digest(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        parse(name).map_err(|reason| ReferenceError {
            name: name.chars().take(512).collect(),
            reason,
        })
    }
}

fn parse(name: &str) -> Result<Reference, Reason> {
    if Digest::from_hex(name).is_ok() {
        return Err(Reason::BareId(name.to_owned()));
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (name, None),
    };
    let (domain, remainder) = split_domain(rest);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Reason::Uppercase(path.to_owned()));
    }
    if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
        return Err(Reason::Format);
    }
    let path = if domain == DOCKER_HUB && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if path.len() > MAX_PATH {
        return Err(Reason::TooLong);
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference {
        domain: domain.to_owned(),
        path,
        version,
    })
}

/// The part before the first slash is a host only if it looks like one.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (DOCKER_HUB, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn parse_digest(text: &str) -> Result<Digest, Reason> {
    let (algorithm, hex) = text.split_once(':').ok_or(Reason::Format)?;
    let known_shape = !algorithm.is_empty()
        && algorithm
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte));
    if !known_shape || hex.len() < 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Reason::Format);
    }
    match algorithm {
        "sha256" if hex.len() != 64 => Err(Reason::DigestLength),
        "sha256" => Digest::from_hex(hex).map_err(|_| Reason::Format),
        _ => Err(Reason::Algorithm),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, after))) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", after)
        }
        Some(None) => return false,
        None => match domain.find(':') {
            Some(at) => domain.split_at(at),
            None => (domain, ""),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host_ok = domain.starts_with('[') || (host.len() <= 253 && host.split('.').all(label));
    let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    host_ok && port_ok
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Runs of `[a-z0-9]` joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    word(first)
        && word(last)
        && bytes.split(|&byte| word(byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}
