//! Device nodes and the device filter of a spec.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::Error;
use crate::plan::{Device, DeviceRule};

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// The nodes every container has (OCI runtime spec, "Default Devices"): name, major, minor.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Default nodes first; one of the spec at the same path takes its place.
pub(super) fn nodes(wanted: &[LinuxDevice]) -> Result<Vec<Device>, Error> {
    let mut nodes: Vec<Device> = DEFAULT_NODES.iter().map(default_node).collect();
    for device in wanted {
        let node = node(device)?;
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

fn default_node(&(name, major, minor): &(&str, u32, u32)) -> Device {
    Device {
        path: format!("/dev/{name}"),
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    }
}

fn node(device: &LinuxDevice) -> Result<Device, Error> {
    let path = device.path().display().to_string();
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.ends_with('/') {
        return Err(Error::invalid(
            "linux.devices.path",
            path,
            "is not an absolute path of a file",
        ));
    }
    let block = match device.typ() {
        LinuxDeviceType::B => true,
        LinuxDeviceType::C | LinuxDeviceType::U => false,
        other => return Err(Error::unsupported("linux.devices.type", other.as_str())),
    };
    Ok(Device {
        path,
        block,
        major: number("linux.devices.major", device.major())?,
        minor: number("linux.devices.minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn number(field: &'static str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::invalid(field, value, "is not a device number"))
}

/// The filter: the spec's rules in order, then what every container needs. No rules, no filter.
pub(super) fn rules(linux: &Linux) -> Result<Vec<DeviceRule>, Error> {
    let wanted = linux
        .resources()
        .as_ref()
        .and_then(|resources| resources.devices().as_deref())
        .unwrap_or_default();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut rules = wanted.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    rules.extend(always());
    Ok(rules)
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, Error> {
    let block = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(true),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(false),
        LinuxDeviceType::P => return Err(Error::unsupported("linux.resources.devices.type", "p")),
    };
    let any = |field, value: Option<i64>| {
        value
            .filter(|value| *value != -1)
            .map(|value| number(field, value))
            .transpose()
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(Error::invalid(
                    "linux.resources.devices.access",
                    letter,
                    "is none of r, w, m",
                ));
            }
        };
    }
    let major = any("linux.resources.devices.major", rule.major())?;
    let minor = any("linux.resources.devices.minor", rule.minor())?;
    Ok(DeviceRule {
        allow: rule.allow(),
        block,
        major,
        minor,
        access,
    })
}

/// Any node may be made (using it is another matter); the default nodes and terminals may be used.
fn always() -> impl Iterator<Item = DeviceRule> {
    let allow = |block, major, minor, access| DeviceRule {
        allow: true,
        block: Some(block),
        major,
        minor,
        access,
    };
    let all = READ | WRITE | MKNOD;
    let defaults = DEFAULT_NODES
        .iter()
        .map(move |(_, major, minor)| allow(false, Some(*major), Some(*minor), all));
    [
        allow(false, None, None, MKNOD),
        allow(true, None, None, MKNOD),
        allow(false, Some(5), Some(2), all),
        allow(false, Some(136), None, all),
    ]
    .into_iter()
    .chain(defaults)
}
