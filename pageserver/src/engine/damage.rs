//! Where a layer file is damaged, for the error that an operator reads.

use super::disk::ReadFile;
use bytes::Bytes;
use layer_format::Checksums;
use layer_format::checksum::Record;
use types::PAGE_SIZE;

/// Blocks read at once.
const RUN: u64 = 128;
const BLOCK: u64 = PAGE_SIZE as u64;

/// The first damaged place of a file whose digest is wrong, as far as its own checksums know it.
pub fn locate(file: &dyn ReadFile, len: u64) -> String {
    match find(file, len) {
        Ok(()) => "its own checksums hold: it is another file".into(),
        Err(why) => why,
    }
}

fn find(file: &dyn ReadFile, len: u64) -> Result<(), String> {
    let mut block0 = [0u8; PAGE_SIZE];
    read(file, &mut block0, 0)?;
    let record = Record::decode(&block0).map_err(|e| e.to_string())?;
    let record = record.ok_or("block 0 lacks the record of checksums")?;
    let covered = u64::from(record.table_block) * BLOCK;
    let area = len
        .checked_sub(covered)
        .and_then(|n| usize::try_from(n).ok());
    let mut area = vec![0u8; area.ok_or("the file ends before its table of checksums")?];
    read(file, &mut area, covered)?;
    let sums = Checksums::open(record, &Bytes::from(area)).map_err(|e| e.to_string())?;
    let mut buf = Vec::new();
    let mut block = 0;
    while block < record.table_block {
        let n = (covered / BLOCK - u64::from(block)).min(RUN);
        buf.resize(usize::try_from(n * BLOCK).unwrap_or_default(), 0);
        read(file, &mut buf, u64::from(block) * BLOCK)?;
        sums.verify(u64::from(block) * BLOCK, &buf)
            .map_err(|e| e.to_string())?;
        block = block.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
    }
    Ok(())
}

fn read(file: &dyn ReadFile, buf: &mut [u8], offset: u64) -> Result<(), String> {
    let wrong = |e| format!("unreadable at file offset {offset:#x}: {e}");
    file.read_exact_at(buf, offset).map_err(wrong)
}
