//! The kubelet's configuration from its files and flags, by upstream's order: defaults, `--config`, `--config-dir`
//! drop-ins (JSON merge patches, lexical order), flags. Everything happens on JSON values, so that one rule serves
//! files, drop-ins and flags; the typed form comes last.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Error, KubeletConfiguration, kubelet};

/// Largest configuration file.
const MAX_FILE: u64 = 1024 * 1024;
/// Most drop-in files, and how deep their directories go.
const MAX_DROP_INS: usize = 1000;
const MAX_DEPTH: usize = 10;

/// A value that a flag sets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Override {
    /// The flag, for messages.
    pub(crate) flag: String,
    /// Key path in the configuration, dotted.
    pub(crate) key: &'static str,
    /// What it becomes; maps of feature gates are merged, all else is replaced.
    pub(crate) value: Value,
}

/// The configuration, and what its user should hear.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: KubeletConfiguration,
    pub(crate) warnings: Vec<String>,
}

/// Reads and resolves the configuration.
///
/// # Errors
/// [`Error`] naming file or flag, key, cause and cure.
pub(crate) fn load(
    file: Option<&Path>,
    drop_ins: Option<&Path>,
    overrides: &[Override],
) -> Result<Loaded, Error> {
    let mut warnings = Vec::new();
    let mut merged = match file {
        Some(path) => document(path, &mut warnings)?,
        None => without_file(),
    };
    for path in drop_ins.map(drop_in_files).transpose()?.unwrap_or_default() {
        merge(&mut merged, document(&path, &mut warnings)?);
    }
    for one in overrides {
        set(&mut merged, one);
    }
    resolve(merged)
        .map(|config| Loaded { config, warnings })
        .map_err(|(key, cause)| {
            let flag = overrides
                .iter()
                .find(|one| key.starts_with(one.key))
                .map(|one| one.flag.clone());
            let place = match (flag, file) {
                (Some(flag), _) => format!("--{flag}"),
                (None, Some(path)) => path.display().to_string(),
                (None, None) => "configuration".to_owned(),
            };
            Error::Value { place, key, cause }
        })
}

/// What a kubelet without a configuration file starts from: upstream's older, open defaults.
fn without_file() -> Value {
    json!({
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "readOnlyPort": 10255,
    })
}

/// One file as a JSON value: right kind, each value fit for its key. Unknown and doubled keys are warned of and left.
fn document(path: &Path, warnings: &mut Vec<String>) -> Result<Value, Error> {
    let text = read(path)?;
    let mut value = parse(path, &text, warnings)?;
    let (version, kind) = (&value["apiVersion"], &value["kind"]);
    if version != "kubelet.config.k8s.io/v1beta1" || kind != "KubeletConfiguration" {
        let found = if value.is_object() {
            format!("apiVersion: {version}, kind: {kind}")
        } else {
            "no object".into()
        };
        return Err(Error::Kind {
            path: path.to_owned(),
            found,
        });
    }
    strip_nulls(&mut value);
    let typed = resolve(value.clone()).map_err(|(key, cause)| Error::Value {
        place: path.display().to_string(),
        key,
        cause,
    })?;
    let known = serde_json::to_value(&typed).expect("a configuration is plain data");
    let mut unknown = Vec::new();
    unknown_keys(&value, &known, "", &mut unknown);
    for key in &unknown {
        warnings.push(format!(
            "{}: unknown field \"{key}\" is ignored (using lenient decoding as strict decoding failed): \
             check its spelling, or remove it",
            path.display()
        ));
    }
    Ok(value)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |cause| Error::Read {
        path: path.to_owned(),
        cause,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        let cause = format!("it is larger than {MAX_FILE} bytes");
        return Err(Error::Syntax {
            path: path.to_owned(),
            cause,
        });
    }
    Ok(text)
}

fn parse(path: &Path, text: &str, warnings: &mut Vec<String>) -> Result<Value, Error> {
    match serde_saphyr::from_str::<Value>(text) {
        Ok(value) => Ok(value),
        Err(strict) => {
            let lenient =
                serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
            let value = serde_saphyr::from_str_with_options::<Value>(text, lenient).map_err(|cause| {
                Error::Syntax {
                    path: path.to_owned(),
                    cause: cause.to_string(),
                }
            })?;
            warnings.push(format!(
                "{}: {strict} (using lenient decoding as strict decoding failed)",
                path.display()
            ));
            Ok(value)
        }
    }
}

/// `*.conf` below `dir`, in lexical order of their paths.
fn drop_in_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut dirs = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        let failed = |cause| Error::Read {
            path: dir.clone(),
            cause,
        };
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() && depth < MAX_DEPTH {
                dirs.push((path, depth + 1));
            } else if path.extension().is_some_and(|ext| ext == "conf") {
                files.push(path);
            }
        }
        if files.len() > MAX_DROP_INS {
            let cause = format!("more than {MAX_DROP_INS} drop-in files");
            return Err(Error::Syntax { path: dir, cause });
        }
    }
    files.sort();
    Ok(files)
}

