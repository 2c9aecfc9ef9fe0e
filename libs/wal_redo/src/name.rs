//! Names of record types, for messages and reports.

use pg_wal::record::rmid;

/// Name of a record type by resource manager and info byte; `?` if unknown. Where versions use
/// one code for different records the name covers both.
pub const fn record(rm: u8, info: u8) -> &'static str {
    let op = info & 0xF0;
    match rm {
        rmid::XLOG => xlog(op),
        rmid::HEAP | rmid::NEON => heap(rm, op),
        rmid::HEAP2 => heap2(op),
        rmid::BTREE => btree(op),
        rmid::HASH => hash(op),
        rmid::GIN => gin(op),
        rmid::GIST => gist(op),
        rmid::SPGIST => spgist(op),
        rmid::BRIN => brin(op),
        rmid::SEQ => "LOG",
        rmid::GENERIC => "GENERIC",
        _ => "?",
    }
}

/// Record types of Postgres that change pages: manager and high nibbles of the info byte.
pub const CHANGING_PAGES: [(u8, &[u8]); 11] = [
    (rmid::XLOG, &[0xA0, 0xB0]),
    (rmid::HEAP2, &[0x10, 0x20, 0x30, 0x40, 0x50, 0xD0, 0x60]),
    (
        rmid::HEAP,
        &[0x00, 0x80, 0x10, 0x20, 0xA0, 0x40, 0x50, 0x60, 0x70],
    ),
    (
        rmid::BTREE,
        &[
            0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xA0, 0xB0, 0xC0, 0xE0,
        ],
    ),
    (
        rmid::HASH,
        &[
            0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xA0, 0xB0, 0xC0,
        ],
    ),
    (
        rmid::GIN,
        &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90],
    ),
    (rmid::GIST, &[0x00, 0x10, 0x30, 0x60]),
    (rmid::SEQ, &[0x00]),
    (
        rmid::SPGIST,
        &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80],
    ),
    (
        rmid::BRIN,
        &[0x00, 0x10, 0x90, 0x20, 0xA0, 0x30, 0x40, 0x50],
    ),
    (rmid::GENERIC, &[0x00]),
];

const fn xlog(op: u8) -> &'static str {
    match op {
        0x00 => "CHECKPOINT_SHUTDOWN",
        0x10 => "CHECKPOINT_ONLINE",
        0x20 => "NOOP",
        0x30 => "NEXTOID",
        0x40 => "SWITCH",
        0x50 => "BACKUP_END",
        0x60 => "PARAMETER_CHANGE",
        0x70 => "RESTORE_POINT",
        0x80 => "FPW_CHANGE",
        0x90 => "END_OF_RECOVERY",
        0xA0 => "FPI_FOR_HINT",
        0xB0 => "FPI",
        0xD0 => "OVERWRITE_CONTRECORD",
        0xE0 => "CHECKPOINT_REDO",
        _ => "?",
    }
}

const fn heap(rm: u8, op: u8) -> &'static str {
    match (rm == rmid::NEON, op) {
        (_, 0x00) => "INSERT",
        (_, 0x80) => "INSERT+INIT",
        (_, 0x10) => "DELETE",
        (_, 0x20) => "UPDATE",
        (_, 0xA0) => "UPDATE+INIT",
        (_, 0x30 | 0xB0) => {
            if rm == rmid::NEON {
                "HOT_UPDATE"
            } else {
                "TRUNCATE"
            }
        }
        (false, 0x40 | 0xC0) => "HOT_UPDATE",
        (false, 0x50) => "CONFIRM",
        (false, 0x60) => "LOCK",
        (false, 0x70) => "INPLACE",
        (true, 0x40) => "LOCK",
        (true, 0x50) => "MULTI_INSERT",
        (true, 0xD0) => "MULTI_INSERT+INIT",
        (true, 0x60) => "FILE",
        _ => "?",
    }
}

