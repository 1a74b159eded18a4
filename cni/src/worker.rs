//! The link worker: the one thread that enters other network namespaces. One, because the kernel takes links one at a
//! time anyway and two threads together are half as fast as one. It lives as long as the network and runs nothing that
//! takes longer than a millisecond.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::Error;
use crate::plan::{self, PodDesired, PodObserved};
use crate::pod_links::{self, PodLinks};
use crate::sys::{self, Rtnl};

/// Requests that may wait; beyond that callers wait.
const QUEUE: usize = 64;

/// One pod's network to set up.
pub(crate) struct Request {
    pub(crate) netns: OwnedFd,
    pub(crate) bridge: String,
    pub(crate) host_link: String,
    pub(crate) desired: PodDesired,
    /// The lease is new, so nothing of this sandbox can exist yet and nothing has to be looked up.
    pub(crate) fresh: bool,
}

struct Job {
    request: Request,
    reply: SyncSender<Result<(), Error>>,
}

pub(crate) struct LinkWorker {
    jobs: SyncSender<Job>,
}

impl LinkWorker {
    /// Starts the thread. Its home is the calling thread's network namespace.
    pub(crate) fn start() -> Result<Self, Error> {
        let home = sys::own_network_namespace().map_err(|source| Error::Namespace {
            operation: "open own",
            source,
        })?;
        let rtnl = Rtnl::open().map_err(|source| Error::Namespace {
            operation: "open netlink socket of own",
            source,
        })?;
        let (jobs, queue) = sync_channel(QUEUE);
        let mut state = Worker { home, rtnl };
        std::thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || state.serve(&queue))
            .map_err(|source| Error::Namespace {
                operation: "start worker thread of own",
                source,
            })?;
        Ok(Self { jobs })
    }

    /// Sets a pod's network up and waits for it.
    pub(crate) fn attach(&self, request: Request) -> Result<(), Error> {
        let (reply, answer) = sync_channel(1);
        self.jobs
            .send(Job { request, reply })
            .map_err(|_| Error::WorkerGone)?;
        answer.recv().map_err(|_| Error::WorkerGone)?
    }
}

struct Worker {
    home: OwnedFd,
    rtnl: Rtnl,
}

impl Worker {
    fn serve(&mut self, queue: &Receiver<Job>) {
        while let Ok(Job { request, reply }) = queue.recv() {
            // A caller that did not wait has no use for the answer.
            let _ = reply.send(self.attach(&request));
        }
    }

    fn attach(&mut self, request: &Request) -> Result<(), Error> {
        let mut inside = self.open_inside(request.netns.as_fd())?;
        let links = PodLinks {
            bridge: &request.bridge,
            host_link: &request.host_link,
            desired: &request.desired,
            netns: request.netns.as_fd(),
        };
        let observed = match request.fresh {
            true => PodObserved::default(),
            false => pod_links::observe(&mut self.rtnl, &mut inside, &links)?,
        };
        for action in plan::pod(&request.desired, &observed) {
            pod_links::apply(&mut self.rtnl, &mut inside, &links, action)?;
        }
        Ok(())
    }

    /// A socket of the pod's namespace. The thread is in there only to open it and to write the settings that links
    /// take over at birth.
    fn open_inside(&mut self, netns: BorrowedFd<'_>) -> Result<Rtnl, Error> {
        sys::enter_network_namespace("cni.enter_netns", netns).map_err(|source| Error::Namespace {
            operation: "enter the pod's",
            source,
        })?;
        let socket = Rtnl::open();
        // Duplicate address detection would keep IPv6 waiting for seconds; a pod's routes come from us, not from
        // whoever sends router advertisements. A kernel without IPv6 has neither file, and then needs neither.
        let _ = sys::write_sysctl("cni.pod_accept_dad", "net/ipv6/conf/default/accept_dad", "0");
        let _ = sys::write_sysctl("cni.pod_accept_ra", "net/ipv6/conf/default/accept_ra", "0");
        if sys::enter_network_namespace("cni.leave_netns", self.home.as_fd()).is_err() {
            // Any further request would change a pod's namespace for the node's.
            std::process::abort();
        }
        socket.map_err(|source| Error::Namespace {
            operation: "open netlink socket of the pod's",
            source,
        })
    }
}
