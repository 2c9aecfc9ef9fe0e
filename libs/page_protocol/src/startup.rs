//! Packets before the first typed message: encryption requests, cancel and startup. They have
//! no type byte: u32 length that counts itself, u32 code, the rest.

use crate::frame::put_cstr;
use bytes::{BufMut, BytesMut};

/// Smallest length field.
pub const MIN_LENGTH: usize = 8;
/// Largest length field, in bytes.
pub const MAX_LENGTH: usize = 10_000;
/// Code of a request for TLS.
pub const SSL_REQUEST: u32 = 0x04D2_162F;
/// Code of a request for GSSAPI encryption.
pub const GSS_REQUEST: u32 = 0x04D2_1630;
/// Code of a request to cancel a query.
pub const CANCEL_REQUEST: u32 = 0x04D2_162E;
/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// Upper half of all codes that are not protocol versions.
const REQUEST_MAJOR: u32 = 1234;
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Bytes that do not start a connection of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer speaks TLS without asking first.
    #[error("TLS handshake without a preceding SSLRequest")]
    DirectTls,
    /// The length is out of range: most likely another protocol.
    #[error("startup packet of {0} bytes, {MIN_LENGTH} to {MAX_LENGTH} expected")]
    Length(u32),
    /// A request code that is not served.
    #[error("unknown startup request {:#010x}", .0)]
    Code(u32),
    /// Parameters are not NUL-terminated pairs with a final NUL.
    #[error("startup parameters are not NUL-terminated pairs, after {0} parameters")]
    Parameters(usize),
    /// Parameters are not UTF-8.
    #[error("startup parameters are not UTF-8")]
    Utf8,
}

/// A packet of the startup phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The client would like TLS.
    Ssl,
    /// The client would like GSSAPI encryption.
    Gss,
    /// The client wants another connection's query cancelled; its secret is not kept.
    Cancel,
    /// The client starts.
    Startup(Startup),
}

/// What a client says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// Protocol version; not checked.
    pub version: u32,
    /// Parameters in the order sent.
    pub parameters: Vec<(String, String)>,
}

impl Packet {
    /// The packet at the start of `buf` and its size in bytes, or `None` if it is incomplete.
    pub fn decode(buf: &[u8]) -> Result<Option<(Packet, usize)>, Error> {
        if buf.first() == Some(&TLS_HANDSHAKE) {
            return Err(Error::DirectTls);
        }
        let Some(length) = buf.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)) else {
            return Ok(None);
        };
        let total = match usize::try_from(length) {
            Ok(n) if (MIN_LENGTH..=MAX_LENGTH).contains(&n) => n,
            _ => return Err(Error::Length(length)),
        };
        let Some(packet) = buf.get(4..total) else {
            return Ok(None);
        };
        let Some((code, body)) = packet.split_first_chunk::<4>() else {
            return Err(Error::Length(length));
        };
        let packet = match u32::from_be_bytes(*code) {
            SSL_REQUEST => Packet::Ssl,
            GSS_REQUEST => Packet::Gss,
            CANCEL_REQUEST => Packet::Cancel,
            code if code >> 16 == REQUEST_MAJOR => return Err(Error::Code(code)),
            version => Packet::Startup(Startup {
                version,
                parameters: parameters(body)?,
            }),
        };
        Ok(Some((packet, total)))
    }

    /// Appends the packet. A cancel request carries a zero process id and secret.
    pub fn encode(&self, buf: &mut BytesMut) {
        let at = buf.len();
        buf.put_u32(0);
        match self {
            Packet::Ssl => buf.put_u32(SSL_REQUEST),
            Packet::Gss => buf.put_u32(GSS_REQUEST),
            Packet::Cancel => {
                buf.put_u32(CANCEL_REQUEST);
                buf.put_u64(0);
            }
            Packet::Startup(startup) => {
                buf.put_u32(startup.version);
                for (name, value) in &startup.parameters {
                    put_cstr(buf, name);
                    put_cstr(buf, value);
                }
                buf.put_u8(0);
            }
        }
        let length = u32::try_from(buf.len().saturating_sub(at)).unwrap_or(u32::MAX);
        if let Some(field) = buf.get_mut(at..).and_then(|p| p.first_chunk_mut::<4>()) {
            *field = length.to_be_bytes();
        }
    }
}

fn parameters(body: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let text = std::str::from_utf8(body).map_err(|_| Error::Utf8)?;
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once('\0').ok_or(Error::Parameters(out.len()))?;
        if name.is_empty() {
            return if after.is_empty() {
                Ok(out)
            } else {
                Err(Error::Parameters(out.len()))
            };
        }
        let (value, after) = after.split_once('\0').ok_or(Error::Parameters(out.len()))?;
        out.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
}

impl Startup {
    /// Value of a parameter, if it was sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// `application_name`: the process id of a compute's backend, or the launcher's name.
    pub fn application_name(&self) -> Option<&str> {
        self.get("application_name")
    }

    /// Value of a `-c name=value` setting inside `options`. What is malformed ends the search.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.get("options")?.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("-c")? {
                "" => words.next()?,
                joined => joined,
            };
            let (key, value) = setting.split_once('=')?;
            if key == name {
                return Some(value);
            }
        }
        None
    }

    /// `neon.compute_mode` inside `options`: `primary`, `replica` or `static`.
    pub fn compute_mode(&self) -> Option<&str> {
        self.option("neon.compute_mode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(options: &str) -> Startup {
        Startup {
            version: PROTOCOL_3_0,
            parameters: vec![("options".into(), options.into())],
        }
    }

    #[test]
    fn options_are_read_up_to_the_first_malformed_item() {
        let mode = |options: &str| startup(options).compute_mode().map(str::to_owned);
        assert_eq!(mode("-c neon.compute_mode=primary"), Some("primary".into()));
        assert_eq!(
            mode("-cx=y  -cneon.compute_mode=static"),
            Some("static".into())
        );
        assert_eq!(mode("-c x -c neon.compute_mode=static"), None);
        assert_eq!(mode("--x -c neon.compute_mode=static"), None);
        assert_eq!(mode("-c"), None);
    }

    #[test]
    fn foreign_protocols_are_told_apart_from_short_input() {
        assert_eq!(
            Packet::decode(b"GET / HTTP/1.1\r\n"),
            Err(Error::Length(0x4745_5420))
        );
        assert_eq!(Packet::decode(&[0x16]), Err(Error::DirectTls));
        assert_eq!(Packet::decode(&[0, 0]), Ok(None));
        assert_eq!(
            Packet::decode(&[0, 0, 0, 7, 0, 0, 0, 0]),
            Err(Error::Length(7))
        );
        let unknown = [0, 0, 0, 8, 0x04, 0xD2, 0, 1];
        assert_eq!(Packet::decode(&unknown), Err(Error::Code(0x04D2_0001)));
        assert_eq!(
            Packet::decode(&[0, 0, 0, 9, 0, 3, 0, 0, 1]),
            Err(Error::Parameters(0))
        );
        assert_eq!(
            Packet::decode(&[0, 0, 0, 10, 0, 3, 0, 0, 0xFF, 0]),
            Err(Error::Utf8)
        );
        let bare = [0, 0, 0, 9, 0, 3, 0, 0, 0];
        let none = Startup {
            version: PROTOCOL_3_0,
            parameters: vec![],
        };
        assert_eq!(Packet::decode(&bare), Ok(Some((Packet::Startup(none), 9))));
    }
}