/// JSON merge patch (RFC 7396) without its nulls: a null means "not set" in this API.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn set(config: &mut Value, one: &Override) {
    let mut place = config;
    for key in one.key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = place
            .as_object_mut()
            .expect("made above")
            .entry(key)
            .or_insert(Value::Null);
    }
    if one.key == "featureGates" && place.is_object() {
        merge(place, one.value.clone());
    } else {
        *place = one.value.clone();
    }
}

/// Keys whose empty value (0, "", 0s) means "not set".
const EMPTY_IS_UNSET: [&str; 40] = [
    "syncFrequency",
    "fileCheckFrequency",
    "httpCheckFrequency",
    "address",
    "port",
    "authentication.webhook.cacheTTL",
    "authorization.mode",
    "authorization.webhook.cacheAuthorizedTTL",
    "authorization.webhook.cacheUnauthorizedTTL",
    "registryBurst",
    "imagePullCredentialsVerificationPolicy",
    "eventBurst",
    "healthzBindAddress",
    "streamingConnectionIdleTimeout",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "nodeLeaseDurationSeconds",
    "imageMinimumGCAge",
    "volumeStatsAggPeriod",
    "cgroupDriver",
    "cpuManagerPolicy",
    "cpuManagerReconcilePeriod",
    "memoryManagerPolicy",
    "topologyManagerPolicy",
    "topologyManagerScope",
    "runtimeRequestTimeout",
    "hairpinMode",
    "maxPods",
    "maxOpenFiles",
    "contentType",
    "kubeAPIBurst",
    "evictionPressureTransitionPeriod",
    "containerLogMaxSize",
    "configMapAndSecretChangeDetectionStrategy",
    "volumePluginDir",
    "logging.format",
    "logging.flushFrequency",
    "memoryReservationPolicy",
    "containerRuntimeEndpoint",
    "podLogsDir",
];

/// Applies the defaults that depend on what is set, then reads the typed form.
///
/// # Errors
/// Key and cause.
fn resolve(mut value: Value) -> Result<KubeletConfiguration, (String, String)> {
    for key in EMPTY_IS_UNSET {
        drop_if_empty(&mut value, key);
    }
    if let Some(map) = value.as_object_mut() {
        let update = map.get("nodeStatusUpdateFrequency").cloned();
        if let (Some(update), false) = (update, map.contains_key("nodeStatusReportFrequency")) {
            map.insert("nodeStatusReportFrequency".into(), update);
        }
        let parallel = map
            .get("maxParallelImagePulls")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        if !map.contains_key("serializeImagePulls") {
            map.insert("serializeImagePulls".into(), Value::Bool(parallel < 2));
        }
        if map
            .get("podPidsLimit")
            .and_then(Value::as_i64)
            .is_some_and(|limit| limit < 0)
        {
            map.insert("podPidsLimit".into(), (-1).into());
        }
    }
    let mut config = typed(&value)?;
    if config.merge_default_eviction_settings {
        for (signal, threshold) in kubelet::default_eviction_hard() {
            config.eviction_hard.entry(signal).or_insert(threshold);
        }
    }
    Ok(config)
}

fn drop_if_empty(value: &mut Value, path: &str) {
    let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents
        .split('.')
        .filter(|step| !step.is_empty())
        .try_fold(value, |at, step| at.get_mut(step));
    if let Some(Value::Object(map)) = parent
        && map.get(key).is_some_and(is_empty)
    {
        map.remove(key);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            text.is_empty()
                || (text.starts_with('0') && super::duration::parse(text).is_ok_and(|d| d.is_zero()))
        }
        _ => false,
    }
}

fn typed(value: &Value) -> Result<KubeletConfiguration, (String, String)> {
    serde_json::from_value(value.clone()).map_err(|error| {
        let (key, cause) = culprit(value, &mut Vec::new()).unwrap_or_default();
        if key.is_empty() {
            (".".to_owned(), error.to_string())
        } else {
            (key, cause)
        }
    })
}

/// The deepest key whose value alone cannot be read, and why: serde does not tell where it stopped.
fn culprit(value: &Value, path: &mut Vec<String>) -> Option<(String, String)> {
    let map = value.as_object()?;
    for (key, value) in map {
        path.push(key.clone());
        let alone = path
            .iter()
            .rev()
            .fold(value.clone(), |inner, key| json!({ key: inner }));
        if let Err(error) = serde_json::from_value::<KubeletConfiguration>(alone) {
            let deeper = culprit(value, path);
            return Some(deeper.unwrap_or_else(|| (path.join("."), error.to_string())));
        }
        path.pop();
    }
    None
}

/// Keys of `value` that its typed form does not know.
fn unknown_keys(value: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => {
            for (key, inner) in value {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(known) => unknown_keys(inner, known, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(value), Value::Array(known)) => {
            for (index, (inner, known)) in value.iter().zip(known).enumerate() {
                unknown_keys(inner, known, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
