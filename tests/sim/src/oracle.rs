//! What every read must answer: a plain history of every timeline, in memory.
//!
//! The history is at the same time the WAL of each timeline: whoever runs a timeline is fed from
//! here, from its `last_record_lsn` on, again and again if need be.

use crate::random::Random;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::directory::{DbDirectory, RelDirectory, SlruDirectory, TwoPhaseDirectory, encode_size};
use types::{
    Batch, Fork, Key, Lsn, PAGE_SIZE, RelTag, SlruKind, TenantShardId, TimelineId, Value, WalRecord,
};

/// First readable LSN of every imported timeline.
pub const START: Lsn = Lsn(0x1000);
/// Pages that are changed word by word.
pub const WORD_PAGES: u32 = 10;
/// Pages of a relation, always written whole.
pub const BLOCKS: u32 = 6;
/// Relations that grow and shrink.
pub const SIZED: u32 = 3;
/// Most blocks of such a relation.
pub const MOST_BLOCKS: u32 = 4;
/// Sparse keys, that come and go.
pub const SPARSE: u32 = 6;
const WORDS: u16 = 24;

/// The relation whose blocks are written.
pub const RELATION: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};

/// A relation whose size changes.
pub const fn sized(n: u32) -> RelTag {
    RelTag {
        rel: 20000 + n,
        ..RELATION
    }
}

/// A page that is changed word by word.
pub const fn word_page(n: u32) -> Key {
    Key::slru_block(SlruKind::MultiXactOffsets, 0, n)
}

/// A sparse key, inherited by branches.
pub const fn sparse(n: u32) -> Key {
    Key::rel_dir_entry(RelTag {
        rel: 30000 + n,
        ..RELATION
    })
}

/// Every key that is ever written after the import.
pub fn keys() -> Vec<Key> {
    let words = (0..WORD_PAGES).map(word_page);
    let blocks = (0..BLOCKS).map(|b| Key::rel_block(RELATION, b));
    let sizes = (0..SIZED).map(|n| Key::rel_size(sized(n)));
    let sparse = (0..SPARSE).map(sparse);
    words.chain(blocks).chain(sizes).chain(sparse).collect()
}

/// The value of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A page of one repeated byte with some words in it.
    Page {
        /// The byte.
        fill: u8,
        /// Number of a four-byte word → its value.
        words: Arc<BTreeMap<u16, u32>>,
    },
    /// A small value; empty for a sparse key that was removed.
    Small(Vec<u8>),
}

impl Content {
    /// A page of one repeated byte.
    pub fn filled(fill: u8) -> Content {
        Content::Page {
            fill,
            words: Arc::default(),
        }
    }

    /// The bytes that a read must return.
    pub fn bytes(&self) -> Bytes {
        match self {
            Content::Small(bytes) => Bytes::from(bytes.clone()),
            Content::Page { fill, words } => {
                let mut page = vec![*fill; PAGE_SIZE];
                for (n, value) in words.iter() {
                    let at = usize::from(*n) * 4;
                    if let Some(word) = page.get_mut(at..at + 4) {
                        word.copy_from_slice(&value.to_le_bytes());
                    }
                }
                page.into()
            }
        }
    }
}

/// What a record does to a key.
#[derive(Clone, Debug)]
enum Change {
    Whole(Content),
    Word(u16, u32),
}

#[derive(Clone, Debug)]
struct Record {
    lsn: Lsn,
    changes: Vec<(Key, Change)>,
}

/// What is known of a timeline's existence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Its creation failed with an error that leaves open whether it exists. Should it turn up, it is
    /// right; or it is left out, because its ancestor's history was not held for it.
    Perhaps,
    /// It exists, and nobody may lose it.
    Live,
    /// Its deletion was begun and may or may not have gone through.
    Doomed,
    /// It must be gone.
    Deleted,
}

