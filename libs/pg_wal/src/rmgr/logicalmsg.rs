//! Logical messages (`replication/message.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::PgMajor;

/// A logical message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Prefix without its NUL.
    pub prefix: &'a [u8],
    /// Content.
    pub content: &'a [u8],
}

impl<'a> Message<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Message<'a>, Error> {
        const WHAT: &str = "logical message";
        if rec.op() != 0 {
            return Err(opcode::unknown(&rec.header, version));
        }
        let mut c = Cursor::new(rec.main, WHAT);
        // Database, transactional flag with its padding.
        c.skip(8)?;
        let prefix_len = usize::try_from(c.u64()?).unwrap_or(usize::MAX);
        let content_len = usize::try_from(c.u64()?).unwrap_or(usize::MAX);
        let [prefix @ .., 0] = c.take(prefix_len)? else {
            return Err(Error::Invalid {
                what: WHAT,
                at: 8,
                rule: "the prefix is not terminated",
                value: i64::try_from(prefix_len).unwrap_or(i64::MAX),
            });
        };
        Ok(Message {
            prefix,
            content: c.take(content_len)?,
        })
    }
}
