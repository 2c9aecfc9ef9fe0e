//! Every page that the pageserver has against the files of a stopped Postgres.
//!
//! The server is stopped first, so that its files are what its WAL says. Left out is what WAL does
//! not carry: free-space maps, contents of unlogged relations, temporary relations. What is on a
//! page is compared behind the masks that Postgres itself uses for consistency checks.

use crate::daemon::Daemon;
use anyhow::{Context, Result, ensure};
use page_protocol::client::{self, Connection};
use page_protocol::message::{Relation, Version};
use pg_format::RelFile;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use types::rel::BLOCKS_PER_SEGMENT;
use types::{Fork, Lsn, PAGE_SIZE, PgMajor, RelTag, SlruKind, TenantId, TimelineId};
use wal_redo::mask::{self, Kind, Level};

/// Requests under way at once.
const DEPTH: usize = 64;
/// Mismatches described; the rest is counted.
const DESCRIBED: usize = 20;

/// `last_value` and `log_cnt` of the one tuple on a sequence's page.
const SEQUENCE_COUNTERS: std::ops::Range<usize> = 8160..8176;
/// `lastUsedPages` of `SpGistMetaPageData`, and the free-space pointer that covers it.
const SPGIST_CACHE: std::ops::Range<usize> = 28..128;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Relation forks.
    pub relations: u64,
    /// Pages compared.
    pub blocks: u64,
    /// Of these: pages whose checksum was verified, all if the cluster has checksums.
    pub checksums: u64,
    /// SLRU pages compared.
    pub slru_pages: u64,
    /// Pages or sizes that differ.
    pub mismatches: u64,
    /// The first of them.
    pub described: Vec<String>,
}

impl Report {
    fn differ(&mut self, what: String) {
        self.mismatches += 1;
        if self.described.len() < DESCRIBED {
            self.described.push(what);
        }
    }

    /// Fails if anything differs.
    pub fn check(&self) -> Result<()> {
        ensure!(self.blocks > 0, "nothing was compared");
        ensure!(
            self.mismatches == 0,
            "{} mismatches:\n{}",
            self.mismatches,
            self.described.join("\n")
        );
        Ok(())
    }
}

/// True if pages hold nothing. Postgres 14 and 15 extend a visibility map by pages with a header
/// and no bits, and write nothing of that to WAL.
fn is_blank(fork: Fork, pages: &[u8]) -> bool {
    const HEADER: usize = 24;
    pages.chunks(PAGE_SIZE).all(|page| {
        let skipped = if fork == Fork::Vm { HEADER } else { 0 };
        page.iter().skip(skipped).all(|b| *b == 0)
    })
}

/// Compares a timeline at `lsn` with a data directory.
pub async fn with_files(
    daemon: &Daemon,
    tenant: TenantId,
    timeline: TimelineId,
    lsn: Lsn,
    pgdata: &Path,
    version: PgMajor,
) -> Result<Report> {
    let mut report = Report::default();
    let control = std::fs::read(pgdata.join("global/pg_control"))?;
    let checksums = pg_format::ControlFile::parse(&control)?.data_checksum_version() != 0;
    let files = relation_files(pgdata, version)?;
    let unlogged: BTreeSet<RelTag> = files
        .keys()
        .filter(|r| r.fork == Fork::Init)
        .map(|r| r.with_fork(Fork::Main))
        .collect();
    let connection = Connection::connect(daemon.pages(), &client::Options::default()).await?;
    let mut stream = connection
        .page_stream(Version::V3, tenant, timeline)
        .await?;
    for (rel, segments) in &files {
        if rel.fork == Fork::Fsm
            || unlogged.contains(&rel.with_fork(Fork::Main)) && rel.fork != Fork::Init
        {
            continue;
        }
        let content = read_relation(segments)?;
        let relation = Relation {
            spc: rel.spc,
            db: rel.db,
            rel: rel.rel,
            fork: rel.fork as u8,
        };
        if !stream.exists(relation, lsn, lsn).await? {
            // A file that no WAL speaks of: empty, or left by a crash before its first page.
            if !is_blank(rel.fork, &content) {
                report.differ(format!(
                    "{rel} exists on disk only, {} bytes",
                    content.len()
                ));
            }
            continue;
        }
        let blocks = u32::try_from(content.len() / PAGE_SIZE)?;
        let known = stream.nblocks(relation, lsn, lsn).await?;
        // Pages that were added but never written to are not in WAL.
        let extra = content
            .get(known.min(blocks) as usize * PAGE_SIZE..)
            .unwrap_or_default();
        if known > blocks || !is_blank(rel.fork, extra) {
            report.differ(format!(
                "{rel}: {blocks} pages on disk, {known} in the pageserver"
            ));
        }
        let asked: Vec<(Relation, u32)> = (0..known.min(blocks)).map(|b| (relation, b)).collect();
        let pages = stream.pages(&asked, lsn, lsn, DEPTH).await?;
        report.relations += 1;
        for (((_, block), ours), theirs) in
            asked.iter().zip(pages).zip(content.chunks_exact(PAGE_SIZE))
        {
            report.blocks += 1;
            let theirs: &[u8; PAGE_SIZE] = theirs.try_into()?;
            match ours {
                Err(text) => report.differ(format!("{rel} block {block}: {text}")),
                Ok(ours) => {
                    if checksums {
                        report.checksums += 1;
                        if let Err(e) = pg_format::page::verify_checksum(&ours, *block) {
                            report.differ(format!("{rel}: {e}"));
                        }
                    }
                    if let Some(difference) = difference(*rel, *block, &ours, theirs) {
                        report.differ(format!("{rel} block {block}: {difference}"));
                    }
                }
            }
        }
    }
    slrus(&mut report, &mut stream, lsn, pgdata).await?;
    stream.close().await?;
    Ok(report)
}

