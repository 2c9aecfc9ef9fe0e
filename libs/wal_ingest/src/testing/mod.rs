//! An in-memory store that checks every batch, and an encoder of WAL records. For tests, benches
//! and fuzz targets; built with the feature `testing`.

mod encoder;
mod memory;

pub use encoder::RecordBuilder;
pub use memory::MemoryStore;
