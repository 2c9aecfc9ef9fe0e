//! The management API as types and as a client.
//!
//! [`model`] and [`size`] are what goes over the wire; the server answers with the same types. [`Client`] speaks
//! HTTP/1.1 to one pageserver.

#![forbid(unsafe_code)]

mod client;
pub mod model;
pub mod size;

pub use client::{Client, Error};
