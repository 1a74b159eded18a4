//! Every test runs on a thread with a network namespace of its own, which stands for the node; pods are further
//! namespaces. Needs root. The host's network is never touched, and all goes with the threads and file descriptors.

mod namespace;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;

use super::*;
use crate::error::Warning;
use namespace::{inside, new_namespace, on_node};

const CIDRS: [&str; 2] = ["10.99.0.0/24", "fd99::/64"];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn config(directory: &tempfile::TempDir) -> Config {
    Config {
        bridge: "longshore0".to_owned(),
        state_dir: directory.path().to_owned(),
        mtu: Some(1400),
        cluster_cidrs: nets(&["10.99.0.0/16", "fd99::/48"]),
        masquerade: true,
    }
}

fn network(directory: &tempfile::TempDir) -> Network {
    let network = Network::new(config(directory)).unwrap();
    assert!(network.warnings().is_empty());
    network
}

fn ready(directory: &tempfile::TempDir) -> Network {
    let network = network(directory);
    assert!(network.set_pod_cidrs(&nets(&CIDRS)).unwrap().is_empty());
    network
}

fn attach(network: &Network, sandbox_id: &str, netns: &OwnedFd) -> Vec<IpAddr> {
    network
        .attach(&Attachment {
            sandbox_id,
            netns: netns.as_fd(),
        })
        .unwrap()
}

