//! The page service on the wire: libpq framing as seen by a server, the text commands, the
//! pagestream messages of versions 2 and 3, a connection driver and a client.
//!
//! The byte contract is `docs/format/page-service.md`.
//!
//! * [`frame`], [`startup`], [`frontend`], [`backend`], [`command`] and [`message`] are pure:
//!   functions between bytes and values. No input makes them panic or allocate beyond a named
//!   limit.
//! * [`server`] drives one connection over any byte stream and calls a [`server::Handler`]. It
//!   knows neither tenants nor pages.
//! * [`client`] speaks the other side; tests, benchmarks and tools use it.
//!
//! Not here: TLS (an [`server::Upgrade`] is handed in), the check of tokens, routing to shards,
//! and the contents of backups.

#![forbid(unsafe_code)]

pub mod backend;
pub mod client;
pub mod command;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod message;
pub mod server;
pub mod startup;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;

pub use command::Command;
pub use error::Error;
pub use message::{Answer, Header, Query, Relation, Request, Response, Version};
pub use startup::Startup;
