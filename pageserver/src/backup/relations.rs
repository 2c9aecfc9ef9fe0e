//! Relation files of a backup.

use super::out::Out;
use super::{Backup, Contents, failed};
use page_protocol::Error;
use pg_format::{RelFile, page};
use types::rel::BLOCKS_PER_SEGMENT;
use types::{BlockNumber, Fork, Oid, PAGE_SIZE, RelTag};

/// Pages read at once.
const CHUNK: BlockNumber = 32;

/// Writes the relations of a database that the backup contains.
pub async fn write(
    backup: &Backup<'_>,
    out: &mut Out<'_, '_>,
    spc: Oid,
    db: Oid,
) -> Result<(), Error> {
    let rels = backup
        .timeline
        .relations(spc, db, backup.lsn)
        .await
        .map_err(failed)?;
    for rel in &rels {
        let unlogged = rels.contains(&rel.with_fork(Fork::Init));
        match rel.fork {
            Fork::Init => {
                // An unlogged relation starts as its initial contents.
                relation(backup, out, *rel, rel.fork).await?;
                relation(backup, out, *rel, Fork::Main).await?;
            }
            Fork::Main if unlogged => {}
            _ if backup.contents == Contents::Full => relation(backup, out, *rel, rel.fork).await?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes the pages of `rel` to the files of its fork `target`.
async fn relation(
    backup: &Backup<'_>,
    out: &mut Out<'_, '_>,
    rel: RelTag,
    target: Fork,
) -> Result<(), Error> {
    let blocks = backup
        .timeline
        .relation_size(rel, backup.lsn)
        .await
        .map_err(failed)?;
    let mut first = 0;
    let mut segment = 0;
    loop {
        let count = (blocks - first).min(BLOCKS_PER_SEGMENT);
        let file = RelFile {
            rel: rel.with_fork(target),
            segment,
        };
        let size = u64::from(count) * PAGE_SIZE as u64;
        out.begin(&file.path(backup.version()), size).await?;
        pages(backup, out, rel, first, count).await?;
        out.end(size).await?;
        first += count;
        segment += 1;
        if first >= blocks {
            return Ok(());
        }
    }
}

async fn pages(
    backup: &Backup<'_>,
    out: &mut Out<'_, '_>,
    rel: RelTag,
    first: BlockNumber,
    count: BlockNumber,
) -> Result<(), Error> {
    let mut at = first;
    let end = first + count;
    while at < end {
        let next = (at + CHUNK).min(end);
        for (block, image) in (at..next).zip(backup.timeline.pages(rel, at..next, backup.lsn).await)
        {
            let image = image.map_err(failed)?;
            let mut bytes: [u8; PAGE_SIZE] = image.first_chunk().copied().ok_or_else(|| {
                Error::internal(format!("page {block} of {rel} has {} bytes", image.len()))
            })?;
            if backup.checksums && !page::is_new(&bytes) {
                page::set_checksum(&mut bytes, block);
            }
            out.bytes(&bytes).await?;
        }
        at = next;
    }
    Ok(())
}
