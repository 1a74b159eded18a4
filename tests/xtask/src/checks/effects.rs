//! Side effects happen in the funnel of their crate and nowhere else: there they pass a named fault point, so that the
//! crash matrix can kill the process at each. This check reads the source as text: it finds calls by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// (source folder of a crate, its funnel: files or folders).
const FUNNELS: &[(&str, &[&str])] = &[
    ("runtime/src", &["sys"]),
    ("cni/src", &["sys"]),
    ("proxy/src", &[]),
    ("cri/src", &["state.rs", "state", "host.rs", "host", "keeper.rs"]),
    (
        "agent/src",
        &[
            "api",
            "volumes/sys.rs",
            "volumes/sys",
            "pods/effects.rs",
            "resources/sys.rs",
            "node/files.rs",
        ],
    ),
];

/// Calls of the standard library that change something outside the process.
const STANDARD: &[&str] = &[
    "fs::write",
    "fs::create_dir",
    "fs::create_dir_all",
    "fs::remove_file",
    "fs::remove_dir",
    "fs::remove_dir_all",
    "fs::rename",
    "fs::hard_link",
    "fs::set_permissions",
    "fs::copy",
    "File::create",
    "OpenOptions",
    "DirBuilder",
    "process::Command",
    "PostParams",
    "PatchParams",
    "DeleteParams",
];

/// System calls that do, by their names in rustix and libc.
const SYSTEM_CALLS: &[&str] = &[
    "mkdirat",
    "unlinkat",
    "renameat",
    "renameat_with",
    "linkat",
    "symlinkat",
    "mknodat",
    "chownat",
    "fchown",
    "fchmod",
    "chmodat",
    "fsopen",
    "fsmount",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "unmount",
    "pivot_root",
    "sethostname",
    "unshare",
    "setns",
    "kill_process",
    "kill_process_group",
    "pidfd_send_signal",
];

/// No effect stands outside a funnel.
pub(super) fn funnels(root: &Path) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for (folder, funnel) in FUNNELS {
        let base = root.join(folder);
        for file in sources(&base)? {
            let inside = file.strip_prefix(&base).context("file of the folder")?;
            if is_test(inside) || funnel.iter().any(|part| inside.starts_with(part)) {
                continue;
            }
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let imported = imported_from_rustix(text);
            for (number, line) in text.lines().enumerate() {
                if let Some(name) = effect_in(line, &imported) {
                    found.push(format!("{folder}/{}:{}: {name}", inside.display(), number + 1));
                }
            }
        }
    }
    if !found.is_empty() {
        bail!(
            "effects outside the funnel of their crate (move them into it, with a fault point):\n  {}",
            found.join("\n  ")
        );
    }
    Ok(())
}

fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What the `use rustix::…;` statements of a file bring in by name: functions, and modules to call them through.
fn imported_from_rustix(text: &str) -> BTreeSet<&str> {
    let statements = text
        .split("use rustix::")
        .skip(1)
        .filter_map(|rest| rest.split_once(';'));
    statements
        .flat_map(|(names, _)| names.split([',', '{', '}']))
        .filter_map(last_of_path)
        .collect()
}

/// `openat` of `fs::openat`; nothing of `fs::`, which only leads to the names in braces.
fn last_of_path(path: &str) -> Option<&str> {
    let name = path.rsplit("::").next().unwrap_or_default().trim();
    (!name.is_empty()).then_some(name)
}

/// The effect a line of code calls or imports, if any; comments do not count.
fn effect_in(line: &str, imported: &BTreeSet<&str>) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    let standard = STANDARD.iter().find(|name| uses(code, name).next().is_some());
    let system_call = || {
        SYSTEM_CALLS.iter().find(|name| {
            uses(code, name).any(|before| match before.strip_suffix("::") {
                // `rustix::fs::mkdirat`, `libc::setns`, or `fs::mkdirat` after `use rustix::fs`.
                Some(path) => {
                    let module = path
                        .rsplit(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap_or_default();
                    path.contains("rustix") || module == "libc" || imported.contains(module)
                }
                None => imported.contains(**name) && !before.ends_with('.'),
            })
        })
    };
    standard.or_else(system_call).copied()
}

/// What stands before each use of `name` as a whole word in a line.
fn uses<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(name).filter_map(move |(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        (!part_of_word(before.chars().next_back()) && !part_of_word(after.chars().next())).then_some(before)
    })
}

#[cfg(test)]
mod tests {
    use super::{effect_in, imported_from_rustix};

    #[test]
    fn finds_calls_and_imports_of_effects_only() {
        let imported = imported_from_rustix(
            "use rustix::fs::{\n    mkdirat, openat2,\n};\nuse rustix::process;\nuse rustix::thread::Pid;\n",
        );
        let find = |line| effect_in(line, &imported);
        assert_eq!(find("    std::fs::write(path, bytes)?;"), Some("fs::write"));
        assert_eq!(find("use std::process::Command;"), Some("process::Command"));
        assert_eq!(find("    mkdirat(&dir, name, mode)?;"), Some("mkdirat"));
        assert_eq!(
            find("    process::kill_process(pid, signal)?;"),
            Some("kill_process")
        );
        assert_eq!(
            find("    rustix::system::sethostname(name)?;"),
            Some("sethostname")
        );
        assert_eq!(find("// fs::write is for the funnel"), None);
        assert_eq!(find("    let x = premkdirat_plan();"), None);
        assert_eq!(find("    thread::unshare(flags)?;"), None);
        assert_eq!(find("    volumes.unmount(uid).await?;"), None);
        assert_eq!(find("    sys::unmount(path)?;"), None);
    }
}