/// One line of words through TCP, from the client's namespace to the server's.
fn talk(client: &OwnedFd, server: &OwnedFd, address: IpAddr) {
    let listener = inside(server, move || {
        TcpListener::bind(SocketAddr::new(address, 0)).unwrap()
    });
    let target = listener.local_addr().unwrap();
    let mut stream = inside(client, move || TcpStream::connect(target).unwrap());
    stream.write_all(b"from pod to pod").unwrap();
    drop(stream);
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from pod to pod");
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pods_reach_each_other_and_the_gateway_in_both_families() {
    on_node(|directory| {
        let network = ready(directory);
        let home = sys::own_network_namespace().unwrap();
        let (a, b) = (new_namespace(), new_namespace());
        let of_a = attach(&network, "a", &a);
        let of_b = attach(&network, "b", &b);
        assert_eq!(
            of_a,
            ["10.99.0.2".parse::<IpAddr>().unwrap(), "fd99::2".parse().unwrap()]
        );
        assert_eq!(
            of_b,
            ["10.99.0.3".parse::<IpAddr>().unwrap(), "fd99::3".parse().unwrap()]
        );
        for address in of_b {
            talk(&a, &b, address);
            talk(&home, &b, address);
        }
        for gateway in ["10.99.0.1", "fd99::1"] {
            talk(&a, &home, gateway.parse().unwrap());
        }
        for loopback in ["127.0.0.1", "::1"] {
            talk(&a, &a, loopback.parse().unwrap());
        }
        let links = inside(&a, || output("ip", &["-o", "link", "show", "eth0"]));
        assert!(
            links.contains("mtu 1400") && links.contains("0a:58:0a:63:00:02"),
            "{links}"
        );
        // Nothing is tentative: detection of duplicates would make a pod wait.
        assert_eq!(
            inside(&a, || output("ip", &["-6", "addr", "show", "tentative"])),
            ""
        );
    });
}

#[test]
fn attach_again_changes_nothing_and_mends_what_is_missing() {
    on_node(|directory| {
        let pod = new_namespace();
        let first = attach(&ready(directory), "a", &pod);
        let state = || {
            inside(&pod, || {
                output("ip", &["addr"]) + &output("ip", &["route"]) + &output("ip", &["-6", "route"])
            })
        };
        let before = state();
        // Another process after a crash: only the files and the kernel know.
        let network = ready(directory);
        assert_eq!(attach(&network, "a", &pod), first);
        assert_eq!(state(), before);
        inside(&pod, || {
            output("ip", &["route", "del", "default"]);
            output("ip", &["-6", "addr", "flush", "dev", "eth0", "scope", "global"]);
            output("ip", &["link", "set", "lo", "down"])
        });
        let host_link = pod_links::host_link_name("a");
        output("ip", &["link", "set", &host_link, "nomaster", "down"]);
        assert_ne!(state(), before);
        assert_eq!(attach(&network, "a", &pod), first);
        let home = sys::own_network_namespace().unwrap();
        for address in first {
            talk(&home, &pod, address);
        }
    });
}

#[test]
fn lease_without_links_and_links_without_namespace_are_completed() {
    on_node(|directory| {
        let network = ready(directory);
        // Killed between lease and links.
        let leased = lock(&network.pool).lease("a").unwrap();
        let pod = new_namespace();
        assert_eq!(
            attach(&network, "a", &pod),
            leased.addresses.iter().map(IpNet::addr).collect::<Vec<_>>()
        );
        // The sandbox gets another namespace while the old one still lives.
        let another = new_namespace();
        let addresses = attach(&network, "a", &another);
        let home = sys::own_network_namespace().unwrap();
        talk(&home, &another, addresses[0]);
        drop(pod);
    });
}

#[test]
fn detach_frees_the_address_for_the_end_of_the_round() {
    on_node(|directory| {
        let network = network(directory);
        network.set_pod_cidrs(&nets(&["10.99.0.0/29"])).unwrap();
        let pods: Vec<OwnedFd> = (0..6).map(|_| new_namespace()).collect();
        let got = |id: &str, pod: usize| attach(&network, id, &pods[pod])[0].to_string();
        assert_eq!(got("a", 0), "10.99.0.2");
        network.detach("a").unwrap();
        network.detach("a").unwrap();
        assert_eq!(got("b", 1), "10.99.0.3");
        for (id, pod) in [("c", 2), ("d", 3), ("e", 4)] {
            got(id, pod);
        }
        assert_eq!(got("f", 5), "10.99.0.2");
        let late = new_namespace();
        let error = network
            .attach(&Attachment {
                sandbox_id: "g",
                netns: late.as_fd(),
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no free address in 10.99.0.0/29: all 5 are leased"
        );
    });
}

#[test]
fn closing_the_namespace_removes_the_links() {
    on_node(|directory| {
        let network = ready(directory);
        let pod = new_namespace();
        attach(&network, "a", &pod);
        network.detach("a").unwrap();
        drop(pod);
        let mut rtnl = Rtnl::open().unwrap();
        // The kernel cleans up in its own time; the test's own limit is the harness's.
        while pod_links::host_links(&mut rtnl)
            .unwrap()
            .contains(&pod_links::host_link_name("a"))
        {
            std::thread::yield_now();
        }
    });
}

#[test]
fn collect_removes_what_is_not_live_and_nothing_else() {
    on_node(|directory| {
        let network = ready(directory);
        let (live, dead, orphan) = (new_namespace(), new_namespace(), new_namespace());
        let kept = attach(&network, "live", &live);
        attach(&network, "dead", &dead);
        attach(&network, "orphan", &orphan);
        network.detach("orphan").unwrap();
        output(
            "ip",
            &[
                "link",
                "add",
                "lshforeign",
                "type",
                "veth",
                "peer",
                "name",
                "other",
            ],
        );
        network.collect(&BTreeSet::from(["live".to_owned()])).unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        let links = pod_links::host_links(&mut rtnl).unwrap();
        assert_eq!(links, BTreeSet::from([pod_links::host_link_name("live")]));
        output("ip", &["link", "show", "lshforeign"]);
        assert_eq!(lock(&network.pool).sandboxes().collect::<Vec<_>>(), ["live"]);
        let home = sys::own_network_namespace().unwrap();
        talk(&home, &live, kept[0]);
    });
}

#[test]
fn the_node_side_converges_and_keeps_foreign_routes() {
    on_node(|directory| {
        let network = ready(directory);
        for arguments in [
            "link add uplink type veth peer name world",
            "addr add 192.168.7.1/24 dev uplink",
            "addr add fd07::1/64 dev uplink nodad",
            "link set uplink up",
            "link set world up",
            "route add 10.99.9.0/24 via 192.168.7.9",
        ] {
            output("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
        let peer = |n: u8| Peer {
            cidrs: nets(&[&format!("10.99.{n}.0/24"), &format!("fd99:0:0:{n}::/64")]),
            via: vec![
                format!("192.168.7.{n}").parse().unwrap(),
                format!("fd07::{n}").parse().unwrap(),
            ],
        };
        let routes = || {
            let all = output("ip", &["route", "show", "proto", "108"])
                + &output("ip", &["-6", "route", "show", "proto", "108"]);
            all.lines()
                .map(|line| line.split(" dev").next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert!(network.set_peers(&[peer(2), peer(3)]).unwrap().is_empty());
        let both = [
            "10.99.2.0/24 via 192.168.7.2",
            "10.99.3.0/24 via 192.168.7.3",
            "fd99:0:0:2::/64 via fd07::2",
            "fd99:0:0:3::/64 via fd07::3",
        ];
        assert_eq!(routes(), both);
        assert!(network.set_peers(&[peer(2), peer(3)]).unwrap().is_empty());
        let moved = Peer {
            via: vec!["192.168.7.4".parse().unwrap()],
            ..peer(3)
        };
        let warnings = network.set_peers(&[moved, peer(9)]).unwrap();
        // A foreign route to 10.99.9.0/24 is there already, and the moved peer has no IPv6 address any more.
        assert!(
            matches!(
                &warnings[..],
                [Warning::NoGateway { .. }, Warning::Route { operation: "add", .. }]
            ),
            "{warnings:?}"
        );
        assert_eq!(
            routes(),
            ["10.99.3.0/24 via 192.168.7.4", "fd99:0:0:9::/64 via fd07::9"]
        );
        assert!(network.set_peers(&[]).unwrap().is_empty());
        assert_eq!(routes(), [] as [&str; 0]);
        assert!(output("ip", &["route"]).contains("10.99.9.0/24 via 192.168.7.9"));
        assert_eq!(sys::read_sysctl("net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(sys::read_sysctl("net/ipv6/conf/all/forwarding").unwrap(), "1");
    });
}

#[test]
fn a_damaged_bridge_is_mended_and_a_foreign_link_refused() {
    on_node(|directory| {
        let network = ready(directory);
        output("ip", &["addr", "flush", "dev", "longshore0"]);
        output(
            "ip",
            &[
                "link",
                "set",
                "longshore0",
                "down",
                "type",
                "bridge",
                "mcast_snooping",
                "1",
            ],
        );
        assert!(network.set_pod_cidrs(&nets(&CIDRS)).unwrap().is_empty());
        let addresses = output("ip", &["addr", "show", "longshore0"]);
        assert!(
            addresses.contains("10.99.0.1/24") && addresses.contains("fd99::1/64"),
            "{addresses}"
        );
        let bridge = output("ip", &["-d", "link", "show", "longshore0"]);
        assert!(
            bridge.contains("mcast_snooping 0") && bridge.contains("forward_delay 0"),
            "{bridge}"
        );
        // Another node CIDR: the old gateway goes.
        network.set_pod_cidrs(&nets(&["10.98.0.0/24"])).unwrap();
        let addresses = output("ip", &["addr", "show", "longshore0"]);
        assert!(
            addresses.contains("10.98.0.1/24") && !addresses.contains("10.99.0.1"),
            "{addresses}"
        );

        output("ip", &["link", "del", "longshore0"]);
        let pod = new_namespace();
        let error = network
            .attach(&Attachment {
                sandbox_id: "a",
                netns: pod.as_fd(),
            })
            .unwrap_err();
        assert!(matches!(error, Error::NoBridge { .. }), "{error}");
        output(
            "ip",
            &[
                "link",
                "add",
                "longshore0",
                "type",
                "veth",
                "peer",
                "name",
                "other",
            ],
        );
        assert!(matches!(
            network.set_pod_cidrs(&nets(&CIDRS)),
            Err(Error::NotABridge { .. })
        ));
    });
}

/// What leaves the cluster carries the node's address; what goes to the cluster keeps the pod's.
#[test]
fn masquerade_only_to_the_world() {
    on_node(|directory| {
        let network = ready(directory);
        let world = new_namespace();
        let pod = new_namespace();
        output(
            "ip",
            &["link", "add", "uplink", "type", "veth", "peer", "name", "world"],
        );
        namespace::move_link("world", &world);
        for arguments in ["addr add 192.168.7.1/24 dev uplink", "link set uplink up"] {
            output("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
        inside(&world, || {
            for arguments in [
                "addr add 192.168.7.2/24 dev world",
                "addr add 10.99.7.7/32 dev world",
                "link set world up",
                "route add 10.99.0.0/24 via 192.168.7.1",
            ] {
                output("ip", &arguments.split(' ').collect::<Vec<_>>());
            }
        });
        let peer = Peer {
            cidrs: nets(&["10.99.7.0/24"]),
            via: vec!["192.168.7.2".parse().unwrap()],
        };
        assert!(network.set_peers(&[peer]).unwrap().is_empty());
        let own = attach(&network, "a", &pod)[0];
        for (target, seen) in [
            ("192.168.7.2", "192.168.7.1".parse().unwrap()),
            ("10.99.7.7", own),
        ] {
            let target: IpAddr = target.parse().unwrap();
            let listener = inside(&world, move || {
                TcpListener::bind(SocketAddr::new(target, 0)).unwrap()
            });
            let port = listener.local_addr().unwrap().port();
            let _stream = inside(&pod, move || TcpStream::connect((target, port)).unwrap());
            assert_eq!(listener.accept().unwrap().1.ip(), seen, "to {target}");
        }
    });
}

#[test]
fn bad_settings_are_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "a/b", "sixteen-letters-", "a.b", "a\"b"] {
        let result = Network::new(Config {
            bridge: name.to_owned(),
            ..config(&directory)
        });
        assert!(matches!(result.err(), Some(Error::BridgeName { .. })), "{name}");
    }
}
