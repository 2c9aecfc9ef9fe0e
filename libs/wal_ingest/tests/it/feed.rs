//! A timeline in memory and short names for what the tests write into it.

use pg_format::{CheckPoint, FullXid};
use types::{BlockNumber, Flavour, Fork, Key, Lsn, PAGE_SIZE, PgMajor, RelTag};
use wal_ingest::testing::{MemoryStore, RecordBuilder};
use wal_ingest::{Cause, Config, Error, Event, Ingest};

pub const START: Lsn = Lsn(0x100_0000);
pub const T: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};
pub const VM: RelTag = T.with_fork(Fork::Vm);

pub struct Feed {
    pub store: MemoryStore,
    pub ingest: Ingest,
    pub version: PgMajor,
}

pub fn fresh_checkpoint() -> CheckPoint {
    CheckPoint {
        next_xid: FullXid::new(1, 1024),
        next_multi: 1,
        this_tli: 1,
        prev_tli: 1,
        oldest_xid: 3,
        oldest_multi: 1,
        ..CheckPoint::default()
    }
}

impl Feed {
    pub fn new(version: PgMajor) -> Feed {
        Feed::with(Config::new(version))
    }

    pub fn neon(version: PgMajor) -> Feed {
        Feed::with(Config {
            flavour: Flavour::Neon,
            ..Config::new(version)
        })
    }

    pub fn with(cfg: Config) -> Feed {
        let store = MemoryStore::fresh(cfg.version, START, &fresh_checkpoint());
        Feed::over(store, cfg)
    }

    pub fn over(store: MemoryStore, cfg: Config) -> Feed {
        let last = store.last();
        let ingest = pollster::block_on(Ingest::load(&store, cfg, last)).unwrap();
        Feed {
            store,
            ingest,
            version: cfg.version,
        }
    }

    pub fn rec(&self, rmid: u8, info: u8) -> RecordBuilder {
        RecordBuilder::new(self.version, rmid, info)
    }

    /// Ingests a record at the next position. Its end, or why it was refused.
    pub fn try_push(&mut self, rec: RecordBuilder) -> Result<(Lsn, Event), Error> {
        let raw = rec.build();
        let start = self.ingest.last();
        let end = Lsn(start.0 + raw.len() as u64).align();
        let event = pollster::block_on(self.ingest.record(&self.store, start, end, &raw))?;
        Ok((end, event))
    }

    /// Ingests a record and commits.
    pub fn push(&mut self, rec: RecordBuilder) -> Lsn {
        let (lsn, _) = self.try_push(rec).unwrap();
        self.commit();
        lsn
    }

    /// Why a record is refused.
    pub fn refused(&mut self, rec: RecordBuilder) -> Cause {
        self.try_push(rec).unwrap_err().cause
    }

    pub fn commit(&mut self) {
        pollster::block_on(self.ingest.commit(&self.store)).unwrap();
    }

    /// Makes a fork of `pages` pages by images of its last page.
    pub fn make(&mut self, rel: RelTag, pages: u32) -> Lsn {
        let rec = self
            .rec(0, 0xB0)
            .block(0, rel, pages - 1)
            .image(&page(1), None, true);
        self.push(rec)
    }

    pub fn size(&self, rel: RelTag) -> Option<u32> {
        self.store.rel_size(rel)
    }

    pub fn block_at(&self, rel: RelTag, block: BlockNumber, lsn: Lsn) -> Option<types::Value> {
        self.store.at(Key::rel_block(rel, block), lsn)
    }
}

/// A page with a header that is not new, filled with `fill`.
pub fn page(fill: u8) -> [u8; PAGE_SIZE] {
    [fill; PAGE_SIZE]
}
