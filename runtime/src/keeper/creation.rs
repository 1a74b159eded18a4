//! The making of a container: its cgroup, its streams, its init.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::container::{Asker, Container, Output, Stage};
use super::device_filter;
use super::log::{Log, Stream};
use crate::failure::{About as _, Trouble};
use crate::init;
use crate::plan::{Cgroup, ContainerPlan, PidNamespace, valid_id};
use crate::sys::{cgroup, process, socket};
use crate::wire::Failure;

/// Bytes of a cgroup path; the kernel's own bound.
const MAX_PATH: usize = 4096;

/// Removes a cgroup unless the creation it belongs to succeeds.
struct CgroupGuard<'a>(Option<&'a Path>);

impl Drop for CgroupGuard<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(errno) = cgroup::remove(path)
        {
            say!("remove cgroup {}: {errno}", path.display());
        }
    }
}

/// Makes the container and sets its init to work. The answer to `asker` comes when the init reports.
pub(crate) fn create(plan: &ContainerPlan, asker: Asker) -> Result<Container, Failure> {
    check(plan).map_err(|trouble| trouble.in_step("check plan"))?;
    let cgroup_path = PathBuf::from(&plan.cgroup.path);
    let guard = CgroupGuard(Some(&cgroup_path));
    let cgroup = make_cgroup(&plan.cgroup).map_err(|trouble| trouble.in_step("make cgroup"))?;
    device_filter::apply(&cgroup, &plan.device_rules).map_err(|trouble| trouble.in_step("filter devices"))?;
    let mut container = launch(plan, cgroup, &cgroup_path)?;
    std::mem::forget(guard);
    container.stage = Stage::Creating { askers: vec![asker] };
    Ok(container)
}

fn check(plan: &ContainerPlan) -> Result<(), Trouble> {
    if !valid_id(&plan.id) {
        return Err(Trouble::rule(
            plan.id.clone(),
            "container id is not [a-z0-9]{1,64}",
        ));
    }
    if plan.process.args.first().is_none_or(String::is_empty) {
        return Err(Trouble::rule(plan.id.clone(), "no command specified"));
    }
    let path = Path::new(&plan.cgroup.path);
    let plain = path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..");
    if !plain || plan.cgroup.path.len() > MAX_PATH {
        return Err(Trouble::rule(
            plan.cgroup.path.clone(),
            "cgroup path is not absolute and plain",
        ));
    }
    Ok(())
}

fn make_cgroup(wanted: &Cgroup) -> Result<OwnedFd, Trouble> {
    let path = Path::new(&wanted.path);
    cgroup::ensure("runtime.mkdir_cgroup", path).about(&wanted.path)?;
    for (file, _) in &wanted.settings {
        enable_controller_of(file, path)?;
    }
    let group = cgroup::open(path).about(&wanted.path)?;
    for (file, value) in &wanted.settings {
        cgroup::write(&group, file, value).about(format!("{}/{file} = {value}", wanted.path))?;
    }
    Ok(group)
}

/// Hands the controller of setting `file` down from the top of the tree to the group at `path`.
fn enable_controller_of(file: &str, path: &Path) -> Result<(), Trouble> {
    let controller = file.split('.').next().unwrap_or_default();
    if controller == "cgroup" {
        return Ok(());
    }
    let is_group = |above: &&Path| above.join("cgroup.controllers").exists();
    let above: Vec<&Path> = path.ancestors().skip(1).take_while(is_group).collect();
    for group in above.iter().rev() {
        if !cgroup::enable_controller(group, controller).about(group.display().to_string())? {
            let text = format!("cgroup controller {controller} is not available, {file} cannot be set");
            return Err(Trouble::rule(group.display().to_string(), text));
        }
    }
    Ok(())
}

/// The keeper's and the init's ends of the standard streams.
struct Streams {
    theirs: init::Streams,
    stdin: Option<OwnedFd>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

fn make_streams(plan: &ContainerPlan) -> Result<Streams, Trouble> {
    let mut streams = Streams {
        theirs: init::Streams {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        stdin: None,
        stdout: None,
        stderr: None,
    };
    if plan.process.terminal {
        return Ok(streams);
    }
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).about("pipe");
    if plan.stdio.stdin {
        let (reader, writer) = pipe()?;
        (streams.theirs.stdin, streams.stdin) = (Some(reader), Some(writer));
    }
    if plan.stdio.log_path.is_some() {
        for (stream, theirs, ours) in [
            (Stream::Stdout, &mut streams.theirs.stdout, &mut streams.stdout),
            (Stream::Stderr, &mut streams.theirs.stderr, &mut streams.stderr),
        ] {
            let (reader, writer) = pipe()?;
            rustix::io::ioctl_fionbio(&reader, true).about("pipe")?;
            (*theirs, *ours) = (Some(writer), Some(Output::new(reader, stream)));
        }
    }
    Ok(streams)
}

fn launch(plan: &ContainerPlan, cgroup: OwnedFd, cgroup_path: &Path) -> Result<Container, Failure> {
    let log = plan
        .stdio
        .log_path
        .as_ref()
        .map(|path| Log::open(PathBuf::from(path)).about(path))
        .transpose();
    let log = log.map_err(|trouble| trouble.in_step("open log"))?;
    let streams = make_streams(plan).map_err(|trouble| trouble.in_step("make streams"))?;
    let (child_end, control) = socket::control_pair()
        .about("socket pair")
        .map_err(|trouble| trouble.in_step("make streams"))?;
    let theirs = streams.theirs;
    let own_pids = plan.pid_namespace == PidNamespace::Own;
    let body = || init::run(plan, child_end, theirs);
    let child = in_pid_namespace(&plan.pid_namespace, || {
        process::clone_container(own_pids, cgroup.as_fd(), body).about(&plan.id)
    })
    .map_err(|trouble| trouble.in_step("clone"))?;
    Ok(Container {
        id: plan.id.clone(),
        stage: Stage::Created,
        pid: child.pid,
        pidfd: child.pidfd,
        own_pids,
        cgroup_path: cgroup_path.to_owned(),
        cgroup,
        cgroup_events: None,
        control: Some(control),
        failure: None,
        stdout: streams.stdout,
        stderr: streams.stderr,
        stdin: streams.stdin,
        log,
        removers: Vec::new(),
    })
}

/// Runs `make` so that children are born in the pid namespace asked for.
fn in_pid_namespace<T>(
    wanted: &PidNamespace,
    make: impl FnOnce() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let PidNamespace::Path(path) = wanted else {
        return make();
    };
    let open =
        |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).about(path);
    let enter = |namespace: &OwnedFd, path: &str| process::enter_pid_namespace(namespace.as_fd()).about(path);
    let home = open("/proc/self/ns/pid")?;
    enter(&open(path)?, path)?;
    let made = make();
    // Without the way home, later containers would be born in a stranger's namespace.
    enter(&home, "/proc/self/ns/pid")
        .map_err(|_| ())
        .unwrap_or_else(|()| process::exit_now(1));
    made
}
