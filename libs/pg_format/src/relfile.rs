//! Names of relation files: `base/5/16384_fsm.1` and the like.
//!
//! Names are read strictly (decimal, no leading zero, segment 1 and up), so that each file has
//! one name and reading inverts writing.

use crate::control::catalog_version;
use std::fmt::Write as _;
use types::rel::{BLOCKS_PER_SEGMENT, DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use types::{BlockNumber, Fork, Oid, PgMajor, RelTag};

/// Largest segment number: the last one whose blocks have numbers.
pub const MAX_SEGMENT: u32 = u32::MAX / BLOCKS_PER_SEGMENT;

/// One 1 GiB segment of a relation fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelFile {
    /// The fork.
    pub rel: RelTag,
    /// Segment, from 0.
    pub segment: u32,
}

/// A number as Postgres writes it in file names: decimal, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if text.len() > 1 && text.starts_with('0') {
        return None;
    }
    text.parse().ok()
}

/// Reads the last component of a path: relation number, fork, segment.
pub fn parse_name(name: &str) -> Option<(Oid, Fork, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, digits)) => (
            stem,
            decimal(digits).filter(|n| (1..=MAX_SEGMENT).contains(n))?,
        ),
        None => (name, 0),
    };
    let (digits, fork) = match stem.split_once('_') {
        Some((digits, "fsm")) => (digits, Fork::Fsm),
        Some((digits, "vm")) => (digits, Fork::Vm),
        Some((digits, "init")) => (digits, Fork::Init),
        Some(_) => return None,
        None => (stem, Fork::Main),
    };
    Some((decimal(digits).filter(|n| *n != 0)?, fork, segment))
}

/// True for files of temporary relations (`t3_16384` and forks, segments of it).
pub fn is_temporary_name(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, rest)| decimal(backend).is_some() && parse_name(rest).is_some())
}

/// Directory of a major inside each user tablespace, such as `PG_15_202209061`.
pub fn tablespace_directory(major: PgMajor) -> String {
    format!("PG_{}_{}", major, catalog_version(major))
}

/// Directory of a database's relations, relative to the data directory.
pub fn database_directory(spc: Oid, db: Oid, major: PgMajor) -> String {
    match spc {
        GLOBAL_TABLESPACE => "global".to_owned(),
        DEFAULT_TABLESPACE => format!("base/{db}"),
        _ => format!("pg_tblspc/{spc}/{}/{db}", tablespace_directory(major)),
    }
}

impl RelFile {
    /// The segment that holds `block`.
    pub const fn containing(rel: RelTag, block: BlockNumber) -> RelFile {
        RelFile {
            rel,
            segment: block / BLOCKS_PER_SEGMENT,
        }
    }

    /// First block of the segment; saturates for segments above [`MAX_SEGMENT`].
    pub const fn first_block(&self) -> BlockNumber {
        self.segment.saturating_mul(BLOCKS_PER_SEGMENT)
    }

    /// File name without directory.
    pub fn name(&self) -> String {
        let mut name = format!("{}{}", self.rel.rel, self.rel.fork.file_suffix());
        if self.segment != 0 {
            // Writing to a String cannot fail.
            let _ = write!(name, ".{}", self.segment);
        }
        name
    }

    /// Path relative to the data directory.
    pub fn path(&self, major: PgMajor) -> String {
        format!(
            "{}/{}",
            database_directory(self.rel.spc, self.rel.db, major),
            self.name()
        )
    }

    /// The file with this name in the directory of a database.
    pub fn in_database(spc: Oid, db: Oid, name: &str) -> Option<RelFile> {
        let (rel, fork, segment) = parse_name(name)?;
        Some(RelFile {
            rel: RelTag { spc, db, rel, fork },
            segment,
        })
    }

    /// Reads a path relative to the data directory. `None` for anything but a permanent
    /// relation's file.
    pub fn parse(path: &str, major: PgMajor) -> Option<RelFile> {
        let (spc, db, name) = split_path(path, major)?;
        RelFile::in_database(spc, db, name)
    }
}

