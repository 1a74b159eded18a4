//! Service proxy: which addresses of Services lead to which endpoints.
//!
//! This crate holds the pure half, [`Table`]: plain data in, plain data out, no kernel and no API types. Its application
//! (sockets and packets) and the addresses beside cluster IPs (node ports, load balancers, external IPs) come with the
//! services issue, on the same table.

mod table;

pub use table::{
    Backends, Change, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort, Table, Vip, WithoutBackend,
};
