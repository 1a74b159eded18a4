//! Our nftables table: what leaves the cluster from a pod carries the node's address.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::error::Error;
use crate::sys;

const PLACES: [&str; 6] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/bin/nft",
    "/usr/local/sbin/nft",
    "/usr/local/bin/nft",
];

/// Finds `nft` by absolute path: the environment's PATH has no say in what runs as root.
pub(crate) fn find_nft() -> Result<PathBuf, Error> {
    let places = PLACES.map(PathBuf::from);
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::NoNft {
            searched: places.to_vec(),
        }),
    }
}

/// The whole table as one transaction. The first line makes the second succeed when there is no table yet.
pub(crate) fn ruleset(bridge: &str, pod_cidrs: &[IpNet], cluster_cidrs: &[IpNet]) -> String {
    let mut text = format!(
        "table inet longshore\ndelete table inet longshore\ntable inet longshore {{\n\
         \tchain forward {{\n\t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname \"{bridge}\" accept\n\t\toifname \"{bridge}\" accept\n\t}}\n\
         \tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
    );
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let of_family = |cidrs: &[IpNet]| -> Vec<IpNet> {
            IpNet::aggregate(
                &cidrs
                    .iter()
                    .filter(|cidr| cidr.addr().is_ipv4() == is_v4)
                    .copied()
                    .collect(),
            )
        };
        let inside = of_family(&[pod_cidrs, cluster_cidrs].concat());
        for cidr in of_family(pod_cidrs) {
            let _ = writeln!(
                text,
                "\t\toifname != \"{bridge}\" {family} saddr {cidr} {family} daddr != {{ {} }} masquerade",
                list(&inside)
            );
        }
    }
    text.push_str("\t}\n}\n");
    text
}

fn list(cidrs: &[IpNet]) -> String {
    cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

/// Replaces the table in the calling thread's network namespace.
pub(crate) fn apply(nft: &Path, ruleset: &str) -> Result<(), Error> {
    sys::run("cni.apply_nft", nft, &["-f", "-"], ruleset).map_err(|detail| Error::Nft { detail })
}
