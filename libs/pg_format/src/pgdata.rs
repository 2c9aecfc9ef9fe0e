//! The data directory as a whole: its directories, its small text files, and what each path in
//! it is.

use crate::control::ControlFile;
use crate::relfile::{self, RelFile};
use crate::xid::FullXid;
use crate::{replorigin, slru, twophase};
use std::fmt::Write as _;
use types::rel::GLOBAL_TABLESPACE;
use types::{Oid, PgMajor, SlruKind};

/// Path of the control file.
pub const CONTROL_FILE: &str = "global/pg_control";
/// Name of relation map files.
pub const RELMAP_FILE: &str = "pg_filenode.map";
/// Name of version files.
pub const VERSION_FILE: &str = "PG_VERSION";
/// Files that tell a Neon compute the position of its last record.
pub const SIGNAL_FILES: [&str; 2] = ["neon.signal", "zenith.signal"];

/// Files that must not be in a directory a server is to start from on its own: they would make
/// it a standby, have it replay a backup, or belong to a process that is gone.
pub const NOT_EXPORTED: [&str; 10] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "tablespace_map",
    "tablespace_map.old",
    "standby.signal",
    "recovery.signal",
    "postmaster.pid",
    "postmaster.opts",
    "current_logfiles",
];

const DIRECTORIES: [&str; 23] = [
    "global",
    "pg_wal/archive_status",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_twophase",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "base",
    "base/1",
    "pg_replslot",
    "pg_tblspc",
    "pg_stat",
    "pg_stat_tmp",
    "pg_xact",
    "pg_logical",
    "pg_logical/snapshots",
    "pg_logical/mappings",
    "pg_wal/summaries",
];

/// Directories initdb makes, in the order base backups list them. `pg_wal` comes only with what
/// is in it; parents must be made on the way.
pub fn directories(major: PgMajor) -> impl Iterator<Item = &'static str> {
    let [first, second, rest @ .., summaries] = DIRECTORIES;
    let summaries = (major >= PgMajor::V17).then_some(summaries);
    [first, second].into_iter().chain(summaries).chain(rest)
}

/// Contents of `PG_VERSION` as initdb writes it.
pub fn version_file(major: PgMajor) -> String {
    format!("{major}\n")
}

/// Contents of `PG_VERSION` in the archives Neon computes know: no newline up to 15. Servers
/// accept both.
pub fn neon_version_file(major: PgMajor) -> String {
    if major < PgMajor::V16 {
        major.to_string()
    } else {
        version_file(major)
    }
}

/// `pg_hba.conf`: anyone on this machine, nobody else, as initdb without options has it.
pub const PG_HBA_CONF: &str = "\
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust
host    all             all             127.0.0.1/32            trust
host    all             all             ::1/128                 trust
local   replication     all                                     trust
host    replication     all             127.0.0.1/32            trust
host    replication     all             ::1/128                 trust
";

/// `pg_ident.conf`: no mappings.
pub const PG_IDENT_CONF: &str = "";
/// `postgresql.auto.conf`: no settings.
pub const POSTGRESQL_AUTO_CONF: &str = "";

/// A `postgresql.conf` a vanilla server starts with: the limits the cluster had, so that its
/// prepared transactions fit and standbys are accepted, WAL retention that suits its segment
/// size, and defaults for the rest.
pub fn postgresql_conf(control: &ControlFile) -> String {
    let p = control.parameters();
    let segment_mb = control.wal_segment_size() >> 20;
    const LEVELS: [&str; 3] = ["minimal", "replica", "logical"];
    let level = usize::try_from(p.wal_level)
        .ok()
        .and_then(|n| LEVELS.get(n))
        .unwrap_or(&"replica");
    // A server refuses to start with WAL senders at the lowest level.
    let senders = if *level == "minimal" {
        0
    } else {
        p.max_wal_senders
    };
    let on = |b| if b { "on" } else { "off" };
    let mut out = String::new();
    let settings = [
        ("max_connections", p.max_connections.to_string()),
        ("max_worker_processes", p.max_worker_processes.to_string()),
        ("max_wal_senders", senders.to_string()),
        (
            "max_prepared_transactions",
            p.max_prepared_xacts.to_string(),
        ),
        (
            "max_locks_per_transaction",
            p.max_locks_per_xact.to_string(),
        ),
        ("wal_level", (*level).to_owned()),
        ("wal_log_hints", on(p.wal_log_hints).to_owned()),
        (
            "track_commit_timestamp",
            on(p.track_commit_timestamp).to_owned(),
        ),
        // The multiples initdb takes; with less than two segments a server refuses to start.
        ("min_wal_size", format!("{}MB", 5 * segment_mb)),
        ("max_wal_size", format!("{}MB", 64 * segment_mb)),
    ];
    for (name, value) in settings {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} = {value}");
    }
    out
}

