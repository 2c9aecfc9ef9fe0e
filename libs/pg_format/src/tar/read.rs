//! A streaming parser of archives.

use super::{BLOCK, CHECKSUM_AT, CHECKSUM_LEN, checksum};
use crate::le::get;

/// What an archive can be wrong about. Offsets count bytes of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header's checksum does not match, or the header is none.
    #[error("tar header at {at}: checksum {found:?}, computed {computed}")]
    Checksum {
        /// Offset of the header.
        at: u64,
        /// The stored one, if it is a number.
        found: Option<u64>,
        /// The right one.
        computed: u32,
    },
    /// A header's magic is not `ustar`.
    #[error("tar header at {0} is not in ustar format")]
    Magic(u64),
    /// A header field is not a number, or too large.
    #[error("tar header at {at}: field {field} is malformed")]
    Field {
        /// Offset of the header.
        at: u64,
        /// Field name.
        field: &'static str,
    },
    /// A path is absolute, leads upwards, or is not UTF-8.
    #[error("tar header at {at}: path {path:?} is not relative text")]
    Path {
        /// Offset of the header.
        at: u64,
        /// The path, made printable.
        path: String,
    },
    /// Something follows the end of the archive.
    #[error("data at {0} behind the end of the archive")]
    Trailing(u64),
    /// The input ends inside a header or an entry.
    #[error("archive ends at {at} with {missing} bytes missing")]
    Truncated {
        /// Length of the input.
        at: u64,
        /// Bytes of the entry (with padding) or header that did not come.
        missing: u64,
    },
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target; base backups link tablespaces this way.
    Symlink(String),
    /// A hard link to this target.
    Link(String),
    /// Any other type byte: devices, pax and GNU extensions. Their data is delivered too.
    Other(u8),
}

/// One entry's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Relative path without leading `./` and trailing slash; empty for the archive's root.
    pub path: String,
    /// Bytes of data that follow.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Modification time, seconds since 1970.
    pub mtime: u64,
}

/// A step of the archive. Each `Entry` is followed by `Data` until its size is reached, then by
/// `EntryEnd`; `ArchiveEnd` comes at the first zero block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// An entry begins.
    Entry(Entry),
    /// Data of the current entry; never empty.
    Data(&'a [u8]),
    /// The current entry's data is complete.
    EntryEnd,
    /// The end marker has begun. Only zeros may follow.
    ArchiveEnd,
}

/// How an archive ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With at least two zero blocks and a whole number of blocks.
    Marked,
    /// With an incomplete end marker.
    Partial,
    /// Right after an entry, as archives of Postgres 14 do.
    Missing,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data { left: u64, padding: u64 },
    Padding { left: u64 },
    Trailer { zeros: u64 },
}

/// Splits an archive that arrives in pieces of any size. Buffers at most one block.
#[derive(Clone, Debug)]
pub struct Parser {
    state: State,
    block: [u8; BLOCK],
    filled: usize,
    position: u64,
}

impl Default for Parser {
    fn default() -> Self {
        Parser::new()
    }
}

impl Parser {
    /// At the start of an archive.
    pub const fn new() -> Parser {
        Parser {
            state: State::Header,
            block: [0; BLOCK],
            filled: 0,
            position: 0,
        }
    }

    /// Bytes consumed so far.
    pub const fn position(&self) -> u64 {
        self.position
    }

