//! The program: found as its user in the container, then executed.

use std::ffi::CString;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::{Init, Trouble};
use crate::failure::text_of;
use crate::sys::process;

/// All that exec needs.
pub(super) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Looks the program up, with upstream's words if it cannot be run.
pub(super) fn find(init: &mut Init<'_>) -> Result<(), Trouble> {
    let plan = &init.plan.process;
    let name = plan
        .args
        .first()
        .ok_or_else(|| Trouble::rule("args", "no command specified"))?;
    let mut environment = plan.env.clone();
    let path = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    let found = look_up(name, path)?;
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", init.account()?.home));
    }
    let strings = |texts: &[String]| -> Result<Vec<CString>, Trouble> {
        texts.iter().map(|text| string(text)).collect()
    };
    init.program = Some(Program {
        path: string(&found)?,
        arguments: strings(&plan.args)?,
        environment: strings(&environment)?,
    });
    Ok(())
}

fn string(text: &str) -> Result<CString, Trouble> {
    CString::new(text).map_err(|_| Trouble::kernel(text.replace('\0', "\\0"), Errno::INVAL))
}

/// Where `name` is: itself if it has a slash, else in the directories of `path`.
fn look_up(name: &str, path: &str) -> Result<String, Trouble> {
    if name.contains('/') {
        return check(name).map(|()| name.to_owned()).map_err(|errno| {
            let text = match errno {
                Errno::NOENT | Errno::NOTDIR => format!("exec: \"{name}\": stat {name}: {}", text_of(errno)),
                errno => format!("exec: \"{name}\": {}", text_of(errno)),
            };
            Trouble::worded(name, errno, text)
        });
    }
    let candidates = path.split(':').filter(|directory| directory.starts_with('/'));
    let found = candidates
        .map(|directory| format!("{directory}/{name}"))
        .find(|candidate| check(candidate).is_ok());
    found.ok_or_else(|| {
        Trouble::worded(
            name,
            Errno::NOENT,
            format!("exec: \"{name}\": executable file not found in $PATH"),
        )
    })
}

fn check(path: &str) -> Result<(), Errno> {
    let status = rustix::fs::statat(CWD, path, AtFlags::empty())?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
        _ => Err(Errno::ACCESS),
    }
}

/// Becomes the program.
pub(super) fn execute(init: &mut Init<'_>) -> Result<(), Trouble> {
    let program = init
        .program
        .as_ref()
        .ok_or_else(|| Trouble::rule("program", "it was not looked up"))?;
    let errno = process::exec(&program.path, &program.arguments, &program.environment);
    let name = program.path.to_string_lossy();
    Err(Trouble::worded(
        name.clone(),
        errno,
        format!("exec {name}: {}", text_of(errno)),
    ))
}
