//! A reader of layer archives (tar: ustar, GNU long names, PAX), strict and bounded.
//!
//! Two readers that disagree about an archive are an attack; so wherever headers contradict each other the archive is
//! refused. Field decoding is the `tar` crate's, the walk is ours: that crate reads extended headers without bound.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use tar::{EntryType, Header};

use crate::state::layer::Metadata;

#[cfg(test)]
mod tests;

const BLOCK: u64 = 512;
const MAX_EXTENDED: u64 = 1 << 20;
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
const MAX_DEPTH: usize = 255;
const MAX_XATTR: usize = 64 << 10;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{reason}")]
    Malformed { entry: String, reason: String },
    #[error("more than {limit}")]
    Bounds { entry: String, limit: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative, without `.` and `..`; empty for the root itself.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) metadata: Metadata,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With so many bytes, to be taken with [`Reader::copy`].
    File(u64),
    Directory,
    Symlink(OsString),
    /// To a path within the layer.
    Hardlink(PathBuf),
    Fifo,
    Device,
}

/// Reads members one after another.
pub(crate) struct Reader<R> {
    inner: R,
    /// Content of the current member not yet read, and the padding after it.
    left: u64,
    padding: u64,
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
        }
    }

    /// The next member; none at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        let mut announced = false;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return if announced {
                    Err(malformed("", "ends after an extended header"))
                } else {
                    Ok(None)
                };
            };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => self.pax(size, &mut extended)?,
                EntryType::XGlobalHeader => self.global(size)?,
                EntryType::GNULongName => set_once(&mut extended.path, self.long_name(size)?)?,
                EntryType::GNULongLink => set_once(&mut extended.link, self.long_name(size)?)?,
                _ => return self.member(&header, size, extended).map(Some),
            }
            announced |= header.entry_type() != EntryType::XGlobalHeader;
        }
    }

    /// Writes the content of the member given last to `out`.
    pub(crate) fn copy(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.inner).take(self.left), out)?;
        if copied < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = 0;
        Ok(())
    }

    /// Reads to the very end: what follows the archive belongs to the layer's digest too.
    pub(crate) fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self.inner, &mut io::sink())?;
        Ok(self.inner)
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            // The checksum's own field counts as spaces.
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    u32::from(b' ')
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        if header.cksum()? != sum {
            return Err(malformed("", "header checksum does not match"));
        }
        Ok(Some(header))
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(bounds("", format!("{MAX_EXTENDED} bytes in an extended header")));
        }
        self.expect(size)?;
        let mut body = Vec::new();
        self.copy(&mut body)?;
        Ok(body)
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.body(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn pax(&mut self, size: u64, extended: &mut Extended) -> Result<()> {
        for (key, value) in records(&self.body(size)?)? {
            match key.as_slice() {
                b"path" => set_once(&mut extended.path, value)?,
                b"linkpath" => set_once(&mut extended.link, value)?,
                b"size" => set_once(&mut extended.size, number(&value)?)?,
                b"uid" => set_once(&mut extended.uid, number(&value)?)?,
                b"gid" => set_once(&mut extended.gid, number(&value)?)?,
                b"mtime" => set_once(&mut extended.mtime, time(&value)?)?,
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(malformed("", "sparse members are not taken"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                        && is_kept(name)
                    {
                        if value.len() > MAX_XATTR {
                            return Err(bounds("", format!("{MAX_XATTR} bytes in an extended attribute")));
                        }
                        extended.xattrs.push((OsString::from_vec(name.to_vec()), value));
                    }
                }
            }
        }
        Ok(())
    }

    /// Defaults for all that follows: harmless ones (a commit id) are passed over, others would make readers differ.
    fn global(&mut self, size: u64) -> Result<()> {
        let harmful = [&b"path"[..], b"linkpath", b"size", b"uid", b"gid"];
        let records = records(&self.body(size)?)?;
        match records.iter().find(|(key, _)| harmful.contains(&key.as_slice())) {
            Some((key, _)) => Err(malformed("", format!("global {}", String::from_utf8_lossy(key)))),
            None => Ok(()),
        }
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Entry> {
        let name = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&name)
            .chars()
            .take(256)
            .collect::<String>();
        let size = match extended.size {
            // Writers leave the header's field at 0 where the size does not fit.
            Some(pax) if pax != size && size != 0 => return Err(malformed(&shown, "two sizes that differ")),
            Some(pax) => pax,
            None => size,
        };
        let path = clean(&name).map_err(|error| named(error, &shown))?;
        let link = match extended.link {
            Some(link) => Some(link),
            None => header.link_name_bytes().map(|link| link.into_owned()),
        };
        let is_directory_name = name.ends_with(b"/");
        let kind = match header.entry_type() {
            EntryType::Regular if is_directory_name && size == 0 && header.as_ustar().is_none() => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous => Kind::File(size),
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(target(link).map_err(|error| named(error, &shown))?),
            EntryType::Link => {
                Kind::Hardlink(clean(&link.unwrap_or_default()).map_err(|error| named(error, &shown))?)
            }
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                return Err(malformed(
                    &shown,
                    format!("type {:?} is not taken", char::from(other.as_byte())),
                ));
            }
        };
        let content = match kind {
            Kind::File(size) => size,
            _ if size != 0 => return Err(malformed(&shown, "content where none belongs")),
            _ => 0,
        };
        if path.as_os_str().is_empty() && kind != Kind::Directory {
            return Err(malformed(&shown, "the root can only be a directory"));
        }
        self.expect(content)?;
        let id = |pax: Option<u64>, header: u64| {
            u32::try_from(pax.unwrap_or(header)).map_err(|_| malformed(&shown, "owner beyond 32 bits"))
        };
        let metadata = Metadata {
            uid: id(extended.uid, header.uid()?)?,
            gid: id(extended.gid, header.gid()?)?,
            mode: header.mode()? & 0o7777,
            mtime: extended
                .mtime
                .unwrap_or((i64::try_from(header.mtime()?).unwrap_or(i64::MAX), 0)),
            xattrs: extended.xattrs,
        };
        Ok(Entry { path, kind, metadata })
    }
}

