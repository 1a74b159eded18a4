//! Who the program runs as, by the container's own /etc/passwd and /etc/group, which are data and nothing more.

use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Init, Trouble, resolve};
use crate::failure::About as _;
use crate::plan::{Id, User};
use crate::sys::file;

/// Most groups of one process (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// A resolved user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The primary group is among them: a file may deny by group what it allows to others.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Resolves the plan's user.
pub(super) fn resolve(init: &mut Init<'_>) -> Result<(), Trouble> {
    let passwd = read_database(init.root()?, "/etc/passwd")?;
    let group = read_database(init.root()?, "/etc/group")?;
    init.account = Some(look_up(&init.plan.process.user, &passwd, &group)?);
    Ok(())
}

/// The text of a database; none counts as empty, and so does one that is a link.
fn read_database(root: BorrowedFd<'_>, path: &str) -> Result<String, Trouble> {
    let opened = match resolve::readable_file(root, path) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(Trouble::kernel(path, errno)),
    };
    let mode = rustix::fs::fstat(&opened).about(path)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Trouble::rule(path, "is not a regular file"));
    }
    let bytes = file::read_bounded(&opened).about(path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One line of a passwd file.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Entry {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    })
}

/// (name, gid, members) of each line of a group file.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

fn look_up(user: &User, passwd: &str, group: &str) -> Result<Account, Trouble> {
    let entry = match &user.uid {
        Id::Number(uid) => entries(passwd).find(|entry| entry.uid == *uid),
        Id::Name(name) => {
            let found = entries(passwd).find(|entry| entry.name == name);
            let missing = || format!("unable to find user {name}: no matching entries in passwd file");
            Some(found.ok_or_else(|| Trouble::rule(name, missing()))?)
        }
    };
    let uid = match (&user.uid, &entry) {
        (Id::Number(uid), _) => *uid,
        (Id::Name(_), Some(entry)) => entry.uid,
        (Id::Name(name), None) => return Err(Trouble::rule(name, "user is not resolved")),
    };
    let gid = match &user.gid {
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => {
            let found = groups(group).find(|(group, ..)| group == name);
            let missing = || format!("unable to find group {name}: no matching entries in group file");
            found.ok_or_else(|| Trouble::rule(name, missing()))?.1
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let home = entry
        .as_ref()
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned();
    let mut all = vec![gid];
    all.extend(&user.additional_gids);
    if let Some(entry) = entry.filter(|_| user.image_groups) {
        let member = |(_, gid, members): (&str, u32, &str)| {
            members
                .split(',')
                .any(|member| member == entry.name)
                .then_some(gid)
        };
        all.extend(groups(group).filter_map(member));
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|gid| seen.insert(*gid));
    check_numbers(uid, &all)?;
    Ok(Account {
        uid,
        gid,
        groups: all,
        home,
    })
}

/// The highest number means "leave as it is" to the kernel, which here would be root.
fn check_numbers(uid: u32, groups: &[u32]) -> Result<(), Trouble> {
    if uid == u32::MAX {
        return Err(Trouble::rule(
            uid.to_string(),
            "uids and gids must be in range 0-4294967294",
        ));
    }
    if groups.contains(&u32::MAX) || groups.len() > MAX_GROUPS {
        return Err(Trouble::rule(
            "groups",
            "uids and gids must be in range 0-4294967294, and not too many",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
