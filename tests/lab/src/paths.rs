//! Where the lab keeps its files.

use std::path::{Path, PathBuf};

/// Root of the workspace this lab was built in.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .unwrap_or_else(|| manifest.to_path_buf())
}

/// Directory of the lab: `target/lab` of the workspace, wherever cargo builds to.
pub fn lab_dir() -> PathBuf {
    workspace().join("target/lab")
}

/// Directory cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// Directory of what is expensive to make and independent of the lab: `$LONGSHORE_CACHE`, else `longshore` in the
/// user's cache directory.
pub fn cache_dir() -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("LONGSHORE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("longshore")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/longshore")))
        .unwrap_or_else(|| workspace().join("target/cache"))
}
