//! Redo seen from outside: records in, pages out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arbitrary;
mod cases;
mod engine;
mod golden;
mod heap;
mod page_model;
mod record;
mod slru;
mod vm;
