//! The pure half of the pool: which address is next. No files.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::PoolError;

/// One pod CIDR. Addresses go round: a freed one comes again only after all others did.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) cidr: IpNet,
    /// The first and the last address that pods may have.
    first: u128,
    last: u128,
    /// The address handed out last.
    cursor: u128,
}

impl Range {
    /// Leaves out the network's own address, the gateway (the first address), and for IPv4 the broadcast address.
    pub(super) fn new(cidr: IpNet) -> Result<Self, PoolError> {
        let cidr = cidr.trunc();
        let (network, end) = (number(cidr.network()), number(cidr.broadcast()));
        let first = network.saturating_add(2);
        let last = if cidr.addr().is_ipv4() {
            end.saturating_sub(1)
        } else {
            end
        };
        if first > last {
            return Err(PoolError::TooSmall { cidr });
        }
        Ok(Self {
            cidr,
            first,
            last,
            cursor: first - 1,
        })
    }

    /// Goes on after `address`, if it is one of this range.
    pub(super) fn resume_after(&mut self, address: IpAddr) {
        let value = number(address);
        if self.cidr.contains(&address) && (self.first..=self.last).contains(&value) {
            self.cursor = value;
        }
    }

    /// The next free address with the CIDR's prefix length. Looks at `used.len() + 1` addresses at most.
    pub(super) fn next_free(&self, used: &BTreeSet<IpAddr>) -> Result<IpNet, PoolError> {
        let size = self.last - self.first + 1;
        let tries = size.min(used.len() as u128 + 1);
        let start = self.cursor - (self.first - 1);
        for step in 0..tries {
            let value = self.first + (start + step) % size;
            let address = address(value, self.cidr.addr().is_ipv4());
            if !used.contains(&address) {
                return Ok(IpNet::new(address, self.cidr.prefix_len()).expect("of the CIDR's own family"));
            }
        }
        Err(PoolError::Exhausted {
            cidr: self.cidr,
            size,
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(value: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(value) {
        Ok(value) if is_ipv4 => Ipv4Addr::from_bits(value).into(),
        _ => Ipv6Addr::from_bits(value).into(),
    }
}
