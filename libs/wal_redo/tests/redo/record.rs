//! Builds raw WAL records.
#![allow(
    dead_code,
    reason = "shared by tests and benches, which use different parts"
)]

use types::{Flavour, Fork, Key, PgMajor, RelTag};
use wal_redo::Dialect;

pub const HEAP: u8 = 10;
pub const HEAP2: u8 = 9;

pub const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};

pub fn key(block: u32) -> Key {
    Key::rel_block(REL, block)
}

pub fn vm_key(block: u32) -> Key {
    Key::rel_block(REL.with_fork(Fork::Vm), block)
}

pub fn vanilla(version: PgMajor) -> Dialect {
    Dialect {
        version,
        flavour: Flavour::Vanilla,
        hint_bits_logged: false,
    }
}

pub struct Image {
    pub bytes: Vec<u8>,
    pub hole_offset: u16,
    pub apply: bool,
}

pub struct Block {
    pub id: u8,
    pub rel: RelTag,
    pub block: u32,
    pub will_init: bool,
    pub image: Option<Image>,
    pub data: Vec<u8>,
}

pub struct Record {
    pub rmid: u8,
    pub info: u8,
    pub xid: u32,
    pub blocks: Vec<Block>,
    pub main: Vec<u8>,
}

impl Record {
    pub fn new(rmid: u8, info: u8, xid: u32, main: impl Into<Vec<u8>>) -> Record {
        Record {
            rmid,
            info,
            xid,
            blocks: Vec::new(),
            main: main.into(),
        }
    }

    pub fn on(self, id: u8, rel: RelTag, block: u32, data: impl Into<Vec<u8>>) -> Record {
        self.with(Block {
            id,
            rel,
            block,
            will_init: false,
            image: None,
            data: data.into(),
        })
    }

    pub fn init(self, id: u8, rel: RelTag, block: u32, data: impl Into<Vec<u8>>) -> Record {
        self.with(Block {
            id,
            rel,
            block,
            will_init: true,
            image: None,
            data: data.into(),
        })
    }

    pub fn with(mut self, block: Block) -> Record {
        self.blocks.push(block);
        self
    }

    /// The raw bytes, laid out for versions from 15 on (14 if there is no image). The CRC is 0.
    pub fn build(&self) -> Vec<u8> {
        let mut head: Vec<u8> = Vec::new();
        let mut payload: Vec<u8> = Vec::new();
        for b in &self.blocks {
            let flags = b.rel.fork as u8
                | if b.image.is_some() { 0x10 } else { 0 }
                | if b.data.is_empty() { 0 } else { 0x20 }
                | if b.will_init { 0x40 } else { 0 };
            head.extend([b.id, flags]);
            head.extend((b.data.len() as u16).to_le_bytes());
            if let Some(i) = &b.image {
                let hole = i.bytes.len() < 8192;
                head.extend((i.bytes.len() as u16).to_le_bytes());
                head.extend(i.hole_offset.to_le_bytes());
                head.push(u8::from(hole) | if i.apply { 2 } else { 0 });
                payload.extend(&i.bytes);
            }
            for n in [b.rel.spc, b.rel.db, b.rel.rel, b.block] {
                head.extend(n.to_le_bytes());
            }
            payload.extend(&b.data);
        }
        if self.main.len() < 256 {
            head.extend([255, self.main.len() as u8]);
        } else {
            head.push(254);
            head.extend((self.main.len() as u32).to_le_bytes());
        }
        let total = 24 + head.len() + payload.len() + self.main.len();
        let mut raw = Vec::with_capacity(total);
        raw.extend((total as u32).to_le_bytes());
        raw.extend(self.xid.to_le_bytes());
        raw.extend([0; 8]);
        raw.extend([self.info, self.rmid, 0, 0, 0, 0, 0, 0]);
        raw.extend(head);
        raw.extend(payload);
        raw.extend(&self.main);
        raw
    }
}

/// Block data of a one-attribute heap tuple: header with `t_hoff` 24, padding, `data`.
pub fn tuple(infomask2: u16, infomask: u16, data: &[u8]) -> Vec<u8> {
    let mut v = Vec::new();
    v.extend(infomask2.to_le_bytes());
    v.extend(infomask.to_le_bytes());
    v.push(24);
    v.push(0);
    v.extend(data);
    v
}

/// Heap INSERT at `off`.
pub fn insert(xid: u32, block: u32, off: u16, data: &[u8]) -> Record {
    let [a, b] = off.to_le_bytes();
    let info = if off == 1 { 0x80 } else { 0 };
    let rec = Record::new(HEAP, info, xid, [a, b, 0]);
    let data = tuple(1, 0x0800, data);
    if off == 1 {
        rec.init(0, REL, block, data)
    } else {
        rec.on(0, REL, block, data)
    }
}

/// Main data of a vanilla DELETE, LOCK or LOCK_UPDATED.
pub fn change(xmax: u32, off: u16, infobits: u8, flags: u8) -> Vec<u8> {
    let mut v = xmax.to_le_bytes().to_vec();
    v.extend(off.to_le_bytes());
    v.extend([infobits, flags]);
    v
}

/// Main data of a vanilla UPDATE.
pub fn update(old: Vec<u8>, new_xmax: u32, new_off: u16) -> Vec<u8> {
    let mut v = old;
    v.extend(new_xmax.to_le_bytes());
    v.extend(new_off.to_le_bytes());
    v
}
