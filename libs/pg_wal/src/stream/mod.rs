//! From raw WAL bytes to verified records (`docs/format/wal.md`, "Stream").
//!
//! [`Decoder`] takes bytes as they arrive, in pieces of any size, and lends out one record at a
//! time. A record that comes out has a matching CRC, follows its predecessor (`xl_prev`) and was
//! read from pages whose headers are right; there is no way to get one unchecked.
//! [`segment`] applies the decoder to WAL files, where the first thing that is not a record means
//! the end of WAL instead of an error.
//!
//! Not here: what a record says ([`crate::record`], [`crate::rmgr`]), and any I/O.

mod decoder;
mod error;
mod page;
pub mod segment;

pub use decoder::{Config, Decoder, RawRecord};
pub use error::Error;
pub use page::PageHeader;
