//! Blobs: the stored values of a layer, a length header and the bytes, optionally one zstd frame.
//!
//! | first byte | header | meaning |
//! |---|---|---|
//! | `0xxxxxxx` | 1 byte | length below 128, plain |
//! | `1000xxxx` | u32 BE, low 28 bits | length, plain |
//! | `1001xxxx` | u32 BE, low 28 bits | length of a zstd frame |
//!
//! The index stores where a blob's header begins; the blob ends where the next one begins.

use bytes::{Buf, Bytes};
use std::cell::RefCell;
use std::fmt;
use std::io::Read;
use std::str::FromStr;
use zstd::zstd_safe;

/// Largest stored length in bytes, and largest length after decompression.
pub const MAX_LENGTH: usize = 0x0FFF_FFFF;
/// Bodies below this many bytes have the short header and are never compressed.
pub const SHORT_LENGTH: usize = 128;
/// Size of the long header in bytes.
pub const MAX_HEADER: usize = 4;
/// First attempt at decompressing: enough for any page, so that one call suffices.
const PAGE_GUESS: usize = 16 << 10;
/// Largest window a frame may ask for, as a power of two (zstd's own default).
const MAX_WINDOW_LOG: u32 = 27;

const LONG: u32 = 0x8000_0000;
const ZSTD: u32 = 0x1000_0000;
const KIND_MASK: u8 = 0xF0;

/// A blob cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header's first byte is reserved.
    #[error("blob header begins with reserved byte {0:#04x}")]
    Reserved(u8),
    /// The extent ends inside the blob.
    #[error("blob needs {needed} bytes, its extent has {have}")]
    Truncated {
        /// Header and body, in bytes.
        needed: usize,
        /// Size of the extent.
        have: usize,
    },
    /// Longer than [`MAX_LENGTH`].
    #[error("blob is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// The zstd frame is damaged.
    #[error("blob holds no valid zstd frame: {0}")]
    Zstd(String),
}

/// Whether values are compressed when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Stored as they are.
    #[default]
    Disabled,
    /// zstd at a level; 0 is the library's default level.
    Zstd {
        /// Level as the library counts it.
        level: i32,
    },
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Disabled => f.write_str("disabled"),
            Compression::Zstd { level: 0 } => f.write_str("zstd"),
            Compression::Zstd { level } => write!(f, "zstd({level})"),
        }
    }
}

/// A text is not a compression setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid compression {0:?}: expected `disabled`, `zstd` or `zstd(<level>)`")]
pub struct CompressionError(String);

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fail = || CompressionError(s.chars().take(64).collect());
        match s {
            "disabled" => Ok(Compression::Disabled),
            "zstd" => Ok(Compression::Zstd { level: 0 }),
            _ => {
                let level = s
                    .strip_prefix("zstd(")
                    .and_then(|t| t.strip_suffix(')'))
                    .ok_or_else(fail)?;
                let level: i32 = level.parse().map_err(|_| fail())?;
                if !zstd::compression_level_range().contains(&level) {
                    return Err(fail());
                }
                Ok(Compression::Zstd { level })
            }
        }
    }
}

/// Writes blobs; keeps one compression context and scratch buffer.
pub struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("compresses", &self.zstd.is_some())
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder for one setting.
    pub fn new(compression: Compression) -> Result<Encoder, Error> {
        let zstd = match compression {
            Compression::Disabled => None,
            Compression::Zstd { level } => {
                Some(zstd::bulk::Compressor::new(level).map_err(zstd_error)?)
            }
        };
        Ok(Encoder {
            zstd,
            scratch: Vec::new(),
        })
    }

    /// Appends the blob of `body` to `out`. Compressed only if strictly smaller.
    pub fn encode(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if body.len() < SHORT_LENGTH {
            out.push(u8::try_from(body.len()).map_err(|_| Error::TooLong)?);
            out.extend_from_slice(body);
            return Ok(());
        }
        if body.len() > MAX_LENGTH {
            return Err(Error::TooLong);
        }
        if let Some(zstd) = &mut self.zstd {
            self.scratch.clear();
            self.scratch.reserve(zstd_safe::compress_bound(body.len()));
            zstd.compress_to_buffer(body, &mut self.scratch)
                .map_err(zstd_error)?;
            if self.scratch.len() < body.len() {
                return put_long(&self.scratch, LONG | ZSTD, out);
            }
        }
        put_long(body, LONG, out)
    }
}

