use super::*;
use bytes::Bytes;
use std::collections::VecDeque;
use wal_ingest::testing::RecordBuilder;

const VERSION: PgMajor = PgMajor::V17;
const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: types::Fork::Main,
};
const BLOCK: BlockNumber = 3;
const EXTENSION: u8 = 128;
const DIALECT: Dialect = Dialect {
    version: VERSION,
    flavour: Flavour::Vanilla,
    hint_bits_logged: false,
};

type Act = fn(&[u8], &mut [u8; PAGE_SIZE]) -> io::Result<()>;
/// What one started process does with its requests, one after the other.
type Script = VecDeque<Act>;

#[derive(Debug, Default)]
struct Scripts {
    left: Mutex<VecDeque<Script>>,
    started: AtomicUsize,
}

#[derive(Debug)]
struct Scripted(Script);

impl Launcher for Scripts {
    fn launch(&self, version: PgMajor) -> io::Result<Box<dyn Process>> {
        assert_eq!(version, VERSION);
        self.started.fetch_add(1, Ordering::Relaxed);
        let script = self.left.lock().pop_front();
        let script = script.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(Scripted(script)))
    }
}

impl Process for Scripted {
    fn exchange(
        &mut self,
        request: &[u8],
        page: &mut [u8; PAGE_SIZE],
        limit: Duration,
    ) -> io::Result<()> {
        assert_eq!(limit, TIME_LIMIT);
        match self.0.pop_front() {
            Some(act) => act(request, page),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// A redo program for records whose main data is an offset and a byte: puts the byte there.
fn obey(request: &[u8], page: &mut [u8; PAGE_SIZE]) -> io::Result<()> {
    let tag = tag((REL, BLOCK));
    let mut left = request;
    let mut kinds = Vec::new();
    while let Some((kind, rest)) = left.split_first() {
        let (len, _) = rest.split_first_chunk::<4>().unwrap();
        let (body, after) = rest.split_at(u32::from_be_bytes(*len) as usize);
        let body = &body[4..];
        left = after;
        kinds.push(*kind);
        match kind {
            b'B' => *page = [0; PAGE_SIZE],
            b'P' => page.copy_from_slice(&body[17..]),
            b'A' => {
                let (lsn, rec) = body.split_first_chunk::<8>().unwrap();
                let rec = pg_wal::Record::parse(rec, VERSION).unwrap();
                let at = u16::from_le_bytes([rec.main[0], rec.main[1]]);
                page[usize::from(at)] = rec.main[2];
                pg_format::page::set_lsn(page, Lsn(u64::from_be_bytes(*lsn)));
            }
            _ => {}
        }
        if *kind != b'A' {
            assert_eq!(body[..17], tag);
        }
    }
    assert_eq!(kinds.first(), Some(&b'B'));
    assert_eq!(kinds.iter().filter(|k| **k == b'G').count(), 1);
    assert_eq!(kinds.last(), Some(&b'G'));
    Ok(())
}

fn die(_: &[u8], _: &mut [u8; PAGE_SIZE]) -> io::Result<()> {
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn hang(_: &[u8], _: &mut [u8; PAGE_SIZE]) -> io::Result<()> {
    Err(io::ErrorKind::TimedOut.into())
}

fn lie(_: &[u8], page: &mut [u8; PAGE_SIZE]) -> io::Result<()> {
    page.fill(0xEE);
    Ok(())
}

fn run_ahead(request: &[u8], page: &mut [u8; PAGE_SIZE]) -> io::Result<()> {
    obey(request, page)?;
    pg_format::page::set_lsn(page, Lsn(0x9000));
    Ok(())
}

fn record(rm: u8, info: u8, main: &[u8]) -> WalRecord {
    let rec = RecordBuilder::new(VERSION, rm, info)
        .block(0, REL, BLOCK)
        .main(main)
        .build();
    WalRecord::Postgres {
        will_init: false,
        rec: Bytes::from(rec),
    }
}

fn put(at: u16, byte: u8) -> WalRecord {
    let [low, high] = at.to_le_bytes();
    record(EXTENSION, 0, &[low, high, byte])
}

/// An empty page with LSN 0x100.
fn base() -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    page[12..20].copy_from_slice(&[24, 0, 0, 32, 0, 32, 4, 32]);
    pg_format::page::set_lsn(&mut page, Lsn(0x100));
    page
}

fn rebuild(
    fallback: &Fallback,
    records: &[(Lsn, WalRecord)],
) -> Result<([u8; PAGE_SIZE], Stats), Error> {
    let key = Key::rel_block(REL, BLOCK);
    let mut out = PageBuf::new();
    let base = base();
    let list = records.iter().map(|(lsn, rec)| (*lsn, rec));
    let failed = wal_redo::reconstruct(&key, Some(&base), list, &DIALECT, &mut out).unwrap_err();
    let stats = fallback.reconstruct(failed, &key, Some(&base), records, &DIALECT, &mut out)?;
    Ok((*out.page().unwrap(), stats))
}

fn with(scripts: &[&[Act]]) -> (Fallback, Arc<Scripts>) {
    let scripts = Arc::new(Scripts {
        left: Mutex::new(
            scripts
                .iter()
                .map(|s| s.iter().copied().collect())
                .collect(),
        ),
        started: AtomicUsize::new(0),
    });
    let fallback = Fallback::default();
    fallback.configure(Arc::clone(&scripts) as Arc<dyn Launcher>);
    (fallback, scripts)
}

fn started(scripts: &Scripts) -> usize {
    scripts.started.load(Ordering::Relaxed)
}

#[test]
fn native_and_foreign_records_alternate() {
    let (fallback, scripts) = with(&[&[obey, obey]]);
    // FPI_FOR_HINT without an image: native, and without effect on the page.
    let native = record(pg_wal::record::rmid::XLOG, 0xA0, &[]);
    let records = [
        // The base has this one already.
        (Lsn(0x100), put(5000, 9)),
        (Lsn(0x200), put(6000, 1)),
        (Lsn(0x208), put(6001, 2)),
        (Lsn(0x210), native),
        (Lsn(0x218), put(6000, 3)),
    ];
    let (page, stats) = rebuild(&fallback, &records).unwrap();
    let mut expected = base();
    expected[6000..6002].copy_from_slice(&[3, 2]);
    pg_format::page::set_lsn(&mut expected, Lsn(0x218));
    assert!(page == expected);
    assert_eq!((stats.changed, stats.older, stats.untouched), (3, 1, 1));
    assert_eq!(started(&scripts), 1);
}

#[test]
fn a_process_that_died_while_it_waited_is_replaced() {
    let (fallback, scripts) = with(&[&[obey, die], &[obey]]);
    let records = [(Lsn(0x200), put(6000, 1))];
    let first = rebuild(&fallback, &records).unwrap();
    let second = rebuild(&fallback, &records).unwrap();
    assert!(first == second);
    assert_eq!(started(&scripts), 2);
}

#[test]
fn a_process_that_hangs_is_ended_and_the_next_request_gets_a_new_one() {
    let (fallback, scripts) = with(&[&[obey, hang], &[obey]]);
    let records = [(Lsn(0x200), put(6000, 1))];
    rebuild(&fallback, &records).unwrap();
    let e = rebuild(&fallback, &records).unwrap_err();
    assert!(
        matches!(
            &e,
            Error::Program {
                lsn: Lsn(0x200),
                records: 1,
                ..
            }
        ),
        "{e}"
    );
    rebuild(&fallback, &records).unwrap();
    assert_eq!(started(&scripts), 2);
}

#[test]
fn a_new_process_that_dies_is_not_tried_again() {
    let (fallback, scripts) = with(&[&[die], &[obey]]);
    let records = [(Lsn(0x200), put(6000, 1))];
    assert!(rebuild(&fallback, &records).is_err());
    assert_eq!(started(&scripts), 1);
}

#[test]
fn an_answer_that_is_no_page_is_refused() {
    let (fallback, _) = with(&[&[lie, run_ahead]]);
    let records = [(Lsn(0x200), put(6000, 1))];
    for _ in 0..2 {
        let e = rebuild(&fallback, &records).unwrap_err();
        assert!(matches!(e, Error::Answer { .. }), "{e}");
    }
}

#[test]
fn without_a_program_the_error_names_the_setting() {
    let e = rebuild(&Fallback::default(), &[(Lsn(0x200), put(6000, 1))]).unwrap_err();
    assert!(e.to_string().contains("wal_redo_program"), "{e}");
    assert!(e.to_string().contains("0/200"), "{e}");
}

#[test]
fn other_failures_are_none_of_the_programs_business() {
    let (fallback, scripts) = with(&[&[obey]]);
    // A heap insertion without data.
    let e = rebuild(&fallback, &[(Lsn(0x200), record(10, 0, &[1, 0, 0]))]).unwrap_err();
    assert!(matches!(e, Error::Native(_)), "{e}");
    assert_eq!(started(&scripts), 0);
}

#[test]
fn long_runs_are_split() {
    let big = vec![0; MAX_REQUEST / 2];
    let records: Vec<_> = (0..5u64)
        .map(|n| (Lsn(0x200 + n * 8), record(EXTENSION, 0, &big)))
        .collect();
    assert_eq!(run_length(&records, &DIALECT), 1);
    let huge = [(Lsn(0x200), record(EXTENSION, 0, &vec![0; MAX_REQUEST + 1]))];
    assert_eq!(run_length(&huge, &DIALECT), 1);
    let small: Vec<_> = (0..5u64)
        .map(|n| (Lsn(0x200 + n * 8), put(100, 1)))
        .collect();
    assert_eq!(run_length(&small, &DIALECT), 5);
}