/// Splits a path below the data directory into tablespace, database and file name.
pub(crate) fn split_path(path: &str, major: PgMajor) -> Option<(Oid, Oid, &str)> {
    let (top, rest) = path.split_once('/')?;
    match top {
        "global" => (!rest.contains('/')).then_some((GLOBAL_TABLESPACE, 0, rest)),
        "base" => {
            let (db, name) = rest.split_once('/')?;
            (!name.contains('/')).then_some((DEFAULT_TABLESPACE, decimal(db)?, name))
        }
        "pg_tblspc" => {
            let (spc, rest) = rest.split_once('/')?;
            split_tablespace_path(decimal(spc)?, rest, major)
        }
        _ => None,
    }
}

/// Splits a path below the root of user tablespace `spc`.
pub(crate) fn split_tablespace_path(
    spc: Oid,
    path: &str,
    major: PgMajor,
) -> Option<(Oid, Oid, &str)> {
    let (version, rest) = path.split_once('/')?;
    let (db, name) = rest.split_once('/')?;
    (version == tablespace_directory(major) && !name.contains('/')).then_some((
        spc,
        decimal(db)?,
        name,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(spc: Oid, db: Oid, rel: Oid, fork: Fork) -> RelTag {
        RelTag { spc, db, rel, fork }
    }

    #[test]
    fn paths_of_all_kinds_are_read() {
        let cases = [
            ("base/5/16384", tag(1663, 5, 16384, Fork::Main), 0),
            ("base/5/16384_fsm.12", tag(1663, 5, 16384, Fork::Fsm), 12),
            ("global/1262_vm", tag(1664, 0, 1262, Fork::Vm), 0),
            (
                "pg_tblspc/90001/PG_15_202209061/5/16384_init",
                tag(90001, 5, 16384, Fork::Init),
                0,
            ),
        ];
        for (path, rel, segment) in cases {
            let file = RelFile { rel, segment };
            assert_eq!(RelFile::parse(path, PgMajor::V15), Some(file), "{path}");
            assert_eq!(file.path(PgMajor::V15), path);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "0",
            "007",
            "1.0",
            "1.01",
            "1.",
            "1_foo",
            "1_",
            "_fsm",
            "pg_filenode.map",
            "1.32768",
            "PG_VERSION",
            "t3_16384",
            "4294967296",
            "1_fsm_vm",
            "1.1.1",
            "+1",
            "1 ",
            "1_main",
        ] {
            assert_eq!(parse_name(name), None, "{name:?}");
        }
        for path in [
            "base/16384",
            "base/5/1/2",
            "global/1/2",
            "base/x/1",
            "pg_tblspc/9/PG_14_202107181/5/1",
        ] {
            assert_eq!(RelFile::parse(path, PgMajor::V15), None, "{path}");
        }
        assert!(is_temporary_name("t3_16384_vm.2"));
        assert!(!is_temporary_name("t_16384") && !is_temporary_name("tablespace_map"));
    }

    #[test]
    fn blocks_map_to_segments() {
        let rel = tag(1663, 5, 1, Fork::Main);
        assert_eq!(RelFile::containing(rel, 131_071).segment, 0);
        let last = RelFile::containing(rel, u32::MAX);
        assert_eq!(
            (last.segment, last.first_block()),
            (MAX_SEGMENT, 0xFFFE_0000)
        );
    }

    proptest! {
        #[test]
        fn names_round_trip(rel in 1u32.., fork in 0u8..4, segment in 0..=MAX_SEGMENT) {
            let fork = Fork::from_u8(fork).unwrap();
            let file = RelFile { rel: tag(1663, 1, rel, fork), segment };
            prop_assert_eq!(parse_name(&file.name()), Some((rel, fork, segment)));
        }

        #[test]
        fn whatever_is_read_is_written_the_same(name in "[0-9t_.fsmvinit]{0,16}") {
            if let Some(file) = RelFile::in_database(1663, 1, &name) {
                prop_assert_eq!(file.name(), name);
            }
        }
    }
}
