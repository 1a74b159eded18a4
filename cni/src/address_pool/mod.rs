//! Who has which address. A lease is a file, written before the address is used: after a crash at any point the same
//! sandbox gets the same addresses, and no other gets them.

mod book;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Warning;
use crate::sys;
use book::Range;

/// Why an address could not be leased or released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No pod CIDR is known yet.
    #[error("the node has no pod CIDR yet")]
    NoCidr,
    /// Every address of a CIDR is leased.
    #[error("no free address in {cidr}: all {size} are leased")]
    Exhausted {
        /// The pod CIDR.
        cidr: IpNet,
        /// Addresses that pods may have.
        size: u128,
    },
    /// A CIDR with no room for a pod beside network, gateway and broadcast address.
    #[error("pod CIDR {cidr} has no address for a pod")]
    TooSmall {
        /// The pod CIDR.
        cidr: IpNet,
    },
    /// More than one CIDR of one family.
    #[error("pod CIDRs {first} and {second} are of one family: one of each at most")]
    TwoOfOneFamily {
        /// One of them.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// The sandbox id cannot name a file.
    #[error("sandbox id {id:?} is not usable: 1 to 128 letters, digits, '-', '_' or '.', not '.' first")]
    SandboxId {
        /// As given.
        id: String,
    },
    /// A lease could not be read, written or removed.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

const VERSION: u32 = 1;
/// A lease is some 200 bytes.
const LEASE_LIMIT: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    version: u32,
    /// Links die with the kernel they were made in, and so do the leases.
    boot_id: String,
    sandbox_id: String,
    /// Grows with every lease; the newest says where the round goes on after a restart.
    sequence: u64,
    /// With the prefix length of the pod CIDR they came from.
    addresses: Vec<IpNet>,
}

/// What [`AddressPool::lease`] gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) addresses: Vec<IpNet>,
    /// There was no lease for this sandbox before.
    pub(crate) fresh: bool,
}

#[derive(Debug)]
pub(crate) struct AddressPool {
    directory: PathBuf,
    boot_id: String,
    ranges: Vec<Range>,
    leases: BTreeMap<String, Lease>,
    used: BTreeSet<IpAddr>,
    sequence: u64,
}

