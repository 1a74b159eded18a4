//! Side effects happen in the funnel of their crate and nowhere else: there they pass a named fault point, so that the
//! crash matrix can kill the process at each. This check reads the source as text: it finds calls by name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// (source folder of a crate, its funnel: files or folders).
const FUNNELS: &[(&str, &[&str])] = &[
    ("runtime/src", &["sys"]),
    ("cni/src", &["sys"]),
    ("proxy/src", &[]),
    ("cri/src", &["state.rs", "state", "keeper.rs", "keeper"]),
    (
        "agent/src",
        &[
            "api",
            "volumes/sys.rs",
            "pods/effects.rs",
            "resources/sys.rs",
            "node/files.rs",
        ],
    ),
];

/// Names whose call changes something outside the process.
const EFFECTS: &[&str] = &[
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
    "Command::new",
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
    "PostParams",
    "PatchParams",
    "DeleteParams",
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
            for (number, line) in text.lines().enumerate() {
                if let Some(name) = effect_in(line) {
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

/// The effect a line of code calls or imports, if any; comments do not count.
fn effect_in(line: &str) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    EFFECTS.iter().copied().find(|name| {
        code.match_indices(name).any(|(at, _)| {
            let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            boundary(code[..at].chars().next_back()) && boundary(code[at + name.len()..].chars().next())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::effect_in;

    #[test]
    fn finds_a_call_and_an_import_but_no_comment_and_no_longer_name() {
        assert_eq!(effect_in("    std::fs::write(path, bytes)?;"), Some("fs::write"));
        assert_eq!(effect_in("use rustix::fs::{mkdirat, openat2};"), Some("mkdirat"));
        assert_eq!(effect_in("// fs::write is for the funnel"), None);
        assert_eq!(effect_in("let x = premkdirat_plan();"), None);
    }
}
