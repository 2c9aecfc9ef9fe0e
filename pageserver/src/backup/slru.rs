//! SLRU files of a backup.

use super::out::Out;
use super::{Backup, failed, invalid};
use page_protocol::Error;
use pg_format::CheckPoint;
use pg_format::slru::{OffsetRepair, PageNumber, segment_path};
use types::{PAGE_SIZE, SlruKind};

/// Range of multixacts whose offsets must not be zero.
#[derive(Clone, Copy, Debug)]
pub struct NextMulti {
    oldest: u32,
    next: u32,
    offset: u32,
}

impl NextMulti {
    /// The range that a checkpoint names.
    pub fn of(checkpoint: &CheckPoint) -> Self {
        NextMulti {
            oldest: checkpoint.oldest_multi,
            next: checkpoint.next_multi,
            offset: checkpoint.next_multi_offset,
        }
    }
}

/// Writes all SLRU segments.
pub async fn write(backup: &Backup<'_>, out: &mut Out<'_, '_>) -> Result<(), Error> {
    for kind in [SlruKind::Clog, SlruKind::MultiXactMembers] {
        for segment in backup
            .timeline
            .slru_segments(kind, backup.lsn)
            .await
            .map_err(failed)?
        {
            let pages = backup
                .timeline
                .slru_segment(kind, segment, backup.lsn)
                .await
                .map_err(failed)?;
            out.file(&segment_path(kind, segment), &pages).await?;
        }
    }
    offsets(backup, out).await
}

/// Member offsets, repaired from the newest segment to the oldest.
async fn offsets(backup: &Backup<'_>, out: &mut Out<'_, '_>) -> Result<(), Error> {
    let kind = SlruKind::MultiXactOffsets;
    let NextMulti {
        oldest,
        next,
        offset,
    } = backup.next_multi;
    let mut repair = OffsetRepair::new(oldest, next, offset);
    let segments = backup
        .timeline
        .slru_segments(kind, backup.lsn)
        .await
        .map_err(failed)?;
    let newest = pg_format::slru::offsets_page(next).segment();
    // Circular: those up to the newest one, downwards, then those behind it, downwards.
    let order = segments
        .range(..=newest)
        .rev()
        .chain(segments.range(newest.saturating_add(1)..).rev());
    for segment in order.copied() {
        let bytes = backup
            .timeline
            .slru_segment(kind, segment, backup.lsn)
            .await
            .map_err(failed)?;
        let mut pages = bytes.to_vec();
        let chunks: Vec<&mut [u8]> = pages.chunks_exact_mut(PAGE_SIZE).collect();
        for (block, chunk) in chunks.into_iter().enumerate().rev() {
            let page: &mut [u8; PAGE_SIZE] = chunk.try_into().map_err(invalid)?;
            let block = u32::try_from(block).map_err(invalid)?;
            repair.page(PageNumber::at(segment, block), page);
        }
        out.file(&segment_path(kind, segment), &pages).await?;
    }
    Ok(())
}
