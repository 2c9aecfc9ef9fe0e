//! Tar archives of a data directory: headers to write them, a streaming parser to read those
//! that servers send as base backups.
//!
//! Written: GNU headers for files and directories only, paths of at most 100 bytes, no
//! extensions. Read: ustar and GNU headers, a ustar path prefix, sizes in octal or base 256.
//! Pax and GNU long-name entries are handed over as [`Kind::Other`], not interpreted. Neither
//! side touches files. Byte contract: `docs/format/pgdata.md`.

mod read;
mod write;

pub use read::{Ending, Entry, Error, Event, Kind, Parser};
pub use write::{Item, UnwritableEntry, header, padding};

/// Size of a tar block in bytes.
pub const BLOCK: usize = 512;
/// End of an archive: two zero blocks.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Where a header's checksum field is: six octal digits, NUL, space, or seven digits and NUL.
const CHECKSUM_AT: usize = 148;
const CHECKSUM_LEN: usize = 8;

/// Sum of a header's bytes with its checksum field read as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let field = CHECKSUM_AT..CHECKSUM_AT + CHECKSUM_LEN;
    block
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if field.contains(&i) {
                u32::from(b' ')
            } else {
                u32::from(*b)
            }
        })
        .sum()
}

#[cfg(test)]
mod tests;
