//! Messages a client sends after startup. Only what the page service needs is told apart;
//! parameters and result formats of the extended protocol are skipped.

use crate::frame::{self, Error, Fields};
use bytes::{BufMut, BytesMut};

/// A message from the client; texts are without their terminating NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend<'a> {
    /// Run a command.
    Query(&'a [u8]),
    /// Remember a command.
    Parse(&'a [u8]),
    /// Describe the remembered command.
    Describe,
    /// Bind the remembered command to the unnamed portal.
    Bind,
    /// Run the remembered command.
    Execute,
    /// Forget a statement or portal.
    Close,
    /// End of a round of extended messages.
    Sync,
    /// The client leaves.
    Terminate,
    /// A chunk of a copy stream: one pagestream request.
    CopyData(&'a [u8]),
    /// End of a copy stream.
    CopyDone,
    /// Failed end of a copy stream.
    CopyFail(&'a [u8]),
    /// A password or token.
    Password(&'a [u8]),
}

/// Name of the message with this type byte, or `None` if it is not served.
pub const fn name(tag: u8) -> Option<&'static str> {
    Some(match tag {
        b'Q' => "Query",
        b'P' => "Parse",
        b'D' => "Describe",
        b'B' => "Bind",
        b'E' => "Execute",
        b'C' => "Close",
        b'S' => "Sync",
        b'X' => "Terminate",
        b'd' => "CopyData",
        b'c' => "CopyDone",
        b'f' => "CopyFail",
        b'p' => "PasswordMessage",
        _ => return None,
    })
}

impl<'a> Frontend<'a> {
    /// Decodes a body. Fails on types that are not served, truncated bodies, and the parts of
    /// the extended protocol that are not served: parameters, named portals, row limits,
    /// descriptions of portals.
    pub fn decode(tag: u8, body: &'a [u8]) -> Result<Frontend<'a>, Error> {
        let mut f = Fields::new(tag, body);
        let unsupported = |field| Err(Error::Field { tag, field });
        Ok(match tag {
            b'Q' => Frontend::Query(f.last_text()),
            b'P' => {
                f.cstr("statement")?;
                let text = f.cstr("query")?;
                if f.u16("parameter count")? != 0 {
                    return unsupported("parameter count");
                }
                Frontend::Parse(text)
            }
            b'D' => {
                if f.u8("kind")? != b'S' {
                    return unsupported("kind");
                }
                f.cstr("statement")?;
                Frontend::Describe
            }
            b'B' => {
                if !f.cstr("portal")?.is_empty() {
                    return unsupported("portal");
                }
                f.cstr("statement")?;
                Frontend::Bind
            }
            b'E' => {
                if !f.cstr("portal")?.is_empty() {
                    return unsupported("portal");
                }
                if f.u32("row limit")? != 0 {
                    return unsupported("row limit");
                }
                Frontend::Execute
            }
            b'C' => Frontend::Close,
            b'S' => Frontend::Sync,
            b'X' => Frontend::Terminate,
            b'd' => Frontend::CopyData(f.rest()),
            b'c' => Frontend::CopyDone,
            b'f' => Frontend::CopyFail(f.last_text()),
            b'p' => Frontend::Password(f.last_text()),
            _ => return Err(Error::Tag(tag)),
        })
    }

    /// Appends the message in the form a client sends it, with unnamed statement and portal.
    pub fn encode(&self, buf: &mut BytesMut) {
        match *self {
            Frontend::Query(text) => text_message(buf, b'Q', text),
            Frontend::Parse(text) => frame::put(buf, b'P', |b| {
                b.put_u8(0);
                b.put_slice(text);
                b.put_u8(0);
                b.put_u16(0);
            }),
            Frontend::Describe => frame::put(buf, b'D', |b| b.put_slice(b"S\0")),
            Frontend::Bind => frame::put(buf, b'B', |b| b.put_slice(&[0; 8])),
            Frontend::Execute => frame::put(buf, b'E', |b| b.put_slice(&[0; 5])),
            Frontend::Close => frame::put(buf, b'C', |b| b.put_slice(b"S\0")),
            Frontend::Sync => frame::put(buf, b'S', |_| {}),
            Frontend::Terminate => frame::put(buf, b'X', |_| {}),
            Frontend::CopyData(data) => frame::put(buf, b'd', |b| b.put_slice(data)),
            Frontend::CopyDone => frame::put(buf, b'c', |_| {}),
            Frontend::CopyFail(text) => text_message(buf, b'f', text),
            Frontend::Password(text) => text_message(buf, b'p', text),
        }
    }
}

fn text_message(buf: &mut BytesMut, tag: u8, text: &[u8]) {
    frame::put(buf, tag, |b| {
        b.put_slice(text);
        b.put_u8(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_a_round_trip() {
        let all = [
            Frontend::Query(b"set x"),
            Frontend::Parse(b"set x"),
            Frontend::Describe,
            Frontend::Bind,
            Frontend::Execute,
            Frontend::Close,
            Frontend::Sync,
            Frontend::Terminate,
            Frontend::CopyData(b"\0\x01"),
            Frontend::CopyDone,
            Frontend::CopyFail(b"why"),
            Frontend::Password(b"a.b.c"),
        ];
        for message in all {
            let mut buf = BytesMut::new();
            message.encode(&mut buf);
            let (head, body) = frame::split(&buf, 1000).unwrap().unwrap();
            assert_eq!(head.total, buf.len());
            assert!(name(head.tag).is_some());
            assert_eq!(Frontend::decode(head.tag, body), Ok(message));
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let field = |tag, field| Err(Error::Field { tag, field });
        assert_eq!(
            Frontend::decode(b'P', b"\0x\0\0\x01\0\0\0\x17"),
            field(b'P', "parameter count")
        );
        assert_eq!(Frontend::decode(b'D', b"P\0"), field(b'D', "kind"));
        assert_eq!(Frontend::decode(b'B', b"p\0\0"), field(b'B', "portal"));
        assert_eq!(
            Frontend::decode(b'E', b"\0\0\0\0\x05"),
            field(b'E', "row limit")
        );
        assert_eq!(Frontend::decode(b'H', b""), Err(Error::Tag(b'H')));
        let cut = Err(Error::Truncated {
            tag: b'P',
            field: "query",
        });
        assert_eq!(Frontend::decode(b'P', b"\0x"), cut);
        assert_eq!(
            Frontend::decode(b'Q', b"no nul"),
            Ok(Frontend::Query(b"no nul"))
        );
    }
}
