//! Values: what a delta layer holds for a (key, LSN) (`docs/format/values.md`).

use crate::be::{self, Reader};
use bytes::{BufMut, Bytes};

/// A value or a change to one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// The whole value; nothing older is needed.
    Image(Bytes),
    /// A change to be replayed on the previous version.
    WalRecord(WalRecord),
}

/// A change to a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalRecord {
    /// A complete Postgres WAL record (header, fragments, data; without page headers or padding).
    Postgres {
        /// The record, or the image it carries, rebuilds the page from nothing.
        will_init: bool,
        /// The record.
        rec: Bytes,
    },
    /// Clear visibility-map bits of up to two heap blocks.
    ClearVisibilityMapFlags {
        /// Heap block of the new tuple version.
        new_heap_block: Option<u32>,
        /// Heap block of the old tuple version.
        old_heap_block: Option<u32>,
        /// Bits to clear: 1 all-visible, 2 all-frozen.
        flags: u8,
    },
    /// Mark transactions committed in a clog page.
    ClogSetCommitted {
        /// The transactions, all on the key's page.
        xids: Vec<u32>,
        /// Commit time, microseconds since 2000-01-01.
        timestamp: i64,
    },
    /// Mark transactions aborted in a clog page.
    ClogSetAborted {
        /// The transactions, all on the key's page.
        xids: Vec<u32>,
    },
    /// Write a multixact's member offset.
    MultixactOffsetCreate {
        /// The multixact.
        mid: u32,
        /// Its first member's offset.
        moff: u32,
    },
    /// Write a multixact's members.
    MultixactMembersCreate {
        /// Offset of the first member.
        moff: u32,
        /// (xid, status) of each.
        members: Vec<(u32, u32)>,
    },
    /// Obsolete aux file change; read, never written.
    AuxFile {
        /// Path.
        path: String,
        /// Content, `None` when removed.
        content: Option<Bytes>,
    },
    /// Clear the tail of a visibility-map page.
    TruncateVisibilityMap {
        /// Map byte that is kept in part.
        trunc_byte: u64,
        /// Bits of that byte that are kept.
        trunc_offs: u64,
    },
}

const TAG_IMAGE: u32 = 0;
const TAG_RECORD: u32 = 1;

impl Value {
    /// True if reconstruction needs nothing older than this value.
    pub const fn is_init(&self) -> bool {
        matches!(
            self,
            Value::Image(_)
                | Value::WalRecord(WalRecord::Postgres {
                    will_init: true,
                    ..
                })
        )
    }

    /// Appends the serialized form.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Value::Image(img) => encode_image(out, img),
            Value::WalRecord(WalRecord::Postgres { will_init, rec }) => {
                encode_postgres(out, *will_init, rec);
            }
            Value::WalRecord(rec) => {
                out.put_u32(TAG_RECORD);
                encode_internal(out, rec);
            }
        }
    }

    /// The serialized form as a new buffer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut v = Vec::new();
        self.encode(&mut v);
        v
    }

    /// Decodes a complete serialized value; `buf` is shared, not copied.
    pub fn decode(buf: &Bytes) -> Result<Value, be::Error> {
        let mut r = Reader::new(buf);
        let at = r.position();
        let value = match r.u32()? {
            TAG_IMAGE => Value::Image(buf.slice_ref(r.bytes()?)),
            TAG_RECORD => Value::WalRecord(decode_record(buf, &mut r)?),
            v => {
                return Err(be::Error::Invalid {
                    at,
                    what: "value tag",
                    value: u64::from(v),
                });
            }
        };
        r.finish()?;
        Ok(value)
    }

    /// Reads [`Value::is_init`] off a serialized value without decoding it all.
    pub fn peek_init(buf: &[u8]) -> Result<bool, be::Error> {
        let mut r = Reader::new(buf);
        match r.u32()? {
            TAG_IMAGE => Ok(true),
            TAG_RECORD => Ok(r.u32()? == 0 && r.bool("will_init")?),
            v => Err(be::Error::Invalid {
                at: 0,
                what: "value tag",
                value: u64::from(v),
            }),
        }
    }
}

/// True if a serialized value is an image.
pub fn is_image(value: &[u8]) -> bool {
    value.starts_with(&TAG_IMAGE.to_be_bytes())
}

/// Appends a serialized image value.
pub fn encode_image(out: &mut impl BufMut, image: &[u8]) {
    out.put_u32(TAG_IMAGE);
    be::put_bytes(out, image);
}

/// Appends a serialized Postgres record value.
pub fn encode_postgres(out: &mut impl BufMut, will_init: bool, rec: &[u8]) {
    out.put_u32(TAG_RECORD);
    out.put_u32(0);
    out.put_u8(u8::from(will_init));
    be::put_bytes(out, rec);
}

fn put_xids(out: &mut impl BufMut, xids: &[u32]) {
    out.put_u64(xids.len() as u64);
    xids.iter().for_each(|x| out.put_u32(*x));
}