/// The history of one timeline since its branch point.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its tenant.
    pub tenant: TenantShardId,
    /// Ancestor and branch point; the LSN is unknown while the creation is undecided.
    pub parent: Option<(TimelineId, Lsn)>,
    /// Branch point in the request that created it; `None` for the newest LSN.
    pub asked: Option<Lsn>,
    /// Whether it exists.
    pub life: Life,
    /// Highest LSN that anybody was told to be durable.
    pub acknowledged: Lsn,
    /// Reads below may be refused.
    pub cutoff: Lsn,
    /// A detach began that may have given it another ancestor, or none.
    pub moved: bool,
    wal: Vec<Record>,
    versions: BTreeMap<Key, Vec<(Lsn, Content)>>,
}

impl Branch {
    /// End of its newest record.
    pub fn tip(&self) -> Lsn {
        let start = self.parent.map_or(START, |(_, lsn)| lsn);
        self.wal.last().map_or(start, |r| r.lsn)
    }

    /// The newest record at or below `lsn` that changed anything.
    pub fn last_change(&self, lsn: Lsn) -> Option<Lsn> {
        let known = self.wal.partition_point(|r| r.lsn <= lsn);
        let known = self.wal.get(..known)?;
        let changed = known.iter().rev().find(|r| !r.changes.is_empty());
        changed.map(|r| r.lsn)
    }
}

/// All timelines.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// By id.
    pub branches: BTreeMap<TimelineId, Branch>,
    /// Timelines from which others were, or are being, detached: what branches off them meanwhile may
    /// be taken along.
    left: BTreeSet<TimelineId>,
}

impl Oracle {
    /// A timeline that was imported with [`initial`] contents.
    pub fn import(&mut self, tenant: TenantShardId, id: TimelineId) {
        let versions = initial()
            .into_iter()
            .map(|(key, content)| (key, vec![(START, content)]))
            .collect();
        let branch = Branch {
            tenant,
            parent: None,
            asked: None,
            life: Life::Live,
            acknowledged: START,
            cutoff: START,
            moved: false,
            wal: Vec::new(),
            versions,
        };
        self.branches.insert(id, branch);
    }

    /// A timeline that was asked for, branched off at `at`.
    pub fn branch(&mut self, id: TimelineId, parent: TimelineId, at: Lsn, life: Life) {
        let Some(tenant) = self.branches.get(&parent).map(|p| p.tenant) else {
            return;
        };
        let branch = Branch {
            tenant,
            parent: Some((parent, at)),
            asked: None,
            life,
            acknowledged: Lsn::INVALID,
            cutoff: Lsn::INVALID,
            moved: self.left.contains(&parent),
            wal: Vec::new(),
            versions: BTreeMap::new(),
        };
        self.branches.insert(id, branch);
    }

    /// Ids of timelines in one of the given states.
    pub fn ids(&self, life: &[Life]) -> Vec<TimelineId> {
        self.branches
            .iter()
            .filter(|(_, b)| life.contains(&b.life))
            .map(|(id, _)| *id)
            .collect()
    }

    /// True if a timeline that must exist certainly descends directly from `id`.
    pub fn has_children(&self, id: TimelineId) -> bool {
        self.branches
            .values()
            .any(|b| b.life == Life::Live && !b.moved && b.parent.is_some_and(|(p, _)| p == id))
    }

    /// A timeline is about to be detached from `ancestor`, and may take others along. Their histories
    /// stay the same; where they hang is from now on up to the engine.
    pub fn move_from(&mut self, id: TimelineId, ancestor: TimelineId) {
        self.left.insert(ancestor);
        for (other, branch) in &mut self.branches {
            branch.moved |= *other == id || branch.parent.is_some_and(|(p, _)| p == ancestor);
        }
    }

    /// The value of `key` at `lsn`; `None` if it never had one.
    pub fn get(&self, id: TimelineId, key: Key, lsn: Lsn) -> Option<&Content> {
        let (mut id, mut lsn) = (id, lsn);
        loop {
            let branch = self.branches.get(&id)?;
            let versions = branch.versions.get(&key).map_or(&[][..], Vec::as_slice);
            let n = versions.partition_point(|(at, _)| *at <= lsn);
            if let Some((_, content)) = n.checked_sub(1).and_then(|i| versions.get(i)) {
                return Some(content);
            }
            let (parent, at) = branch.parent?;
            (id, lsn) = (parent, lsn.min(at));
        }
    }

