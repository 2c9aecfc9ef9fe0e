//! What the redo targets share: the golden cases, and what holds after any record on any page.

#[path = "../../libs/wal_redo/tests/redo/cases.rs"]
pub mod cases;

use cases::Case;
use pg_wal::View;
use pg_wal::record::Header;
use std::sync::LazyLock;
use types::key::Kind as KeyKind;
use types::{Fork, Key, Lsn, PAGE_SIZE, PgMajor};
use wal_redo::mask::{self, Kind, Level};
use wal_redo::page::Page;
use wal_redo::{Dialect, Outcome, PageBuf, apply_postgres};

/// Behind every LSN of a page that is not damaged.
pub const NOW: Lsn = Lsn(1 << 62);

/// Golden cases of all majors, in the order of [`PgMajor::ALL`].
pub static GOLDEN: LazyLock<[Vec<Case>; 5]> = LazyLock::new(|| {
    PgMajor::ALL.map(|version| {
        let read = |kind| {
            let path = format!(
                "{}/../libs/wal_redo/tests/golden/{version}{kind}.zst",
                env!("CARGO_MANIFEST_DIR")
            );
            let file = std::fs::File::open(path).expect("a golden file");
            let bytes = zstd::decode_all(file).expect("zstd");
            cases::parse(&bytes).expect("golden cases")
        };
        let mut all = read("");
        all.extend(read("-index"));
        all
    })
});

/// Applies a record to a page and checks what holds whatever they are: the same again gives the
/// same, an outcome without change leaves the page alone, a change is not made twice, and the page
/// can be masked or is refused.
pub fn apply(
    buf: &mut PageBuf,
    key: &Key,
    lsn: Lsn,
    raw: &[u8],
    dialect: &Dialect,
) -> Option<Outcome> {
    let before = buf.clone();
    let result = apply_postgres(buf, key, lsn, raw, dialect);
    let mut other = before.clone();
    assert_eq!(apply_postgres(&mut other, key, lsn, raw, dialect), result);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return None;
        }
    };
    assert_eq!(buf.as_slice(), other.as_slice());
    let page = *buf.page().expect("a page after success");
    match outcome {
        Outcome::Untouched | Outcome::Older | Outcome::NewPage => {
            let was = before.page().copied().unwrap_or([0; PAGE_SIZE]);
            let header = Header::parse(raw);
            assert!(page == was, "{outcome:?} changed the page: {header:?}");
        }
        Outcome::Image | Outcome::Changed => {
            let mut copy = page;
            let at = Page::new(&mut copy).lsn();
            let reborn = outcome == Outcome::Image || starts_over(raw, key, dialect);
            if at == lsn && !reborn {
                // A generic record may write zeros where a header should be.
                let again = apply_postgres(buf, key, lsn, raw, dialect);
                assert!(matches!(again, Ok(Outcome::Older | Outcome::NewPage)));
                assert!(*buf.page().expect("a page") == page);
            }
        }
    }
    masks(&page, key);
    Some(outcome)
}

/// Records that never look at the page they find.
fn starts_over(raw: &[u8], key: &Key, dialect: &Dialect) -> bool {
    let KeyKind::RelBlock { rel, block } = key.kind() else {
        return false;
    };
    let view = View::find(raw, dialect.version, |_, r, b| r == rel && b == block);
    matches!(view, Ok(Some(v)) if v.block.will_init)
}

fn masks(page: &[u8; PAGE_SIZE], key: &Key) {
    let KeyKind::RelBlock { rel, block } = key.kind() else {
        return;
    };
    for kind in [
        Kind::guess(page, rel.fork),
        Kind::guess(page, Fork::Main),
        Kind::Heap,
        Kind::Btree,
        Kind::Hash,
        Kind::Gin,
        Kind::Gist,
        Kind::SpGist,
        Kind::Brin,
    ] {
        for level in [Level::Consistency, Level::Strict] {
            let mut once = *page;
            if mask::page(kind, level, block, &mut once).is_ok() {
                let mut again = *page;
                let same = mask::page(kind, level, block, &mut again);
                assert!(same.is_ok() && once == again);
            }
        }
    }
}