fn encode_internal(out: &mut impl BufMut, rec: &WalRecord) {
    match rec {
        WalRecord::Postgres { will_init, rec } => {
            out.put_u32(0);
            out.put_u8(u8::from(*will_init));
            be::put_bytes(out, rec);
        }
        WalRecord::ClearVisibilityMapFlags {
            new_heap_block,
            old_heap_block,
            flags,
        } => {
            out.put_u32(1);
            be::put_opt_u32(out, *new_heap_block);
            be::put_opt_u32(out, *old_heap_block);
            out.put_u8(*flags);
        }
        WalRecord::ClogSetCommitted { xids, timestamp } => {
            out.put_u32(2);
            put_xids(out, xids);
            out.put_i64(*timestamp);
        }
        WalRecord::ClogSetAborted { xids } => {
            out.put_u32(3);
            put_xids(out, xids);
        }
        WalRecord::MultixactOffsetCreate { mid, moff } => {
            out.put_u32(4);
            out.put_u32(*mid);
            out.put_u32(*moff);
        }
        WalRecord::MultixactMembersCreate { moff, members } => {
            out.put_u32(5);
            out.put_u32(*moff);
            out.put_u64(members.len() as u64);
            for (xid, status) in members {
                out.put_u32(*xid);
                out.put_u32(*status);
            }
        }
        WalRecord::AuxFile { path, content } => {
            out.put_u32(6);
            be::put_bytes(out, path.as_bytes());
            match content {
                None => out.put_u8(0),
                Some(c) => {
                    out.put_u8(1);
                    be::put_bytes(out, c);
                }
            }
        }
        WalRecord::TruncateVisibilityMap {
            trunc_byte,
            trunc_offs,
        } => {
            out.put_u32(7);
            out.put_u64(*trunc_byte);
            out.put_u64(*trunc_offs);
        }
    }
}

fn decode_record(buf: &Bytes, r: &mut Reader<'_>) -> Result<WalRecord, be::Error> {
    let at = r.position();
    Ok(match r.u32()? {
        0 => WalRecord::Postgres {
            will_init: r.bool("will_init")?,
            rec: buf.slice_ref(r.bytes()?),
        },
        1 => WalRecord::ClearVisibilityMapFlags {
            new_heap_block: r.opt_u32("new heap block")?,
            old_heap_block: r.opt_u32("old heap block")?,
            flags: r.u8()?,
        },
        2 => WalRecord::ClogSetCommitted {
            xids: xids(r)?,
            timestamp: r.i64()?,
        },
        3 => WalRecord::ClogSetAborted { xids: xids(r)? },
        4 => WalRecord::MultixactOffsetCreate {
            mid: r.u32()?,
            moff: r.u32()?,
        },
        5 => {
            let moff = r.u32()?;
            let n = r.count(8)?;
            let members = (0..n)
                .map(|_| Ok((r.u32()?, r.u32()?)))
                .collect::<Result<_, be::Error>>()?;
            WalRecord::MultixactMembersCreate { moff, members }
        }
        6 => {
            let at = r.position();
            let path = std::str::from_utf8(r.bytes()?)
                .map_err(|e| be::Error::Invalid {
                    at,
                    what: "aux file path",
                    value: e.valid_up_to() as u64,
                })?
                .to_owned();
            let content = if r.bool("aux file content")? {
                Some(buf.slice_ref(r.bytes()?))
            } else {
                None
            };
            WalRecord::AuxFile { path, content }
        }
        7 => WalRecord::TruncateVisibilityMap {
            trunc_byte: r.u64()?,
            trunc_offs: r.u64()?,
        },
        v => {
            return Err(be::Error::Invalid {
                at,
                what: "record tag",
                value: u64::from(v),
            });
        }
    })
}

fn xids(r: &mut Reader<'_>) -> Result<Vec<u32>, be::Error> {
    let n = r.count(4)?;
    (0..n).map(|_| r.u32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: Value, hex_text: &str) {
        let want = hex::decode(hex_text.replace(' ', "")).unwrap();
        assert_eq!(value.to_bytes(), want);
        assert_eq!(Value::decode(&Bytes::from(want.clone())).unwrap(), value);
        assert_eq!(Value::peek_init(&want).unwrap(), value.is_init());
    }

    #[test]
    fn published_vectors() {
        let rec = WalRecord::Postgres {
            will_init: true,
            rec: Bytes::from_static(b"foobar"),
        };
        check(
            Value::Image(Bytes::from_static(b"foobar")),
            "00000000 0000000000000006 666f6f626172",
        );
        check(
            Value::WalRecord(rec),
            "00000001 00000000 01 0000000000000006 666f6f626172",
        );
        let w = Value::WalRecord;
        check(
            w(WalRecord::ClearVisibilityMapFlags {
                new_heap_block: Some(0x11),
                old_heap_block: None,
                flags: 3,
            }),
            "00000001 00000001 01 00000011 00 03",
        );
        check(
            w(WalRecord::ClogSetCommitted {
                xids: vec![7, 8],
                timestamp: -1,
            }),
            "00000001 00000002 0000000000000002 00000007 00000008 ffffffffffffffff",
        );
        check(
            w(WalRecord::ClogSetAborted { xids: vec![9] }),
            "00000001 00000003 0000000000000001 00000009",
        );
        check(
            w(WalRecord::MultixactOffsetCreate { mid: 1, moff: 2 }),
            "00000001 00000004 00000001 00000002",
        );
        check(
            w(WalRecord::MultixactMembersCreate {
                moff: 5,
                members: vec![(6, 1)],
            }),
            "00000001 00000005 00000005 0000000000000001 00000006 00000001",
        );
        check(
            w(WalRecord::AuxFile {
                path: "a/b".into(),
                content: Some(Bytes::from_static(b"z")),
            }),
            "00000001 00000006 0000000000000003 612f62 01 0000000000000001 7a",
        );
        check(
            w(WalRecord::AuxFile {
                path: "a/b".into(),
                content: None,
            }),
            "00000001 00000006 0000000000000003 612f62 00",
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let data = Bytes::from(data);
            if let Ok(v) = Value::decode(&data) {
                prop_assert_eq!(v.to_bytes(), data.to_vec());
            }
        }
    }
}
