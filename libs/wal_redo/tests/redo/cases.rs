//! Reader of the golden files: records of real servers with the pages they found.
//!
//! Format, little-endian, repeated to the end: record end u64, number of pages u8, per page
//! tablespace, database, relation u32 each, fork u8, block u32 and 8192 bytes as they were before
//! the record; record length u32, record. Also read by the fuzz targets and by what seeds them.

use pg_wal::cursor::{Cursor, Short};
use types::{Fork, Lsn, RelTag};

/// A record and the pages it changes.
pub struct Case {
    pub lsn: Lsn,
    pub pages: Vec<(RelTag, u32, Box<[u8; 8192]>)>,
    pub raw: Vec<u8>,
}

/// All cases of a decompressed golden file.
pub fn parse(bytes: &[u8]) -> Result<Vec<Case>, Short> {
    let mut c = Cursor::new(bytes, "golden cases");
    let mut out = Vec::new();
    while c.left() > 0 {
        let lsn = Lsn(c.u64()?);
        let mut pages = Vec::new();
        for _ in 0..c.u8()? {
            let (spc, db, rel) = (c.u32()?, c.u32()?, c.u32()?);
            let fork = Fork::from_u8(c.u8()?).unwrap_or(Fork::Main);
            let block = c.u32()?;
            let rel = RelTag { spc, db, rel, fork };
            pages.push((rel, block, Box::new(c.array()?)));
        }
        let len = c.u32()? as usize;
        let raw = c.take(len)?.to_vec();
        out.push(Case { lsn, pages, raw });
    }
    Ok(out)
}