    /// Size of a relation at `lsn`.
    pub fn size(&self, id: TimelineId, rel: RelTag, lsn: Lsn) -> Option<u32> {
        match self.get(id, Key::rel_size(rel), lsn)? {
            Content::Small(bytes) => bytes.first_chunk().map(|b| u32::from_le_bytes(*b)),
            Content::Page { .. } => None,
        }
    }

    /// Existing sparse keys at `lsn`.
    pub fn sparse(&self, id: TimelineId, lsn: Lsn) -> Vec<(Key, Bytes)> {
        (0..SPARSE)
            .map(sparse)
            .filter_map(|key| Some((key, self.get(id, key, lsn)?.bytes())))
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    /// The next one to `most` records behind `after`, as a batch. Records that do not exist yet are
    /// made up if `grow` is set. `None` if there is nothing.
    pub fn batch(
        &mut self,
        id: TimelineId,
        after: Lsn,
        most: u64,
        grow: bool,
        random: &mut Random,
    ) -> Option<Batch> {
        let most = usize::try_from(most).unwrap_or(1).max(1);
        let known = |b: &Branch| b.wal.partition_point(|r| r.lsn <= after);
        let from = known(self.branches.get(&id)?);
        while grow && self.branches.get(&id)?.wal.len() < from + most {
            self.extend(id, random)?;
        }
        let records = self.branches.get(&id)?.wal.get(from..)?;
        let records = records.get(..most.min(records.len()))?;
        let mut batch = Batch::new();
        for record in records {
            for (key, change) in &record.changes {
                let value = match change {
                    Change::Whole(content) => Value::Image(content.bytes()),
                    // Pages of one segment: 2048 offsets each.
                    Change::Word(n, value) => Value::WalRecord(WalRecord::MultixactOffsetCreate {
                        mid: key.field6 * 2048 + u32::from(*n),
                        moff: *value,
                    }),
                };
                batch.put(*key, record.lsn, &value);
            }
        }
        batch.last_lsn = records.last()?.lsn;
        Some(batch)
    }

    /// Makes up one more record.
    fn extend(&mut self, id: TimelineId, random: &mut Random) -> Option<()> {
        let lsn = Lsn(self.branches.get(&id)?.tip().0 + 8 * random.between(1, 4));
        let mut changes: BTreeMap<Key, Change> = BTreeMap::new();
        let n = random.below(5);
        for _ in 0..n {
            let (key, change) = match random.below(20) {
                0..11 => {
                    let word = random.below(u64::from(WORDS)) as u16;
                    let value = random.bits() as u32;
                    let page = random.below(u64::from(WORD_PAGES)) as u32;
                    (word_page(page), Change::Word(word, value))
                }
                11..14 => {
                    let page = random.below(u64::from(WORD_PAGES)) as u32;
                    let content = Content::filled(random.bits() as u8);
                    (word_page(page), Change::Whole(content))
                }
                14..17 => {
                    let block = random.below(u64::from(BLOCKS)) as u32;
                    let content = Content::filled(random.bits() as u8);
                    (Key::rel_block(RELATION, block), Change::Whole(content))
                }
                17 => {
                    let rel = sized(random.below(u64::from(SIZED)) as u32);
                    let old = self.size(id, rel, lsn)?;
                    let size = random.below(u64::from(MOST_BLOCKS) + 1) as u32;
                    // Pages that a relation grows by are new.
                    for block in old..size {
                        let page = Content::filled(random.bits() as u8);
                        changes.insert(Key::rel_block(rel, block), Change::Whole(page));
                    }
                    let content = Content::Small(size.to_le_bytes().to_vec());
                    (Key::rel_size(rel), Change::Whole(content))
                }
                _ => {
                    let n = random.below(u64::from(SPARSE)) as u32;
                    let value = random.between(1, u64::MAX - 1).to_be_bytes().to_vec();
                    let gone = random.chance(0.3);
                    let content = Content::Small(if gone { Vec::new() } else { value });
                    (sparse(n), Change::Whole(content))
                }
            };
            changes.insert(key, change);
        }
        for (key, change) in &changes {
            let content = match change {
                Change::Whole(content) => content.clone(),
                Change::Word(n, value) => match self.get(id, *key, lsn)? {
                    Content::Page { fill, words } => {
                        let mut words = Arc::clone(words);
                        Arc::make_mut(&mut words).insert(*n, *value);
                        Content::Page { fill: *fill, words }
                    }
                    Content::Small(_) => return None,
                },
            };
            let branch = self.branches.get_mut(&id)?;
            branch
                .versions
                .entry(*key)
                .or_default()
                .push((lsn, content));
        }
        let changes = changes.into_iter().collect();
        self.branches
            .get_mut(&id)?
            .wal
            .push(Record { lsn, changes });
        Some(())
    }

    /// Where `key` got the given value, on a timeline and its ancestors.
    pub fn versions(&self, id: TimelineId, key: Key, value: &[u8]) -> Vec<(Lsn, TimelineId)> {
        let mut out = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at {
            let Some(branch) = self.branches.get(&id) else {
                break;
            };
            let versions = branch.versions.get(&key).into_iter().flatten();
            let same = versions.filter(|(_, c)| *c.bytes() == *value);
            out.extend(same.map(|(lsn, _)| (*lsn, id)));
            at = branch.parent.map(|(p, _)| p);
        }
        out
    }

    /// Branch points of a timeline: its own and those of its children.
    pub fn branch_points(&self, id: TimelineId) -> Vec<Lsn> {
        let own = self.branches.get(&id).and_then(|b| b.parent);
        let children = self.branches.values().filter_map(|b| b.parent);
        let children = children.filter(|(p, at)| *p == id && at.is_valid());
        own.into_iter().chain(children).map(|(_, at)| at).collect()
    }

    /// Forgets a timeline that was never created.
    pub fn forget(&mut self, id: TimelineId) {
        self.branches.remove(&id);
    }

    /// Number of records of all timelines.
    pub fn records(&self) -> usize {
        self.branches.values().map(|b| b.wal.len()).sum()
    }
}

/// What every imported timeline begins with, in key order.
pub fn initial() -> Vec<(Key, Content)> {
    let mut all: Vec<(Key, Content)> = keys()
        .into_iter()
        .filter_map(|key| match key.kind() {
            types::key::Kind::RelSize { .. } => Some((key, Content::Small(vec![0; 4]))),
            types::key::Kind::RelDirEntry { .. } => None,
            _ => Some((key, Content::filled(key.field6 as u8))),
        })
        .collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

/// What the directories of every imported timeline say; it never changes.
pub fn catalog() -> Vec<(Key, Bytes)> {
    let rels = (0..SIZED).map(|n| sized(n).rel).chain([RELATION.rel]);
    let relations = RelDirectory {
        rels: rels.map(|rel| (rel, Fork::Main)).collect(),
    };
    let databases = DbDirectory {
        dbs: [((RELATION.spc, RELATION.db), false)].into(),
    };
    let segments = SlruDirectory {
        segments: [0].into(),
    };
    let slru = SlruKind::MultiXactOffsets;
    vec![
        (Key::DB_DIR, databases.encode()),
        (Key::rel_dir(RELATION.spc, RELATION.db), relations.encode()),
        (Key::rel_size(RELATION), encode_size(BLOCKS)),
        (Key::slru_dir(slru), segments.encode()),
        (Key::slru_segment_size(slru, 0), encode_size(WORD_PAGES)),
        (
            Key::TWO_PHASE_DIR,
            TwoPhaseDirectory::default().encode(true),
        ),
        (Key::CHECKPOINT, Bytes::from_static(b"checkpoint")),
    ]
}