    fn consume<'a>(&mut self, input: &mut &'a [u8], most: u64) -> &'a [u8] {
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
        let (now, later) = input.split_at(n);
        *input = later;
        self.position += n as u64;
        now
    }

    /// The next event, taking what it needs off the front of `input`. `None` when all of
    /// `input` was taken and more is needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        loop {
            match self.state {
                State::Data { left: 0, padding } => {
                    self.state = State::Padding { left: padding };
                    return Ok(Some(Event::EntryEnd));
                }
                State::Padding { left: 0 } => self.state = State::Header,
                _ if input.is_empty() => return Ok(None),
                State::Data { left, padding } => {
                    let data = self.consume(input, left);
                    self.state = State::Data {
                        left: left - data.len() as u64,
                        padding,
                    };
                    return Ok(Some(Event::Data(data)));
                }
                State::Padding { left } => {
                    let skipped = self.consume(input, left).len() as u64;
                    self.state = State::Padding {
                        left: left - skipped,
                    };
                }
                State::Trailer { zeros } => {
                    let at = self.position;
                    let rest = self.consume(input, u64::MAX);
                    if let Some(n) = rest.iter().position(|b| *b != 0) {
                        return Err(Error::Trailing(at + n as u64));
                    }
                    self.state = State::Trailer {
                        zeros: zeros + rest.len() as u64,
                    };
                }
                State::Header => {
                    let part = self.consume(input, (BLOCK - self.filled) as u64);
                    for (to, from) in self.block.iter_mut().skip(self.filled).zip(part) {
                        *to = *from;
                    }
                    self.filled += part.len();
                    if self.filled == BLOCK {
                        self.filled = 0;
                        return self.block_complete().map(Some);
                    }
                }
            }
        }
    }

    fn block_complete<'a>(&mut self) -> Result<Event<'a>, Error> {
        if self.block == [0; BLOCK] {
            self.state = State::Trailer {
                zeros: BLOCK as u64,
            };
            return Ok(Event::ArchiveEnd);
        }
        let entry = parse_header(&self.block, self.position - BLOCK as u64)?;
        let padding = super::padding(entry.size) as u64;
        self.state = State::Data {
            left: entry.size,
            padding,
        };
        Ok(Event::Entry(entry))
    }

    /// Call when the input has ended. Fails if it ended inside a header or an entry.
    pub const fn finish(&self) -> Result<Ending, Error> {
        let missing = match self.state {
            State::Header if self.filled == 0 => return Ok(Ending::Missing),
            State::Header => (BLOCK - self.filled) as u64,
            State::Data { left, padding } => left.saturating_add(padding),
            State::Padding { left: 0 } => return Ok(Ending::Missing),
            State::Padding { left } => left,
            State::Trailer { zeros } => {
                let block = BLOCK as u64;
                let whole = zeros >= 2 * block && zeros.is_multiple_of(block);
                return Ok(if whole {
                    Ending::Marked
                } else {
                    Ending::Partial
                });
            }
        };
        Err(Error::Truncated {
            at: self.position,
            missing,
        })
    }
}

/// The bytes before the first NUL.
fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number in octal (leading spaces, ended by NUL, space or the field) or, marked by the top
/// bit, big-endian in base 256.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The second bit marks negative numbers, which nothing here can have.
        if first & 0x40 != 0 {
            return None;
        }
        return rest.iter().try_fold(u64::from(first & 0x3F), |n, b| {
            n.checked_mul(256)
                .filter(|n| *n <= i64::MAX as u64)
                .map(|n| n | u64::from(*b))
        });
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8).map(|n| n | u64::from(b - b'0')),
        _ => None,
    })
}

fn parse_header(b: &[u8; BLOCK], at: u64) -> Result<Entry, Error> {
    let computed = checksum(b);
    let found = number(&get::<CHECKSUM_AT, CHECKSUM_LEN, _>(b));
    if found != Some(u64::from(computed)) {
        return Err(Error::Checksum {
            at,
            found,
            computed,
        });
    }
    let magic = get::<257, 6, _>(b);
    let posix = magic == *b"ustar\0";
    if !posix && magic != *b"ustar " {
        return Err(Error::Magic(at));
    }
    let size = number(&get::<124, 12, _>(b)).filter(|n| *n <= i64::MAX as u64 - BLOCK as u64);
    let size = size.ok_or(Error::Field { at, field: "size" })?;
    let mtime = number(&get::<136, 12, _>(b)).ok_or(Error::Field { at, field: "mtime" })?;

    let name = get::<0, 100, _>(b);
    let prefix = get::<345, 155, _>(b);
    let mut path = Vec::with_capacity(256);
    if posix && prefix.first() != Some(&0) {
        path.extend_from_slice(until_nul(&prefix));
        path.push(b'/');
    }
    path.extend_from_slice(until_nul(&name));
    let bad_path = |p: &[u8]| Error::Path {
        at,
        path: String::from_utf8_lossy(p).into_owned(),
    };
    let text = str::from_utf8(&path).map_err(|_| bad_path(&path))?;
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(bad_path(&path));
    }
    let parts: Vec<_> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    let path = parts.join("/");

    let target = get::<157, 100, _>(b);
    let target = || {
        let t = until_nul(&target);
        str::from_utf8(t)
            .map(str::to_owned)
            .map_err(|_| bad_path(t))
    };
    let [kind] = get::<156, 1, _>(b);
    let kind = match kind {
        0 | b'0' => Kind::File,
        b'5' => Kind::Directory,
        b'2' => Kind::Symlink(target()?),
        b'1' => Kind::Link(target()?),
        other => Kind::Other(other),
    };
    // Links and directories have no data, whatever some writers put into the size.
    let size = match kind {
        Kind::File | Kind::Other(_) => size,
        Kind::Directory | Kind::Symlink(_) | Kind::Link(_) => 0,
    };
    Ok(Entry {
        path,
        size,
        kind,
        mtime,
    })
}