/// What a file of a data directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// `global/pg_control`.
    Control,
    /// Relation map of a database; database 0 of `pg_global` for the shared one.
    RelMap {
        /// Tablespace.
        spc: Oid,
        /// Database.
        db: Oid,
    },
    /// Segment of a permanent relation.
    Relation(RelFile),
    /// Segment of a temporary relation, worthless to anyone but its dead session.
    Temporary,
    /// Segment of an SLRU that is kept.
    Slru {
        /// Which one.
        kind: SlruKind,
        /// Segment number.
        segment: u32,
    },
    /// Segment of `pg_commit_ts`.
    CommitTs {
        /// Segment number.
        segment: u32,
    },
    /// State of a prepared transaction.
    TwoPhase {
        /// Its id, only the low half up to 16.
        xid: FullXid,
    },
    /// `pg_logical/replorigin_checkpoint`.
    ReplOrigins,
    /// `backup_label`.
    BackupLabel,
    /// `tablespace_map`.
    TablespaceMap,
    /// `neon.signal` or `zenith.signal`.
    Signal,
    /// Anything in `pg_wal`.
    Wal,
    /// `PG_VERSION`, at the top or of a database.
    Version,
    /// An unknown file among those of a database, such as `pg_internal.init`.
    DatabaseOther,
    /// Configuration, statistics, slots, caches: not part of a timeline's pages.
    Other,
}

fn database_file(spc: Oid, db: Oid, name: &str) -> Content {
    match name {
        RELMAP_FILE => Content::RelMap { spc, db },
        VERSION_FILE => Content::Version,
        "pg_control" if spc == GLOBAL_TABLESPACE => Content::Control,
        _ if relfile::is_temporary_name(name) => Content::Temporary,
        _ => RelFile::in_database(spc, db, name).map_or(Content::DatabaseOther, Content::Relation),
    }
}

/// What the file at this path below the data directory is.
pub fn classify(path: &str, major: PgMajor) -> Content {
    match path {
        crate::backup_label::PATH => return Content::BackupLabel,
        "tablespace_map" => return Content::TablespaceMap,
        replorigin::PATH => return Content::ReplOrigins,
        VERSION_FILE => return Content::Version,
        _ if SIGNAL_FILES.contains(&path) => return Content::Signal,
        _ if path.starts_with("pg_wal/") => return Content::Wal,
        _ => {}
    }
    if let Some((spc, db, name)) = relfile::split_path(path, major) {
        return database_file(spc, db, name);
    }
    let Some((directory, name)) = path.rsplit_once('/') else {
        return Content::Other;
    };
    for kind in SlruKind::ALL {
        if directory == kind.directory() {
            return slru::parse_segment_name(kind, name)
                .map_or(Content::Other, |segment| Content::Slru { kind, segment });
        }
    }
    match directory {
        slru::COMMIT_TS_DIRECTORY => slru::parse_commit_ts_name(name)
            .map_or(Content::Other, |segment| Content::CommitTs { segment }),
        twophase::DIRECTORY => twophase::parse_file_name(name, major)
            .map_or(Content::Other, |xid| Content::TwoPhase { xid }),
        _ => Content::Other,
    }
}

