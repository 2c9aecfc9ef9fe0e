use super::*;
use proptest::prelude::*;
use serde_json::json;
use types::PgMajor;

const CURRENT: &str = r#"{"version":15,
 "layer_metadata":{
  "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF__0000000001696070-00000000016960E9":
    {"file_size":9007199,"generation":5,"shard":"0108"},
  "000000000000000000000000000000000000-000000067F00000005000040000000000001__0000000001696070":
    {"file_size":25600000,"generation":3,"shard":"0104"}},
 "disk_consistent_lsn":"0/16960E8",
 "metadata_bytes":{"disk_consistent_lsn":"0/16960E8","prev_record_lsn":"0/1696070","ancestor_timeline":null,
   "ancestor_lsn":"0/0","latest_gc_cutoff_lsn":"0/1696070","initdb_lsn":"0/1696070","pg_version":16},
 "lineage":{},
 "gc_blocking":{"started_at":"2024-07-19T09:00:00.123","reasons":["DetachAncestor"]}}"#;

fn value(json: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(json.as_ref()).unwrap()
}

/// What is written, without its checksum.
fn content(part: &IndexPart) -> Value {
    let mut document = value(part.to_json().unwrap());
    for member in seal::MEMBERS {
        assert!(document.as_object_mut().unwrap().remove(member).is_some());
    }
    document
}

#[test]
fn current_document_is_read_and_written_back_unchanged() {
    let part = IndexPart::from_json(CURRENT.as_bytes()).unwrap();
    assert_eq!(part.layer_metadata.len(), 2);
    let (name, entry) = part.layer_metadata.last_key_value().unwrap();
    assert!(name.is_l0());
    assert_eq!(
        *entry,
        LayerEntry::new(9_007_199, Generation::new(5), "0108".parse().unwrap())
    );
    assert_eq!(part.disk_consistent_lsn(), Lsn(0x16960E8));
    assert_eq!(part.metadata.pg_version, PgMajor::V16);
    assert_eq!(
        part.gc_blocking.as_ref().unwrap().reasons,
        [GcBlockingReason::DetachAncestor]
    );
    assert!(part.unknown.is_empty());
    assert_eq!(content(&part), value(CURRENT));
}

#[test]
fn first_version_with_binary_metadata_is_read() {
    let mut bytes = hex::decode(concat!(
        "4a689e6900460004000000000000020001000000000000010001112233445566778811223344556677",
        "880000000000000000000000000000000000000000000000000000001",
        "0"
    ))
    .unwrap();
    bytes.resize(512, 0);
    let name = "000000067F00000005000040000000000000-000000067F00000005000040000000000001__0000000000000100";
    let document = json!({
        "version": 1,
        "timeline_layers": [name],
        "missing_layers": ["gone"],
        "layer_metadata": { name: { "file_size": 24576 } },
        "disk_consistent_lsn": "0/200",
        "metadata_bytes": bytes,
    });
    let part = IndexPart::from_json(document.to_string().as_bytes()).unwrap();
    assert_eq!(part.version, 1);
    assert_eq!(part.metadata.prev_record_lsn, Some(Lsn(0x100)));
    let entry = part.layer_metadata.values().next().unwrap();
    assert_eq!(
        *entry,
        LayerEntry::new(24576, Generation::NONE, ShardIndex::UNSHARDED)
    );
    let written = value(part.to_json().unwrap());
    assert_eq!(written["version"], 15);
    assert_eq!(written["lineage"], json!({}));
    assert_eq!(written["metadata_bytes"]["disk_consistent_lsn"], "0/200");
    assert_eq!(written["disk_consistent_lsn"], "0/200");
    assert_eq!(
        written["layer_metadata"][name],
        json!({ "file_size": 24576 })
    );
    assert!(written.get("timeline_layers").is_none() && written.get("missing_layers").is_none());
}

#[test]
fn every_optional_member_survives_a_round_trip() {
    let mut document = value(CURRENT);
    let more = json!({
        "deleted_at": "2023-07-31T09:00:00.123",
        "lineage": {
            "reparenting_history": ["e1bfd8c633d713d279e6fcd2bcc15b6d"],
            "reparenting_history_truncated": true,
            "original_ancestor": ["e2bfd8c633d713d279e6fcd2bcc15b6d", "0/15A7618", "2024-05-07T18:52:36.322426563"],
        },
        "last_aux_file_policy": "V2",
        "archived_at": "2024-04-29T09:00:00.123",
        "import_pgdata": {"V1": {"Done": {"idempotency_key": "k", "started_at": "2024-11-13T09:23:42.123",
            "finished_at": "2024-11-13T09:42:23.123"}}},
        "rel_size_migration": "migrating",
        "gc_compaction": {"last_completed_lsn": "0/16960E8", "later": 1},
        "marked_invisible_at": "2023-07-31T09:00:00.123",
        "rel_size_migrated_at": "0/16960E8",
        "held_branches": {"e1bfd8c633d713d279e6fcd2bcc15b6d": "0/15A7618"},
        "nonce": "0123456789abcdef",
        "vanilla": {"flavour": "vanilla", "system_identifier": "18446744073709551615", "timeline_id": 2,
            "wal_segment_size": 16777216, "source": "host=db user=rep", "slot": "ps",
            "import": {"start_lsn": "0/2000028", "end_lsn": "0/2000120", "done": true},
            "history": [{"timeline_id": 1, "switch_lsn": "0/3000000"}]},
        "from_the_future": {"a": [1, null]},
    });
    document
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let part = IndexPart::from_json(document.to_string().as_bytes()).unwrap();
    assert!(part.import_pgdata.as_ref().unwrap().is_done());
    assert_eq!(part.vanilla.as_ref().unwrap().system_identifier, u64::MAX);
    assert_eq!(part.lineage.original_ancestor.unwrap().1, Lsn(0x15A7618));
    assert_eq!(content(&part), document);
}