fn difference(
    rel: RelTag,
    block: u32,
    ours: &[u8; PAGE_SIZE],
    theirs: &[u8; PAGE_SIZE],
) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let kind = Kind::guess(theirs, rel.fork);
    let (mut a, mut b) = (*ours, *theirs);
    for (name, page) in [("pageserver", &mut a), ("disk", &mut b)] {
        if let Err(e) = mask::page(kind, Level::Consistency, block, page) {
            return Some(format!("page of the {name} cannot be masked: {e}"));
        }
    }
    for page in [&mut a, &mut b] {
        blank_what_is_not_logged(kind, block, page);
    }
    let at = a.iter().zip(&b).position(|(x, y)| x != y)?;
    let count = a.iter().zip(&b).filter(|(x, y)| x != y).count();
    Some(format!(
        "{kind:?} page differs in {count} bytes from offset {at} on, LSNs {} and {}",
        pg_format::page::lsn(ours),
        pg_format::page::lsn(theirs)
    ))
}

/// Two things servers write without WAL that their consistency checks never meet: a sequence's
/// counters, of which every 32nd value is logged, and the cache of roomy pages in the metapage of an
/// SP-GiST index.
fn blank_what_is_not_logged(kind: Kind, block: u32, page: &mut [u8; PAGE_SIZE]) {
    let range = match (kind, block) {
        (Kind::Plain, 0) => SEQUENCE_COUNTERS,
        (Kind::SpGist, 0) => SPGIST_CACHE,
        _ => return,
    };
    page.get_mut(range)
        .into_iter()
        .flatten()
        .for_each(|b| *b = 0);
}

/// Relation files by fork, segments in order.
pub(crate) fn relation_files(
    pgdata: &Path,
    version: PgMajor,
) -> Result<BTreeMap<RelTag, Vec<PathBuf>>> {
    let mut found: BTreeMap<RelTag, BTreeMap<u32, PathBuf>> = BTreeMap::new();
    let mut directories = vec!["global".to_owned()];
    for entry in std::fs::read_dir(pgdata.join("base"))? {
        directories.push(format!("base/{}", entry?.file_name().to_string_lossy()));
    }
    for directory in directories {
        for entry in std::fs::read_dir(pgdata.join(&directory))? {
            let entry = entry?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if let Some(file) = RelFile::parse(&path, version) {
                found
                    .entry(file.rel)
                    .or_default()
                    .insert(file.segment, entry.path());
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|(rel, segments)| (rel, segments.into_values().collect()))
        .collect())
}

pub(crate) fn read_relation(segments: &[PathBuf]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    for (i, path) in segments.iter().enumerate() {
        let full = i * BLOCKS_PER_SEGMENT as usize * PAGE_SIZE;
        content.resize(full, 0);
        content.extend(std::fs::read(path).with_context(|| path.display().to_string())?);
    }
    // A torn last page cannot be in a server that stopped cleanly.
    ensure!(
        content.len() % PAGE_SIZE == 0,
        "{segments:?} is not made of whole pages"
    );
    Ok(content)
}

async fn slrus<S>(
    report: &mut Report,
    stream: &mut client::PageStream<S>,
    lsn: Lsn,
    pgdata: &Path,
) -> Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for kind in SlruKind::ALL {
        for entry in std::fs::read_dir(pgdata.join(kind.directory()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(segment) = pg_format::slru::parse_segment_name(kind, &name) else {
                continue;
            };
            let theirs = std::fs::read(entry.path())?;
            let ours = stream.slru_segment(kind as u8, segment, lsn, lsn).await?;
            for (block, page) in theirs.chunks(PAGE_SIZE).enumerate() {
                report.slru_pages += 1;
                let mine = ours.chunks(PAGE_SIZE).nth(block).unwrap_or_default();
                let same = mine == page || (mine.is_empty() && page.iter().all(|b| *b == 0));
                // Offsets of multixacts may be repaired only when they are handed to a server.
                if !same && kind != SlruKind::MultiXactOffsets {
                    report.differ(format!("{kind:?} segment {name} page {block} differs"));
                }
                if kind == SlruKind::MultiXactOffsets && !offsets_agree(mine, page) {
                    report.differ(format!("{kind:?} segment {name} page {block} differs"));
                }
            }
        }
    }
    Ok(())
}

/// Every offset that the pageserver has is the server's; the server may have set the one behind
/// the newest multixact ahead of its record.
pub(crate) fn offsets_agree(ours: &[u8], theirs: &[u8]) -> bool {
    let words = |p: &[u8]| p.chunks_exact(4).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (ours, theirs) = (words(ours), words(theirs));
    theirs.iter().enumerate().all(|(i, t)| match ours.get(i) {
        None => t.iter().all(|b| *b == 0),
        Some(o) => o == t || o.iter().all(|b| *b == 0),
    })
}
