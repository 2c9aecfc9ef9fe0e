use super::*;
use pg_format::tar::{BLOCK, END, Item, header, padding};
use std::os::unix::fs::MetadataExt;

fn entry(out: &mut Vec<u8>, path: &str, data: &[u8]) {
    out.extend_from_slice(&header(path, Item::File(data.len() as u64), 1).unwrap());
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len() as u64), 0);
}

fn body() -> Vec<u8> {
    let mut out = header("base", Item::Directory, 1).unwrap().to_vec();
    entry(&mut out, "PG_VERSION", b"17\n");
    entry(&mut out, "base/5/1259", &[7; 700]);
    entry(&mut out, "empty", b"");
    entry(&mut out, "global/pg_control", &[1; 8192]);
    out
}

fn archive() -> Vec<u8> {
    let mut out = body();
    out.extend_from_slice(&END);
    out
}

/// A header with any path and type, which the writer would refuse.
fn raw(path: &str, kind: u8, target: &str) -> Vec<u8> {
    let mut b = header("x", Item::File(0), 1).unwrap().to_vec();
    b[..100].fill(0);
    b[..path.len()].copy_from_slice(path.as_bytes());
    b[156] = kind;
    b[157..157 + target.len()].copy_from_slice(target.as_bytes());
    b[148..156].fill(b' ');
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(b.len(), BLOCK);
    b
}

fn unpack(root: &Path, bytes: &[u8], step: usize) -> Result<Summary, Error> {
    let mut unpacker = Unpacker::new(root, None)?;
    for piece in bytes.chunks(step) {
        unpacker.feed(piece)?;
    }
    unpacker.finish(true)
}

#[test]
fn a_data_directory_is_unpacked_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    for step in [1, 511, 512, 100_000] {
        let root = dir.path().join(format!("a/b{step}"));
        let summary = unpack(&root, &archive(), step).unwrap();
        assert_eq!((summary.files, summary.bytes), (4, 3 + 700 + 8192));
        assert_eq!(fs::read(root.join("base/5/1259")).unwrap(), [7; 700]);
        assert_eq!(fs::read(root.join("empty")).unwrap(), b"");
        let mode = |p: &str| fs::metadata(root.join(p)).unwrap().mode() & 0o777;
        assert_eq!(
            (mode(""), mode("base/5"), mode("PG_VERSION")),
            (0o700, 0o700, 0o600)
        );
    }
}

#[test]
fn an_empty_directory_may_exist() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    unpack(dir.path(), &archive(), 4096).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_is_not_empty_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "x").unwrap();
    let e = unpack(dir.path(), &archive(), 4096).unwrap_err();
    assert!(matches!(e, Error::NotEmpty(_)), "{e}");
    assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"x");
    let file = dir.path().join("precious");
    assert!(matches!(
        unpack(&file, &archive(), 4096),
        Err(Error::NotDirectory(_))
    ));
}

/// Every way to be cut short is an error and leaves nothing.
#[test]
fn a_stream_without_its_end_marker_is_an_error_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = archive();
    for cut in [1, 512, 1023, 1024, 1025, 5000, whole.len()] {
        let root = dir.path().join(format!("c{cut}"));
        let e = unpack(&root, &whole[..whole.len() - cut], 4096).unwrap_err();
        assert!(matches!(e, Error::Truncated), "{cut}: {e}");
        assert!(!root.exists(), "{cut}");
    }
    let existing = dir.path().join("existing");
    fs::create_dir(&existing).unwrap();
    unpack(&existing, &body(), 4096).unwrap_err();
    assert_eq!(fs::read_dir(&existing).unwrap().count(), 0);
}

#[test]
fn an_unpacker_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("x");
    let mut unpacker = Unpacker::new(&root, None).unwrap();
    unpacker.feed(&body()).unwrap();
    assert!(root.join("PG_VERSION").exists());
    drop(unpacker);
    assert!(!root.exists());
}

#[test]
fn paths_that_lead_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["/etc/evil", "../evil", "base/../../evil", "a/.."] {
        for kind in *b"05" {
            let root = dir.path().join("root");
            let e = unpack(&root, &raw(path, kind, ""), 512).unwrap_err();
            assert!(
                matches!(e, Error::Tar(tar::Error::Path { .. })),
                "{path}: {e}"
            );
            assert!(!root.exists() && !dir.path().join("evil").exists());
        }
    }
}

#[test]
fn links_and_devices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for kind in *b"123467xLg" {
        let e = unpack(&root, &raw("pg_tblspc/1", kind, "/etc"), 512).unwrap_err();
        assert!(matches!(e, Error::Entry { .. }), "{}: {e}", kind as char);
        assert!(!root.exists());
    }
}

#[test]
fn nothing_is_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut twice = body();
    entry(&mut twice, "PG_VERSION", b"18\n");
    let e = unpack(&dir.path().join("a"), &twice, 4096).unwrap_err();
    assert!(
        matches!(&e, Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
        "{e}"
    );
    let mut under_a_file = body();
    entry(&mut under_a_file, "PG_VERSION/x", b"");
    let e = unpack(&dir.path().join("b"), &under_a_file, 4096).unwrap_err();
    assert!(matches!(e, Error::NotDirectory(_)), "{e}");
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("x");
    let mut other = Vec::new();
    entry(&mut other, "PG_VERSION", b"17\n");
    other.extend_from_slice(&END);
    let e = unpack(&root, &other, 512).unwrap_err();
    assert!(matches!(e, Error::Incomplete("global/pg_control")), "{e}");
    assert!(!root.exists());
}

#[test]
fn a_damaged_header_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut damaged = archive();
    damaged[512] ^= 1;
    let e = unpack(&dir.path().join("x"), &damaged, 512).unwrap_err();
    assert!(matches!(e, Error::Tar(tar::Error::Checksum { .. })), "{e}");
}