/// Attributes an image may bring: capabilities, access lists, user data; nothing that overlay or an LSM obeys.
fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name.len() <= MAX_NAME,
    }
}

/// PAX records: `LENGTH KEY=VALUE\n`, the length counting all of it.
fn records(mut body: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bad = || malformed("", "extended header cannot be read");
    let mut found = Vec::new();
    while !body.is_empty() {
        let space = body
            .iter()
            .take(8)
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length = usize::try_from(number(&body[..space])?).map_err(|_| bad())?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &body[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        found.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        body = &body[length..];
    }
    Ok(found)
}

fn number(text: &[u8]) -> Result<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("", "number cannot be read"))
}

/// `SECONDS[.FRACTION]`, seconds with a sign.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let bad = || malformed("", "time cannot be read");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| bad())?;
    match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => Ok((
            seconds.checked_sub(1).ok_or_else(bad)?,
            1_000_000_000 - nanoseconds,
        )),
        _ => Ok((seconds, nanoseconds)),
    }
}

/// A member's name as a path that cannot lead out: relative, no `..`, each part a possible file name.
fn clean(name: &[u8]) -> Result<PathBuf> {
    if name.len() > MAX_PATH {
        return Err(bounds("", format!("{MAX_PATH} bytes in a name")));
    }
    if name.contains(&0) {
        return Err(malformed("", "NUL in a name"));
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) if part.len() <= MAX_NAME => {
                depth += 1;
                path.push(part);
            }
            Component::Normal(_) => return Err(bounds("", format!("{MAX_NAME} bytes in a part of a name"))),
            Component::ParentDir | Component::Prefix(_) => return Err(malformed("", "name leads upwards")),
        }
    }
    if depth > MAX_DEPTH {
        return Err(bounds("", format!("{MAX_DEPTH} directories deep")));
    }
    Ok(path)
}

/// A symbolic link's text, which may point anywhere: it is only ever followed inside a root.
fn target(link: Option<Vec<u8>>) -> Result<OsString> {
    let link = link.unwrap_or_default();
    if link.is_empty() || link.contains(&0) || link.len() >= MAX_PATH {
        return Err(malformed("", "symbolic link without a usable target"));
    }
    Ok(OsString::from_vec(link))
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("", "extended header says one thing twice")),
    }
}

fn malformed(entry: &str, reason: impl ToString) -> Error {
    Error::Malformed {
        entry: entry.to_owned(),
        reason: reason.to_string(),
    }
}

fn bounds(entry: &str, limit: impl ToString) -> Error {
    Error::Bounds {
        entry: entry.to_owned(),
        limit: limit.to_string(),
    }
}

fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Malformed { reason, .. } => Error::Malformed {
            entry: name.to_owned(),
            reason,
        },
        Error::Bounds { limit, .. } => Error::Bounds {
            entry: name.to_owned(),
            limit,
        },
        io => io,
    }
}