#[test]
fn nulls_and_the_older_metadata_name_are_accepted() {
    let mut document = value(CURRENT);
    let map = document.as_object_mut().unwrap();
    let metadata = map.remove("metadata_bytes").unwrap();
    map.insert("metadata".into(), metadata);
    for member in [
        "deleted_at",
        "lineage",
        "gc_blocking",
        "import_pgdata",
        "l2_lsn",
        "rel_size_migration",
        "vanilla",
    ] {
        map.insert(member.into(), Value::Null);
    }
    let part = IndexPart::from_json(document.to_string().as_bytes()).unwrap();
    assert_eq!((&part.gc_blocking, &part.import_pgdata), (&None, &None));
    assert!(value(part.to_json().unwrap()).get("l2_lsn").is_none());
}

#[test]
fn states_this_program_does_not_know_are_kept() {
    let import = json!({"V1": {"InProgress": {"idempotency_key": "k", "location": {"LocalFs": {"path": "/x"}},
        "started_at": "2024-11-13T09:23:42.123", "progress": {"jobs": 3}}}});
    let known: ImportPgdata = serde_json::from_value(import.clone()).unwrap();
    assert!(matches!(&known, ImportPgdata::V1(ImportV1::InProgress(_))));
    assert!(!known.is_done());
    assert_eq!(serde_json::to_value(&known).unwrap(), import);
    let other: ImportPgdata = serde_json::from_value(json!({"V9": 1})).unwrap();
    assert_eq!(serde_json::to_value(&other).unwrap(), json!({"V9": 1}));
    let reason: GcBlockingReason = serde_json::from_value(json!("Flood")).unwrap();
    assert_eq!(reason, GcBlockingReason::Other("Flood".into()));
}

#[test]
fn a_layer_listed_twice_is_refused() {
    let name = "000000067F00000005000040000000000000-000000067F00000005000040000000000001__0000000000000100";
    let entry = r#"{"file_size":1}"#;
    let twice = format!(r#""layer_metadata":{{"{name}":{entry},"{name}-00000001":{entry}}}"#);
    let start = CURRENT.find("\"layer_metadata\"").unwrap();
    let end = CURRENT.find("},\n \"disk").unwrap();
    let document = format!("{}{twice}{}", &CURRENT[..start], &CURRENT[end + 1..]);
    let error = IndexPart::from_json(document.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains("listed twice"), "{error}");
}

#[test]
fn a_changed_document_is_refused_unless_it_never_had_a_checksum() {
    let part = IndexPart::from_json(CURRENT.as_bytes()).unwrap();
    let written = part.to_json().unwrap();
    let again = IndexPart::from_json(&written).unwrap();
    assert_eq!((&again, again.unknown.len()), (&part, 0));
    let text = String::from_utf8(written).unwrap();
    let changed = text.replace("0/16960E8", "0/16960F8");
    let e = IndexPart::from_json(changed.as_bytes()).unwrap_err();
    assert!(e.to_string().contains("CRC-32C"), "{e}");
    // Rewritten by a program that does not know of checksums, and drops what it does not know.
    let mut other = value(&changed);
    for member in seal::MEMBERS {
        other.as_object_mut().unwrap().remove(member);
    }
    let other = IndexPart::from_json(other.to_string().as_bytes()).unwrap();
    assert_eq!(other.disk_consistent_lsn(), Lsn(0x16960F8));
}

#[test]
fn a_branch_below_the_cutoff_is_held_if_it_is_listed() {
    let mut part = IndexPart::from_json(CURRENT.as_bytes()).unwrap();
    let cutoff = part.metadata.latest_gc_cutoff_lsn;
    let below = Lsn(cutoff.0 - 8);
    let child = TimelineId([1; 16]);
    // Not said by the program that wrote it.
    assert!(part.holds(&child, below));
    part.held_branches = Some(BTreeMap::new());
    assert!(!part.holds(&child, below) && part.holds(&child, cutoff));
    part.held_branches = Some([(child, below)].into());
    assert!(part.holds(&child, below) && !part.holds(&child, Lsn(below.0 - 8)));
}

#[test]
fn wrong_shapes_are_errors() {
    for (from, to) in [
        ("\"0104\"", "\"0404\""),
        ("\"pg_version\":16", "\"pg_version\":13"),
        ("0/0", "0-0"),
        ("25600000", "-1"),
    ] {
        let document = CURRENT.replace(from, to);
        assert!(IndexPart::from_json(document.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn old_reparentings_are_forgotten() {
    let mut lineage = Lineage::default();
    for i in 0..101u8 {
        assert!(lineage.reparented_from(TimelineId([i; 16])));
    }
    assert!(!lineage.reparented_from(TimelineId([100; 16])));
    assert_eq!(lineage.reparenting_history.len(), MAX_REPARENTINGS);
    assert_eq!(lineage.reparenting_history[0], TimelineId([1; 16]));
    assert!(lineage.reparenting_history_truncated);
}

proptest! {
    #[test]
    fn damaged_documents_never_panic(at in 0..CURRENT.len(), byte: u8, cut in 0..CURRENT.len()) {
        let mut bytes = CURRENT.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = IndexPart::from_json(&bytes);
        prop_assert!(IndexPart::from_json(&CURRENT.as_bytes()[..cut]).is_err());
    }
}
