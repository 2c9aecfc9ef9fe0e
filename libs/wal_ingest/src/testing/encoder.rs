//! Builds WAL records byte by byte (`docs/format/wal.md`, "Record").

use pg_wal::record::HEADER_SIZE;
use types::{BlockNumber, PAGE_SIZE, PgMajor, RelTag};

struct Block {
    id: u8,
    rel: RelTag,
    block: BlockNumber,
    init: bool,
    data: Vec<u8>,
    image: Option<Image>,
}

struct Image {
    data: Vec<u8>,
    hole_offset: u16,
    apply: bool,
}

/// A record under construction.
pub struct RecordBuilder {
    version: PgMajor,
    rmid: u8,
    info: u8,
    xid: u32,
    origin: Option<u16>,
    blocks: Vec<Block>,
    main: Vec<u8>,
}

impl RecordBuilder {
    /// A record without transaction, blocks or data.
    pub fn new(version: PgMajor, rmid: u8, info: u8) -> Self {
        RecordBuilder {
            version,
            rmid,
            info,
            xid: 0,
            origin: None,
            blocks: Vec::new(),
            main: Vec::new(),
        }
    }

    /// Sets the transaction.
    pub fn xid(mut self, xid: u32) -> Self {
        self.xid = xid;
        self
    }

    /// Sets the replication origin.
    pub fn origin(mut self, id: u16) -> Self {
        self.origin = Some(id);
        self
    }

    /// Appends to the main data.
    pub fn main(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.main.extend_from_slice(bytes.as_ref());
        self
    }

    /// Appends little-endian u32s to the main data.
    pub fn main_u32(self, words: impl IntoIterator<Item = u32>) -> Self {
        words.into_iter().fold(self, |b, w| b.main(w.to_le_bytes()))
    }

    /// Adds a block reference. Ids must ascend.
    pub fn block(mut self, id: u8, rel: RelTag, block: BlockNumber) -> Self {
        self.blocks.push(Block {
            id,
            rel,
            block,
            init: false,
            data: Vec::new(),
            image: None,
        });
        self
    }

    /// The last block is rebuilt from zeros.
    pub fn init(mut self) -> Self {
        if let Some(b) = self.blocks.last_mut() {
            b.init = true;
        }
        self
    }

    /// Data of the last block.
    pub fn data(mut self, bytes: impl AsRef<[u8]>) -> Self {
        if let Some(b) = self.blocks.last_mut() {
            b.data = bytes.as_ref().to_vec();
        }
        self
    }

    /// An uncompressed image of the last block without `hole` (offset, length).
    pub fn image(mut self, page: &[u8; PAGE_SIZE], hole: Option<(u16, u16)>, apply: bool) -> Self {
        let (offset, length) = hole.unwrap_or((0, 0));
        let cut = usize::from(offset)..usize::from(offset) + usize::from(length);
        let kept = page
            .iter()
            .enumerate()
            .filter(|(i, _)| !cut.contains(i))
            .map(|(_, b)| *b);
        let image = Image {
            data: kept.collect(),
            hole_offset: offset,
            apply,
        };
        if let Some(b) = self.blocks.last_mut() {
            b.image = Some(image);
        }
        self
    }

    /// The record's bytes, with a valid CRC.
    pub fn build(self) -> Vec<u8> {
        let mut head = Vec::new();
        let mut payload = Vec::new();
        let le16 = |n: usize| (n as u16).to_le_bytes();
        for b in &self.blocks {
            let flags = b.rel.fork as u8
                | if b.image.is_some() { 0x10 } else { 0 }
                | if b.data.is_empty() { 0 } else { 0x20 }
                | if b.init { 0x40 } else { 0 };
            head.extend([b.id, flags]);
            head.extend(le16(b.data.len()));
            if let Some(i) = &b.image {
                let apply = if self.version == PgMajor::V14 {
                    0x04
                } else {
                    0x02
                };
                let hole = i.data.len() < PAGE_SIZE && !i.data.is_empty();
                head.extend(le16(i.data.len()));
                head.extend(i.hole_offset.to_le_bytes());
                head.push(u8::from(hole) | if i.apply { apply } else { 0 });
                payload.extend_from_slice(&i.data);
            }
            for n in [b.rel.spc, b.rel.db, b.rel.rel, b.block] {
                head.extend(n.to_le_bytes());
            }
            payload.extend_from_slice(&b.data);
        }
        if let Some(id) = self.origin {
            head.push(253);
            head.extend(id.to_le_bytes());
        }
        match self.main.len() {
            0 => {}
            n @ 1..=255 => head.extend([255, n as u8]),
            n => {
                head.push(254);
                head.extend((n as u32).to_le_bytes());
            }
        }
        payload.extend_from_slice(&self.main);
        let total = HEADER_SIZE + head.len() + payload.len();
        let mut fixed = Vec::with_capacity(total);
        fixed.extend((total as u32).to_le_bytes());
        fixed.extend(self.xid.to_le_bytes());
        fixed.extend(0u64.to_le_bytes());
        fixed.extend([self.info, self.rmid, 0, 0]);
        let body = [head, payload].concat();
        let crc = types::crc32c::append(types::crc32c::of(&body), &fixed);
        fixed.extend(crc.to_le_bytes());
        fixed.extend(body);
        fixed
    }
}
