//! The fabric: a bridge in the network namespace `longshore-lab`, with one link to the machine and one to each node.

use crate::NAME;
use crate::addresses::{BRIDGE, FABRIC_PREFIXES, HOST_LINK};
use crate::process::run;
use crate::state::State;
use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// File that names the lab's network namespace, where `ip netns` looks for it.
pub(crate) fn netns_file() -> PathBuf {
    Path::new("/run/netns").join(NAME)
}

/// Where the machine shows the link to the fabric.
pub(crate) fn host_link_dir() -> PathBuf {
    Path::new("/sys/class/net").join(HOST_LINK)
}

/// Makes what is missing of namespace, bridge and host link.
pub(crate) fn ensure(state: &mut State) -> Result<()> {
    let file = netns_file();
    if !is_netns(&file) {
        make_netns(state, &file)?;
    }
    if run(Command::new("ip").args(["-n", NAME, "link", "show", BRIDGE])).is_err() {
        make_bridge(state)?;
    }
    if run(Command::new("ip").args(["link", "show", HOST_LINK])).is_err() {
        make_host_link(state)?;
    }
    Ok(())
}

fn is_netns(file: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(file).is_ok_and(|info| info.f_type == NSFS_MAGIC)
}

/// Not `ip netns add`: that leaves a mount on /run/netns behind.
fn make_netns(state: &mut State, file: &Path) -> Result<()> {
    let directory = file.parent().context("the namespace file has a directory")?;
    state.files = vec![file.to_path_buf()];
    if !directory.exists() {
        state.files.push(directory.to_path_buf());
    }
    state.save()?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    File::create(file).with_context(|| format!("make {}", file.display()))?;
    run(Command::new("unshare")
        .arg(format!("--net={}", file.display()))
        .arg("true"))?;
    Ok(())
}

fn make_bridge(state: &State) -> Result<()> {
    // Duplicate address detection would hold each IPv6 address back for a second or two.
    in_netns_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    in_netns_sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
        format!("link set {BRIDGE} up"),
    ];
    lines.extend(address_lines(BRIDGE, state.addresses.control_plane()));
    batch(&["-n", NAME], &lines)
}

fn make_host_link(state: &mut State) -> Result<()> {
    if !state.links.iter().any(|link| link == HOST_LINK) {
        state.links.push(HOST_LINK.to_owned());
        state.save()?;
    }
    batch(
        &[],
        &[format!(
            "link add {HOST_LINK} type veth peer name host0 netns {NAME}"
        )],
    )?;
    batch(&["-n", NAME], &[format!("link set host0 master {BRIDGE} up")])?;
    let [v4, v6] = state.addresses.host();
    let [v4_length, v6_length] = FABRIC_PREFIXES;
    batch(
        &[],
        &[
            format!("link set {HOST_LINK} up"),
            format!("addr add {v4}/{v4_length} dev {HOST_LINK}"),
        ],
    )?;
    // A machine may have IPv6 switched off; nothing of the lab reaches it by IPv6 then.
    let _ = batch(&[], &[format!("addr add {v6}/{v6_length} dev {HOST_LINK} nodad")]);
    Ok(())
}

/// Connects the node whose init is `pid`: link, addresses, routes.
pub(crate) fn connect_node(state: &State, pid: u32, index: usize) -> Result<()> {
    let link = format!("node{index}");
    // A dead node's link goes with its namespace, but not at once.
    let _ = batch(&["-n", NAME], &[format!("link del {link}")]);
    batch(
        &["-n", NAME],
        &[
            format!("link add {link} type veth peer name eth0 netns {pid}"),
            format!("link set {link} master {BRIDGE} up"),
        ],
    )?;
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(address_lines("eth0", state.addresses.node(index)));
    let [v4, v6] = state.addresses.control_plane();
    lines.push(format!("route add default via {v4} dev eth0"));
    lines.push(format!("route add default via {v6} dev eth0"));
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "ip", "-batch", "-"]);
    feed(command, &lines)
}

/// Routes from the fabric (control plane, tests) to the pods of a node.
pub(crate) fn route_pods(state: &State, index: usize, ranges: &[String]) -> Result<()> {
    let nodes = state.addresses.node(index);
    for range in ranges {
        let via = nodes
            .iter()
            .find(|address| address.is_ipv6() == range.contains(':'));
        let via = via.context("a node has both families")?;
        let family = if via.is_ipv6() { "-6" } else { "-4" };
        run(Command::new("ip").args([
            family,
            "-n",
            NAME,
            "route",
            "replace",
            range,
            "via",
            &via.to_string(),
        ]))?;
    }
    Ok(())
}

/// Runs `work` on a thread of its own inside the fabric's network namespace.
pub(crate) fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = netns_file();
    let netns = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The thread ends with the work, so it need not find its way back.
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| work())
        });
        let result = thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread in the fabric panicked"))?;
        result.context("enter the fabric's network namespace")
    })
}

/// Removes link and namespace. Absent is fine.
pub(crate) fn remove() -> Result<()> {
    if run(Command::new("ip").args(["link", "show", HOST_LINK])).is_ok() {
        run(Command::new("ip").args(["link", "del", HOST_LINK]))?;
    }
    let file = netns_file();
    if is_netns(&file) {
        run(Command::new("umount").arg(&file))?;
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn address_lines(link: &str, addresses: [IpAddr; 2]) -> Vec<String> {
    let pairs = addresses.into_iter().zip(FABRIC_PREFIXES);
    pairs
        .map(|(address, length)| {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            format!("addr add {address}/{length} dev {link}{nodad}")
        })
        .collect()
}

fn in_netns_sysctl(name: &str, value: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_file().display()));
    command.args(["sh", "-c", r#"echo "$1" > "/proc/sys/$2""#, "sh", value, name]);
    run(&mut command).map(drop)
}

fn batch(arguments: &[&str], lines: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments).args(["-batch", "-"]);
    feed(command, lines)
}

fn feed(mut command: Command, lines: &[String]) -> Result<()> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("run {}", crate::process::line(&command)))?;
    let mut input = child.stdin.take().context("standard input is a pipe")?;
    // A program that ends early says why on standard error.
    let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {} (of: {})",
        crate::process::line(&command),
        String::from_utf8_lossy(&output.stderr).trim(),
        lines.join("; ")
    );
    Ok(())
}
