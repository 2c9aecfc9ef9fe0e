//! Names of relations and SLRUs as Postgres numbers them.

use std::fmt;

/// A Postgres object identifier.
pub type Oid = u32;
/// Block number within a relation fork, in pages.
pub type BlockNumber = u32;

/// The `pg_default` tablespace.
pub const DEFAULT_TABLESPACE: Oid = 1663;
/// The `pg_global` tablespace of shared catalogs.
pub const GLOBAL_TABLESPACE: Oid = 1664;
/// Pages per 1 GiB segment file of a relation.
pub const BLOCKS_PER_SEGMENT: BlockNumber = 131_072;
/// Pages per SLRU segment file.
pub const SLRU_PAGES_PER_SEGMENT: BlockNumber = 32;

/// Fork of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fork {
    /// The data itself.
    Main = 0,
    /// Free-space map.
    Fsm = 1,
    /// Visibility map.
    Vm = 2,
    /// Initial contents of an unlogged relation.
    Init = 3,
}

impl Fork {
    /// All forks in numeric order.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init];

    /// The fork with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Fork> {
        match n {
            0 => Some(Fork::Main),
            1 => Some(Fork::Fsm),
            2 => Some(Fork::Vm),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// Suffix in file names, with its underscore; empty for the main fork.
    pub const fn file_suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// One fork of one relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelTag {
    /// Tablespace.
    pub spc: Oid,
    /// Database; 0 for shared relations.
    pub db: Oid,
    /// Relation file number (`relfilenode`).
    pub rel: Oid,
    /// Fork.
    pub fork: Fork,
}

impl RelTag {
    /// The same relation's other fork.
    pub const fn with_fork(self, fork: Fork) -> RelTag {
        RelTag { fork, ..self }
    }
}

impl fmt::Display for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}{}",
            self.spc,
            self.db,
            self.rel,
            self.fork.file_suffix()
        )
    }
}

impl fmt::Debug for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The three SLRUs that are kept (`docs/format/keys.md`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum SlruKind {
    /// Commit log, `pg_xact`.
    Clog = 0,
    /// `pg_multixact/members`.
    MultiXactMembers = 1,
    /// `pg_multixact/offsets`.
    MultiXactOffsets = 2,
}

impl SlruKind {
    /// All kinds in numeric order.
    pub const ALL: [SlruKind; 3] = [
        SlruKind::Clog,
        SlruKind::MultiXactMembers,
        SlruKind::MultiXactOffsets,
    ];

    /// The kind with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<SlruKind> {
        match n {
            0 => Some(SlruKind::Clog),
            1 => Some(SlruKind::MultiXactMembers),
            2 => Some(SlruKind::MultiXactOffsets),
            _ => None,
        }
    }

    /// Directory below a PGDATA.
    pub const fn directory(self) -> &'static str {
        match self {
            SlruKind::Clog => "pg_xact",
            SlruKind::MultiXactMembers => "pg_multixact/members",
            SlruKind::MultiXactOffsets => "pg_multixact/offsets",
        }
    }
}
