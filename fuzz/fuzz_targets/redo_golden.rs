//! Redo of a history of real records on a real page, both damaged where it hurts: in payloads,
//! page headers, line pointers, item heads and special spaces.

#![no_main]

use fuzz::{GOLDEN, apply};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pg_wal::record::{HEADER_SIZE, Record};
use types::{Flavour, Key, Lsn, PgMajor};
use wal_redo::{Dialect, PageBuf};

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Value {
    Set(u8),
    Word(u16),
    Add(i8),
    Flip(u8),
}

#[derive(Arbitrary, Debug)]
enum PageEdit {
    Header(u8, Value),
    LinePointer(u8, u8, Value),
    Item(u8, u8, Value),
    Special(u8, Value),
    Anywhere(u16, Value),
}

#[derive(Arbitrary, Debug)]
enum RecordEdit {
    Info(u8),
    Manager(u8),
    Envelope(u8, Value),
    Main(u8, Value),
    Data(u16, Value),
}

#[derive(Arbitrary, Debug)]
struct Step {
    case: u16,
    reference: u8,
    edits: Vec<RecordEdit>,
}

#[derive(Arbitrary, Debug)]
struct Run {
    version: u8,
    neon: bool,
    hint_bits_logged: bool,
    base: Option<(u16, u8)>,
    damage: Vec<PageEdit>,
    steps: Vec<Step>,
}

fn change(bytes: &mut [u8], at: usize, value: Value) {
    let Some(b) = bytes.get_mut(at) else {
        return;
    };
    match value {
        Value::Set(v) => *b = v,
        Value::Add(v) => *b = b.wrapping_add_signed(v),
        Value::Flip(bit) => *b ^= 1 << (bit % 8),
        Value::Word(w) => {
            let end = bytes.len().min(at + 2);
            let n = end - at;
            bytes[at..end].copy_from_slice(&w.to_le_bytes()[..n]);
        }
    }
}

fn damage(page: &mut [u8; 8192], edit: &PageEdit) {
    let word = |p: &[u8; 8192], at: usize| usize::from(u16::from_le_bytes([p[at], p[at + 1]]));
    let lines = (word(page, 12).saturating_sub(24) / 4).clamp(1, 2000);
    match *edit {
        PageEdit::Header(at, v) => change(page, 8 + usize::from(at % 16), v),
        PageEdit::LinePointer(n, at, v) => {
            change(
                page,
                24 + usize::from(n) % lines * 4 + usize::from(at % 4),
                v,
            );
        }
        PageEdit::Item(n, at, v) => {
            let start = word(page, 24 + usize::from(n) % lines * 4) & 0x7FFF;
            change(page, start + usize::from(at % 40), v);
        }
        PageEdit::Special(at, v) => change(page, 8191 - usize::from(at % 64), v),
        PageEdit::Anywhere(at, v) => change(page, usize::from(at % 8192), v),
    }
}

fuzz_target!(|run: Run| {
    let major = usize::from(run.version) % 5;
    let cases = &GOLDEN[major];
    let dialect = Dialect {
        version: PgMajor::ALL[major],
        flavour: if run.neon {
            Flavour::Neon
        } else {
            Flavour::Vanilla
        },
        hint_bits_logged: run.hint_bits_logged,
    };
    let mut buf = PageBuf::new();
    if let Some((case, page)) = run.base {
        let case = &cases[usize::from(case) % cases.len()];
        if let Some((_, _, page)) = case.pages.get(usize::from(page) % case.pages.len().max(1)) {
            let mut page = **page;
            run.damage
                .iter()
                .take(16)
                .for_each(|e| damage(&mut page, e));
            assert!(buf.set(&page));
        }
    }
    for (n, step) in (1u64..9).zip(&run.steps) {
        let case = &cases[usize::from(step.case) % cases.len()];
        let good = Record::parse(&case.raw, dialect.version).expect("a golden record");
        let payload: usize = good
            .blocks
            .iter()
            .map(|b| b.data.len() + b.image.map_or(0, |i| i.data.len()))
            .sum();
        let main = case.raw.len() - good.main.len();
        let data = main - payload;
        // Block data behind the check images, where there is one block.
        let data = data
            + good
                .blocks
                .first()
                .and_then(|b| b.image)
                .map_or(0, |i| i.data.len());
        let mut raw = case.raw.clone();
        for edit in step.edits.iter().take(8) {
            match *edit {
                RecordEdit::Info(info) => raw[16] = info,
                RecordEdit::Manager(id) => raw[17] = id,
                RecordEdit::Envelope(at, v) => change(&mut raw, HEADER_SIZE + usize::from(at), v),
                RecordEdit::Main(at, v) => change(&mut raw, main + usize::from(at), v),
                RecordEdit::Data(at, v) => {
                    let at = data + usize::from(at) % main.saturating_sub(data).max(1);
                    change(&mut raw, at, v);
                }
            }
        }
        let Some(block) = good
            .blocks
            .get(usize::from(step.reference) % good.blocks.len().max(1))
        else {
            continue;
        };
        let key = Key::rel_block(block.rel, block.block);
        let undamaged = buf.clone();
        if apply(&mut buf, &key, Lsn((1 << 62) + n), &raw, &dialect).is_none() {
            buf = undamaged;
        }
    }
});