const fn heap2(op: u8) -> &'static str {
    match op {
        0x00 => "REWRITE",
        0x10 => "PRUNE/PRUNE_ON_ACCESS",
        0x20 => "VACUUM/PRUNE_VACUUM_SCAN",
        0x30 => "FREEZE_PAGE/PRUNE_VACUUM_CLEANUP",
        0x40 => "VISIBLE",
        0x50 => "MULTI_INSERT",
        0xD0 => "MULTI_INSERT+INIT",
        0x60 => "LOCK_UPDATED",
        0x70 => "NEW_CID",
        _ => "?",
    }
}

const fn btree(op: u8) -> &'static str {
    match op {
        0x00 => "INSERT_LEAF",
        0x10 => "INSERT_UPPER",
        0x20 => "INSERT_META",
        0x30 => "SPLIT_L",
        0x40 => "SPLIT_R",
        0x50 => "INSERT_POST",
        0x60 => "DEDUP",
        0x70 => "DELETE",
        0x80 => "UNLINK_PAGE",
        0x90 => "UNLINK_PAGE_META",
        0xA0 => "NEWROOT",
        0xB0 => "MARK_PAGE_HALFDEAD",
        0xC0 => "VACUUM",
        0xD0 => "REUSE_PAGE",
        0xE0 => "META_CLEANUP",
        _ => "?",
    }
}

const fn hash(op: u8) -> &'static str {
    match op {
        0x00 => "INIT_META_PAGE",
        0x10 => "INIT_BITMAP_PAGE",
        0x20 => "INSERT",
        0x30 => "ADD_OVFL_PAGE",
        0x40 => "SPLIT_ALLOCATE_PAGE",
        0x50 => "SPLIT_PAGE",
        0x60 => "SPLIT_COMPLETE",
        0x70 => "MOVE_PAGE_CONTENTS",
        0x80 => "SQUEEZE_PAGE",
        0x90 => "DELETE",
        0xA0 => "SPLIT_CLEANUP",
        0xB0 => "UPDATE_META_PAGE",
        0xC0 => "VACUUM_ONE_PAGE",
        _ => "?",
    }
}

const fn gin(op: u8) -> &'static str {
    match op {
        0x10 => "CREATE_PTREE",
        0x20 => "INSERT",
        0x30 => "SPLIT",
        0x40 => "VACUUM_PAGE",
        0x50 => "DELETE_PAGE",
        0x60 => "UPDATE_META_PAGE",
        0x70 => "INSERT_LISTPAGE",
        0x80 => "DELETE_LISTPAGE",
        0x90 => "VACUUM_DATA_LEAF_PAGE",
        _ => "?",
    }
}

const fn gist(op: u8) -> &'static str {
    match op {
        0x00 => "PAGE_UPDATE",
        0x10 => "DELETE",
        0x20 => "PAGE_REUSE",
        0x30 => "PAGE_SPLIT",
        0x60 => "PAGE_DELETE",
        0x70 => "ASSIGN_LSN",
        _ => "?",
    }
}

const fn spgist(op: u8) -> &'static str {
    match op {
        0x10 => "ADD_LEAF",
        0x20 => "MOVE_LEAFS",
        0x30 => "ADD_NODE",
        0x40 => "SPLIT_TUPLE",
        0x50 => "PICKSPLIT",
        0x60 => "VACUUM_LEAF",
        0x70 => "VACUUM_ROOT",
        0x80 => "VACUUM_REDIRECT",
        _ => "?",
    }
}

const fn brin(op: u8) -> &'static str {
    match op {
        0x00 => "CREATE_INDEX",
        0x10 => "INSERT",
        0x90 => "INSERT+INIT",
        0x20 => "UPDATE",
        0xA0 => "UPDATE+INIT",
        0x30 => "SAMEPAGE_UPDATE",
        0x40 => "REVMAP_EXTEND",
        0x50 => "DESUMMARIZE",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn record_types_that_change_pages_have_distinct_names() {
        let all = CHANGING_PAGES
            .iter()
            .flat_map(|(rm, ops)| ops.iter().map(|op| (*rm, record(*rm, *op))));
        let all: Vec<_> = all.collect();
        assert!(all.iter().all(|(_, name)| *name != "?"));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