impl AddressPool {
    /// Reads the leases of this boot from `directory`; those of an earlier one are removed.
    pub(crate) fn load(directory: &Path, boot_id: &str) -> Result<(Self, Vec<Warning>), PoolError> {
        let failed = |operation| file_error(operation, directory);
        sys::make_directory("cni.make_lease_directory", directory).map_err(failed("make"))?;
        let mut pool = Self {
            directory: directory.to_owned(),
            boot_id: boot_id.to_owned(),
            ranges: Vec::new(),
            leases: BTreeMap::new(),
            used: BTreeSet::new(),
            sequence: 0,
        };
        let mut warnings = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            warnings.extend(pool.load_file(&path)?);
        }
        Ok((pool, warnings))
    }

    fn load_file(&mut self, path: &Path) -> Result<Option<Warning>, PoolError> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(".damaged") {
            return Ok(None);
        }
        if name.starts_with('.') {
            // Half written when the process died: its address was never used.
            sys::remove_record("cni.remove_half_lease", path).map_err(file_error("remove", path))?;
            return Ok(None);
        }
        match parse(path, &name) {
            Ok(lease) if lease.boot_id == self.boot_id => {
                self.sequence = self.sequence.max(lease.sequence);
                self.used.extend(lease.addresses.iter().map(IpNet::addr));
                self.leases.insert(lease.sandbox_id.clone(), lease);
                Ok(None)
            }
            Ok(_) => {
                sys::remove_record("cni.remove_old_lease", path).map_err(file_error("remove", path))?;
                Ok(None)
            }
            Err(detail) => {
                sys::set_aside("cni.set_lease_aside", path).map_err(file_error("rename", path))?;
                Ok(Some(Warning::DamagedLease {
                    path: path.to_owned(),
                    detail,
                }))
            }
        }
    }

    /// Sets the CIDRs to lease from: one of each family at most. Leases from other CIDRs stay.
    pub(crate) fn set_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), PoolError> {
        let mut ranges: Vec<Range> = Vec::new();
        for &cidr in cidrs {
            let same = ranges
                .iter()
                .find(|range| range.cidr.addr().is_ipv4() == cidr.addr().is_ipv4());
            if let Some(same) = same {
                return Err(PoolError::TwoOfOneFamily {
                    first: same.cidr,
                    second: cidr,
                });
            }
            ranges.push(Range::new(cidr)?);
        }
        let same = self
            .ranges
            .iter()
            .map(|range| range.cidr)
            .eq(ranges.iter().map(|range| range.cidr));
        if same {
            return Ok(());
        }
        let mut leases: Vec<&Lease> = self.leases.values().collect();
        leases.sort_by_key(|lease| lease.sequence);
        for address in leases.iter().flat_map(|lease| &lease.addresses) {
            ranges
                .iter_mut()
                .for_each(|range| range.resume_after(address.addr()));
        }
        self.ranges = ranges;
        Ok(())
    }

    /// The addresses of a sandbox, one of each pod CIDR, in the CIDRs' order. On disk before this returns.
    pub(crate) fn lease(&mut self, sandbox_id: &str) -> Result<Leased, PoolError> {
        check_id(sandbox_id)?;
        if let Some(lease) = self.leases.get(sandbox_id) {
            return Ok(Leased {
                addresses: lease.addresses.clone(),
                fresh: false,
            });
        }
        if self.ranges.is_empty() {
            return Err(PoolError::NoCidr);
        }
        let addresses: Vec<IpNet> = self
            .ranges
            .iter()
            .map(|range| range.next_free(&self.used))
            .collect::<Result<_, _>>()?;
        let lease = Lease {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            sequence: self.sequence + 1,
            addresses: addresses.clone(),
        };
        let content = serde_json::to_vec(&lease).expect("strings and numbers always serialise");
        sys::write_record("cni.write_lease", &self.directory, sandbox_id, &content)
            .map_err(file_error("write lease", &self.directory.join(sandbox_id)))?;
        crate::fault::point("cni.lease_written");
        self.sequence = lease.sequence;
        self.used.extend(addresses.iter().map(IpNet::addr));
        for (range, address) in self.ranges.iter_mut().zip(&addresses) {
            range.resume_after(address.addr());
        }
        self.leases.insert(sandbox_id.to_owned(), lease);
        Ok(Leased {
            addresses,
            fresh: true,
        })
    }

    /// Frees a sandbox's addresses; a sandbox without lease counts as freed.
    pub(crate) fn release(&mut self, sandbox_id: &str) -> Result<(), PoolError> {
        check_id(sandbox_id)?;
        let path = self.directory.join(sandbox_id);
        sys::remove_record("cni.remove_lease", &path).map_err(file_error("remove", &path))?;
        crate::fault::point("cni.lease_removed");
        if let Some(lease) = self.leases.remove(sandbox_id) {
            for address in lease.addresses {
                self.used.remove(&address.addr());
            }
        }
        Ok(())
    }

    /// The sandboxes that have a lease.
    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = &str> {
        self.leases.keys().map(String::as_str)
    }
}

fn parse(path: &Path, name: &str) -> Result<Lease, String> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|source| source.to_string())?;
    file.take(LEASE_LIMIT)
        .read_to_end(&mut content)
        .map_err(|source| source.to_string())?;
    let lease: Lease = serde_json::from_slice(&content).map_err(|source| source.to_string())?;
    if lease.version != VERSION {
        return Err(format!("version {} is unknown", lease.version));
    }
    if lease.sandbox_id != name {
        return Err(format!("it is the lease of {:?}", lease.sandbox_id));
    }
    Ok(lease)
}

fn check_id(id: &str) -> Result<(), PoolError> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=128).contains(&id.len())
        && id.bytes().all(usable)
        && !id.starts_with('.')
        && !id.ends_with(".damaged")
    {
        true => Ok(()),
        false => Err(PoolError::SandboxId { id: id.to_owned() }),
    }
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let path = path.to_owned();
    move |source| PoolError::File {
        operation,
        path,
        source,
    }
}