fn put_long(stored: &[u8], kind: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let len = u32::try_from(stored.len()).map_err(|_| Error::TooLong)?;
    out.extend_from_slice(&(len | kind).to_be_bytes());
    out.extend_from_slice(stored);
    Ok(())
}

/// What a blob's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header: 1 or 4.
    pub size: usize,
    /// Bytes stored behind it.
    pub length: usize,
    /// The stored bytes are a zstd frame.
    pub compressed: bool,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Header, Error> {
        let Some(first) = bytes.first() else {
            return Err(Error::Truncated { needed: 1, have: 0 });
        };
        if first & 0x80 == 0 {
            return Ok(Header {
                size: 1,
                length: usize::from(*first),
                compressed: false,
            });
        }
        let compressed = match first & KIND_MASK {
            0x80 => false,
            0x90 => true,
            _ => return Err(Error::Reserved(*first)),
        };
        let word = bytes.first_chunk::<MAX_HEADER>().ok_or(Error::Truncated {
            needed: MAX_HEADER,
            have: bytes.len(),
        })?;
        let length = (u32::from_be_bytes(*word) & !(LONG | ZSTD)) as usize;
        Ok(Header {
            size: MAX_HEADER,
            length,
            compressed,
        })
    }

    /// The stored bytes within the blob's extent. Bytes behind them are not looked at: the extent
    /// of the last blob includes the padding in front of the index.
    pub fn body<'a>(&self, extent: &'a [u8]) -> Result<&'a [u8], Error> {
        let needed = self.size + self.length;
        extent.get(self.size..needed).ok_or(Error::Truncated {
            needed,
            have: extent.len(),
        })
    }
}

