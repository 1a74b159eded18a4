//! A route netlink socket, one request at a time. It belongs to the network namespace it was opened in, wherever the
//! thread that uses it goes later.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::fault;

/// More than any node has of links, addresses or routes of ours.
const REPLY_LIMIT: usize = 100_000;

pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lets the kernel filter dumps; the node may hold a million routes of a routing daemon.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Changes something: the effect, so it names its fault point.
    pub(crate) fn change(&mut self, point: &str, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        fault::point(point);
        self.exchange(message, NLM_F_ACK | flags).map(drop)
    }

    /// Asks for one object; `None` if it does not exist.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        match self.exchange(message, NLM_F_ACK) {
            Ok(mut replies) => Ok(replies.pop()),
            Err(source) if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(None),
            Err(source) => Err(source),
        }
    }

    /// Asks for all objects that the message's filter lets through.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        match self.exchange(message, NLM_F_DUMP) {
            // A routing table that nobody ever put a route into does not exist.
            Err(source) if source.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            result => result,
        }
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        self.replies()
    }

    fn replies(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut replies = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|source| io::Error::new(io::ErrorKind::InvalidData, source.to_string()))?;
                // Messages are aligned to four bytes in a datagram.
                let length = (message.header.length as usize)
                    .next_multiple_of(4)
                    .min(rest.len());
                rest = &rest[length.max(1)..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(reply) if replies.len() < REPLY_LIMIT => replies.push(reply),
                    NetlinkPayload::InnerMessage(_) => {
                        let text = format!("more than {REPLY_LIMIT} netlink objects");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(replies),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(replies),
                    _ => {}
                }
            }
        }
    }
}