/// What the file at this path below the root of user tablespace `spc` is; archives of base
/// backups carry tablespaces this way.
pub fn classify_in_tablespace(spc: Oid, path: &str, major: PgMajor) -> Content {
    relfile::split_tablespace_path(spc, path, major).map_or(Content::Other, |(spc, db, name)| {
        database_file(spc, db, name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Parameters;
    use crate::control::tests::golden_control;
    use proptest::prelude::*;
    use types::{Fork, RelTag};

    #[test]
    fn directories_come_in_the_order_of_base_backups() {
        let old: Vec<_> = directories(PgMajor::V16).collect();
        assert_eq!(old.len(), 22);
        assert_eq!(
            old[..3],
            ["global", "pg_wal/archive_status", "pg_commit_ts"]
        );
        assert_eq!(old[21], "pg_logical/mappings");
        for major in [PgMajor::V17, PgMajor::V18] {
            let new: Vec<_> = directories(major).collect();
            assert_eq!(new.len(), 23);
            assert_eq!(new[2], "pg_wal/summaries");
        }
    }

    #[test]
    fn version_files() {
        assert_eq!(version_file(PgMajor::V14), "14\n");
        assert_eq!(neon_version_file(PgMajor::V15), "15");
        assert_eq!(neon_version_file(PgMajor::V16), "16\n");
    }

    #[test]
    fn configuration_suits_the_cluster_and_never_contradicts_itself() {
        let control = golden_control(PgMajor::V17);
        let conf = |p: Parameters| postgresql_conf(&control.patch().parameters(&p).finish());
        let p = Parameters {
            max_wal_senders: 10,
            max_prepared_xacts: 3,
            ..Parameters::default()
        };
        let text = conf(p);
        assert!(text.contains("wal_level = minimal\n") && text.contains("max_wal_senders = 0\n"));
        assert!(text.contains("max_prepared_transactions = 3\n"));
        assert!(
            text.contains("min_wal_size = 320MB\n"),
            "five segments of 64 MiB"
        );
        let text = conf(Parameters { wal_level: 2, ..p });
        assert!(text.contains("wal_level = logical\n") && text.contains("max_wal_senders = 10\n"));
    }

    #[test]
    fn every_kind_of_path_is_recognised() {
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 16384,
            fork: Fork::Vm,
        };
        let v = PgMajor::V16;
        for (path, content) in [
            ("global/pg_control", Content::Control),
            (
                "global/pg_filenode.map",
                Content::RelMap { spc: 1664, db: 0 },
            ),
            (
                "base/5/pg_filenode.map",
                Content::RelMap { spc: 1663, db: 5 },
            ),
            (
                "base/5/16384_vm.1",
                Content::Relation(RelFile { rel, segment: 1 }),
            ),
            ("base/5/t3_16384", Content::Temporary),
            ("base/5/pg_internal.init", Content::DatabaseOther),
            ("base/5/PG_VERSION", Content::Version),
            ("PG_VERSION", Content::Version),
            (
                "pg_xact/0001",
                Content::Slru {
                    kind: SlruKind::Clog,
                    segment: 1,
                },
            ),
            (
                "pg_multixact/members/14078",
                Content::Slru {
                    kind: SlruKind::MultiXactMembers,
                    segment: 82_040,
                },
            ),
            ("pg_commit_ts/0000", Content::CommitTs { segment: 0 }),
            (
                "pg_twophase/000002F5",
                Content::TwoPhase {
                    xid: FullXid(0x2F5),
                },
            ),
            ("pg_logical/replorigin_checkpoint", Content::ReplOrigins),
            ("backup_label", Content::BackupLabel),
            ("tablespace_map", Content::TablespaceMap),
            ("zenith.signal", Content::Signal),
            ("pg_wal/000000010000000000000001", Content::Wal),
            ("postgresql.conf", Content::Other),
            ("pg_xact/zzzz", Content::Other),
            ("pg_stat/pgstat.stat", Content::Other),
            ("base/pgsql_tmp/pgsql_tmp123.0", Content::Other),
        ] {
            assert_eq!(classify(path, v), content, "{path}");
        }
        let file = RelFile {
            rel: RelTag { spc: 90_001, ..rel },
            segment: 0,
        };
        assert_eq!(
            classify_in_tablespace(90_001, "PG_16_202307071/5/16384_vm", v),
            Content::Relation(file)
        );
        assert_eq!(
            classify_in_tablespace(90_001, "PG_15_202209061/5/16384", v),
            Content::Other
        );
        assert_eq!(
            classify("pg_tblspc/90001/PG_16_202307071/5/16384_vm", v),
            Content::Relation(file)
        );
    }

    proptest! {
        #[test]
        fn relation_paths_are_recognised_everywhere(spc in 1663u32..1670, db in 1u32.., rel in 1u32..) {
            let db = if spc == GLOBAL_TABLESPACE { 0 } else { db };
            let file = RelFile { rel: RelTag { spc, db, rel, fork: Fork::Fsm }, segment: 3 };
            for major in PgMajor::ALL {
                prop_assert_eq!(classify(&file.path(major), major), Content::Relation(file));
            }
        }

        #[test]
        fn arbitrary_paths_never_panic(path in "[a-z_/0-9.]{0,40}", prefix in 0usize..5) {
            let prefix = ["", "base/", "global/", "pg_xact/", "pg_tblspc/1/"][prefix];
            let content = classify(&format!("{prefix}{path}"), PgMajor::V17);
            prop_assert!(prefix != "pg_xact/" || !matches!(content, Content::Relation(_)));
        }
    }
}