thread_local! {
    static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decodes the blob in `extent`; shares the buffer if it is not compressed.
pub fn decode(extent: &Bytes) -> Result<Bytes, Error> {
    let header = Header::decode(extent)?;
    let body = header.body(extent)?;
    if header.compressed {
        inflate(body).map(Bytes::from)
    } else {
        Ok(extent.slice_ref(body))
    }
}

/// As [`decode`] for whoever needs the extent no more: nothing is counted or allocated for a blob
/// that is not compressed.
pub fn decode_owned(mut extent: Bytes) -> Result<Bytes, Error> {
    let header = Header::decode(&extent)?;
    let body = header.body(&extent)?;
    if header.compressed {
        return inflate(body).map(Bytes::from);
    }
    extent.advance(header.size);
    extent.truncate(header.length);
    Ok(extent)
}

/// Decodes the blob in `extent` to the end of `out`; for callers that own no shared buffer.
pub fn decode_to(extent: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let header = Header::decode(extent)?;
    let body = header.body(extent)?;
    if header.compressed {
        out.extend_from_slice(&inflate(body)?);
    } else {
        out.extend_from_slice(body);
    }
    Ok(())
}

fn zstd_error(e: std::io::Error) -> Error {
    Error::Zstd(e.to_string())
}

/// Decompresses one frame. Memory grows with what comes out, never with what a header promises.
fn inflate(frame: &[u8]) -> Result<Vec<u8>, Error> {
    let size = zstd_safe::find_frame_compressed_size(frame)
        .map_err(|code| Error::Zstd(zstd_safe::get_error_name(code).to_owned()))?;
    if size != frame.len() {
        return Err(Error::Zstd(format!(
            "frame of {size} bytes in {} stored bytes",
            frame.len()
        )));
    }
    let promised = zstd_safe::get_frame_content_size(frame)
        .map_err(|_| Error::Zstd("frame header is damaged".to_owned()))?;
    if promised.is_some_and(|n| n > MAX_LENGTH as u64) {
        return Err(Error::TooLong);
    }
    let fits = promised.is_none_or(|n| n <= PAGE_GUESS as u64);
    if fits {
        let capacity = promised
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(PAGE_GUESS);
        let mut out = Vec::with_capacity(capacity);
        let done = CONTEXT.with_borrow_mut(|context| -> Result<(), std::io::Error> {
            let zstd = match context {
                Some(z) => z,
                None => context.insert(zstd::bulk::Decompressor::new()?),
            };
            zstd.decompress_to_buffer(frame, &mut out).map(|_| ())
        });
        match done {
            Ok(()) => return Ok(out),
            Err(e) if promised.is_some() => return Err(zstd_error(e)),
            // Larger than a page, or damaged: the stream decoder tells.
            Err(_) => {}
        }
    }
    let mut stream = zstd::stream::read::Decoder::with_buffer(frame)
        .map_err(zstd_error)?
        .single_frame();
    stream.window_log_max(MAX_WINDOW_LOG).map_err(zstd_error)?;
    let mut out = Vec::new();
    stream
        .take(MAX_LENGTH as u64 + 1)
        .read_to_end(&mut out)
        .map_err(zstd_error)?;
    if out.len() > MAX_LENGTH {
        return Err(Error::TooLong);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn encode(compression: Compression, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(compression)
            .unwrap()
            .encode(body, &mut out)
            .unwrap();
        out
    }

    #[test]
    fn headers_are_chosen_by_length() {
        assert_eq!(encode(Compression::Disabled, b""), [0]);
        assert_eq!(
            encode(Compression::Disabled, b"abcd"),
            [4, b'a', b'b', b'c', b'd']
        );
        assert_eq!(encode(Compression::Disabled, &[1; 127])[0], 127);
        assert_eq!(
            encode(Compression::Disabled, &[1; 128])[..5],
            [0x80, 0, 0, 128, 1]
        );
        assert_eq!(
            encode(Compression::Disabled, &[1; 8192])[..4],
            [0x80, 0, 0x20, 0]
        );
        let zeros = encode(Compression::Zstd { level: 1 }, &[0; 8192]);
        assert_eq!(zeros[0], 0x90);
        assert!(zeros.len() < 64);
        assert_eq!(encode(Compression::Zstd { level: 1 }, &[0; 127])[0], 127);
    }

    #[test]
    fn frames_without_content_size_decode_at_any_length() {
        for len in [200usize, 8192, 8200, 16 << 10, (16 << 10) + 1, 1 << 20] {
            let body: Vec<u8> = (0..len).map(|i| (i / 64) as u8).collect();
            let mut stream = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            stream.write_all(&body).unwrap();
            let frame = stream.finish().unwrap();
            let mut blob = (0x9000_0000u32 | u32::try_from(frame.len()).unwrap())
                .to_be_bytes()
                .to_vec();
            blob.extend_from_slice(&frame);
            blob.extend_from_slice(&[0; 100]);
            assert_eq!(decode(&Bytes::from(blob)).unwrap(), body);
        }
    }

    #[test]
    fn damaged_blobs_are_errors() {
        assert_eq!(
            decode(&Bytes::from_static(&[0xA0, 0, 0, 1, 0])),
            Err(Error::Reserved(0xA0))
        );
        assert!(matches!(
            decode(&Bytes::from_static(&[5, 0])),
            Err(Error::Truncated { needed: 6, have: 2 })
        ));
        assert!(matches!(
            decode(&Bytes::from_static(&[0x80, 0])),
            Err(Error::Truncated { .. })
        ));
        assert!(matches!(
            decode(&Bytes::new()),
            Err(Error::Truncated { .. })
        ));
        assert!(matches!(
            decode(&Bytes::from_static(&[0x90, 0, 0, 3, 1, 2, 3])),
            Err(Error::Zstd(_))
        ));
        let mut two = encode(Compression::Zstd { level: 1 }, &[0; 8192]);
        let frame = two[4..].to_vec();
        two.extend_from_slice(&frame);
        two[3] *= 2;
        assert!(matches!(decode(&Bytes::from(two)), Err(Error::Zstd(_))));
    }

    #[test]
    fn settings_have_a_text_form() {
        for (text, c) in [
            ("disabled", Compression::Disabled),
            ("zstd", Compression::Zstd { level: 0 }),
            ("zstd(3)", Compression::Zstd { level: 3 }),
        ] {
            assert_eq!(text.parse::<Compression>().unwrap(), c);
            assert_eq!(c.to_string(), text);
        }
        assert!("zstd(100)".parse::<Compression>().is_err());
        assert!("lz4".parse::<Compression>().is_err());
    }

    proptest! {
        #[test]
        fn values_round_trip(body in proptest::collection::vec(0u8..4, 0..10_000), level in 0i32..4) {
            let c = if level == 0 { Compression::Disabled } else { Compression::Zstd { level } };
            let blob = encode(c, &body);
            prop_assert_eq!(&decode(&Bytes::from(blob.clone())).unwrap()[..], &body[..]);
            let mut out = vec![9];
            decode_to(&blob, &mut out).unwrap();
            prop_assert_eq!(&out[1..], &body[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), force: bool) {
            if force && bytes.len() > 12 {
                let n = u32::try_from(bytes.len() - 4).unwrap();
                bytes[..4].copy_from_slice(&(0x9000_0000 | n).to_be_bytes());
                bytes[4..8].copy_from_slice(&0xFD2F_B528u32.to_le_bytes());
            }
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
