//! What volumes of files hold, as data: from ConfigMaps, Secrets and the pod's own fields. Contract §7.3, §7.4.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::Cause;
use crate::pods::runtime_config::{metadata_field, resource_field};

/// Mode of files where nothing else is said.
pub(super) const DEFAULT_MODE: i32 = 0o644;
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// One file to project.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProjectedFile {
    pub(super) data: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner, root if none.
    pub(super) owner: Option<u32>,
}

impl std::fmt::Debug for ProjectedFile {
    // Holds secrets: sizes only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} bytes, mode {:o}, owner {:?}",
            self.data.len(),
            self.mode,
            self.owner
        )
    }
}

/// Files by relative path, clean and checked: see [`checked`].
pub(crate) type Payload = BTreeMap<String, ProjectedFile>;

/// A path that a projected file must not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("invalid path: must not be empty: {path:?}")]
    Empty { path: String },
    #[error("invalid path: must be relative path: {path}")]
    Absolute { path: String },
    #[error("invalid path: must be less than or equal to {MAX_PATH} characters")]
    Long,
    #[error("invalid path: filenames must be less than or equal to {MAX_NAME} characters")]
    LongName,
    #[error("invalid path: must not contain '..': {path}")]
    Backstep { path: String },
    #[error("invalid path: must not start with '..': {path}")]
    Reserved { path: String },
    #[error("invalid path: {path} is both a file and a directory")]
    Conflict { path: String },
    #[error("invalid path: must not hold a NUL character")]
    Nul,
}

/// A path as it may be projected: relative, inside, none of the writer's own names (`..data`).
///
/// # Errors
/// Which rule it breaks.
pub(super) fn clean_path(path: &str) -> Result<String, PathError> {
    let owned = || path.to_owned();
    if path.is_empty() {
        return Err(PathError::Empty { path: owned() });
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute { path: owned() });
    }
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.len() > MAX_PATH {
        return Err(PathError::Long);
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(PathError::LongName);
    }
    if parts.contains(&"..") {
        return Err(PathError::Backstep { path: owned() });
    }
    match parts.first() {
        None => Err(PathError::Empty { path: owned() }),
        Some(first) if first.starts_with("..") => Err(PathError::Reserved { path: owned() }),
        Some(_) => Ok(parts.join("/")),
    }
}

/// Checks and cleans all paths of `files`.
///
/// # Errors
/// The first rule broken, or a path that is a directory of another.
pub(super) fn checked(
    files: impl IntoIterator<Item = (String, ProjectedFile)>,
) -> Result<Payload, PathError> {
    let mut payload = Payload::new();
    for (path, file) in files {
        payload.insert(clean_path(&path)?, file);
    }
    let mut directories = BTreeSet::new();
    for path in payload.keys() {
        directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    match payload.keys().find(|path| directories.contains(path.as_str())) {
        Some(path) => Err(PathError::Conflict { path: path.clone() }),
        None => Ok(payload),
    }
}

/// Modes and leniency of one source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) default_mode: i32,
    pub(super) optional: bool,
}

fn file(data: Vec<u8>, mode: i32) -> ProjectedFile {
    ProjectedFile {
        data,
        mode: u32::try_from(mode).unwrap_or(0) & 0o7777,
        owner: None,
    }
}

type Files = Vec<(String, ProjectedFile)>;

/// Files of a ConfigMap: all keys, or the ones listed.
pub(super) fn of_config_map(
    map: &ConfigMap,
    items: Option<&[KeyToPath]>,
    rules: Rules,
) -> Result<Files, Cause> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key, value.as_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key, value.0.as_slice()));
    let entries: BTreeMap<&String, &[u8]> = binary.chain(text).collect();
    of_keys(&entries, items, rules, |key| Cause::ConfigKey { key })
}

/// Files of a Secret, likewise.
pub(super) fn of_secret(secret: &Secret, items: Option<&[KeyToPath]>, rules: Rules) -> Result<Files, Cause> {
    let entries = secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key, value.0.as_slice()))
        .collect();
    of_keys(&entries, items, rules, |key| Cause::SecretKey { key })
}

fn of_keys(
    entries: &BTreeMap<&String, &[u8]>,
    items: Option<&[KeyToPath]>,
    rules: Rules,
    missing: impl Fn(String) -> Cause,
) -> Result<Files, Cause> {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        let all = entries
            .iter()
            .map(|(key, data)| ((*key).clone(), file(data.to_vec(), rules.default_mode)));
        return Ok(all.collect());
    }
    let mut files = Files::new();
    for item in items {
        match entries.get(&item.key) {
            Some(data) => {
                let mode = item.mode.unwrap_or(rules.default_mode);
                files.push((item.path.clone(), file(data.to_vec(), mode)));
            }
            None if rules.optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(files)
}

/// Files of the pod's own fields.
pub(super) fn of_downward(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    allocatable: &BTreeMap<String, Quantity>,
    default_mode: i32,
) -> Result<Files, Cause> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            metadata_field(pod, &field.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            resource_field(selector, pod, None, allocatable)?
        } else {
            String::new()
        };
        files.push((
            item.path.clone(),
            file(text.into_bytes(), item.mode.unwrap_or(default_mode)),
        ));
    }
    Ok(files)
}

/// A token: readable by its owner alone where the pod says who that is; fsGroup widens it to 0640.
pub(super) fn of_token(
    token: String,
    default_mode: i32,
    owner: Option<u32>,
    fs_group: bool,
) -> ProjectedFile {
    let mode = if owner.is_some() || fs_group {
        0o600
    } else {
        default_mode
    };
    ProjectedFile {
        owner,
        ..file(token.into_bytes(), mode)
    }
}
