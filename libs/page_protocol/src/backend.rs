//! Messages a server sends: builders that append to a buffer, and a decoder for clients.

use crate::frame::{self, Error, Fields, put_cstr};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

/// Type oid of `text`.
pub const TEXT_OID: u32 = 25;
/// Tag of every CommandComplete.
pub const COMPLETION: &str = "SELECT 1";
/// Most bytes of an error text sent, before the rest is cut off.
pub const MAX_ERROR_TEXT: usize = 4096;
/// Most columns of a row accepted by the decoder.
pub const MAX_COLUMNS: usize = 256;

const AUTH_OK: u32 = 0;
const AUTH_CLEARTEXT: u32 = 3;

/// AuthenticationOk.
pub fn authentication_ok(buf: &mut BytesMut) {
    frame::put(buf, b'R', |b| b.put_u32(AUTH_OK));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(buf: &mut BytesMut) {
    frame::put(buf, b'R', |b| b.put_u32(AUTH_CLEARTEXT));
}

/// ParameterStatus.
pub fn parameter_status(buf: &mut BytesMut, name: &str, value: &str) {
    frame::put(buf, b'S', |b| {
        put_cstr(b, name);
        put_cstr(b, value);
    });
}

/// ReadyForQuery, outside of a transaction.
pub fn ready_for_query(buf: &mut BytesMut) {
    frame::put(buf, b'Z', |b| b.put_u8(b'I'));
}

/// ErrorResponse with severity ERROR, a five-character SQLSTATE and a text.
pub fn error_response(buf: &mut BytesMut, sqlstate: &str, text: &str) {
    report(buf, b'E', "ERROR", sqlstate, text);
}

/// NoticeResponse with severity NOTICE.
pub fn notice_response(buf: &mut BytesMut, sqlstate: &str, text: &str) {
    report(buf, b'N', "NOTICE", sqlstate, text);
}

fn report(buf: &mut BytesMut, tag: u8, severity: &str, sqlstate: &str, text: &str) {
    frame::put(buf, tag, |b| {
        for (field, value) in [(b'S', severity), (b'C', sqlstate), (b'M', cut(text))] {
            b.put_u8(field);
            put_cstr(b, value);
        }
        b.put_u8(0);
    });
}

/// `text` up to [`MAX_ERROR_TEXT`] bytes, cut between characters.
pub(crate) fn cut(text: &str) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = end
        .take_while(|end| *end <= MAX_ERROR_TEXT)
        .last()
        .unwrap_or(0);
    if text.len() <= MAX_ERROR_TEXT {
        text
    } else {
        text.get(..end).unwrap_or_default()
    }
}

/// CommandComplete; the tag is the same for every command.
pub fn command_complete(buf: &mut BytesMut) {
    frame::put(buf, b'C', |b| put_cstr(b, COMPLETION));
}

/// RowDescription of text columns.
pub fn row_description(buf: &mut BytesMut, columns: &[&str]) {
    frame::put(buf, b'T', |b| {
        b.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for name in columns.iter().take(usize::from(u16::MAX)) {
            put_cstr(b, name);
            b.put_u32(0);
            b.put_u16(0);
            b.put_u32(TEXT_OID);
            b.put_i16(-1);
            b.put_i32(-1);
            b.put_u16(0);
        }
    });
}

/// DataRow; `None` is NULL.
pub fn data_row(buf: &mut BytesMut, values: &[Option<&[u8]>]) {
    frame::put(buf, b'D', |b| {
        b.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values.iter().take(usize::from(u16::MAX)) {
            match value {
                None => b.put_i32(-1),
                Some(bytes) => {
                    b.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                    b.put_slice(bytes);
                }
            }
        }
    });
}

/// CopyOutResponse, text format, no columns.
pub fn copy_out_response(buf: &mut BytesMut) {
    frame::put(buf, b'H', |b| b.put_slice(&[0, 0, 0]));
}

/// CopyBothResponse, text format, no columns.
pub fn copy_both_response(buf: &mut BytesMut) {
    frame::put(buf, b'W', |b| b.put_slice(&[0, 0, 0]));
}

/// CopyData.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    frame::put(buf, b'd', |b| b.put_slice(data));
}

/// CopyDone.
pub fn copy_done(buf: &mut BytesMut) {
    frame::put(buf, b'c', |_| {});
}

/// ParseComplete.
pub fn parse_complete(buf: &mut BytesMut) {
    frame::put(buf, b'1', |_| {});
}

/// BindComplete.
pub fn bind_complete(buf: &mut BytesMut) {
    frame::put(buf, b'2', |_| {});
}

/// CloseComplete.
pub fn close_complete(buf: &mut BytesMut) {
    frame::put(buf, b'3', |_| {});
}

/// ParameterDescription of no parameters, and NoData.
pub fn no_description(buf: &mut BytesMut) {
    frame::put(buf, b't', |b| b.put_u16(0));
    frame::put(buf, b'n', |_| {});
}

/// An ErrorResponse or NoticeResponse as received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Severity, field `S`.
    pub severity: String,
    /// Field `C`.
    pub sqlstate: String,
    /// Field `M`.
    pub message: String,
}

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend<'a> {
    /// Authentication succeeded.
    AuthenticationOk,
    /// The server wants a password or token in clear text.
    AuthenticationCleartext,
    /// The server wants another authentication method, with this code.
    AuthenticationOther(u32),
    /// A setting of the server.
    ParameterStatus(Cow<'a, str>, Cow<'a, str>),
    /// Process id and secret for cancelling; never sent by the page service.
    BackendKeyData,
    /// The server awaits a command.
    ReadyForQuery,
    /// Something failed.
    ErrorResponse(Report),
    /// Something worth knowing.
    NoticeResponse(Report),
    /// A command is complete; carries its tag.
    CommandComplete(Cow<'a, str>),
    /// Nothing was in the query.
    EmptyQuery,
    /// Names of the columns that follow.
    RowDescription(Vec<Cow<'a, str>>),
    /// One row; `None` is NULL.
    DataRow(Vec<Option<&'a [u8]>>),
    /// The server starts to send copy data.
    CopyOut,
    /// Copy data flows both ways.
    CopyBoth,
    /// The server awaits copy data.
    CopyIn,
    /// A chunk of copy data.
    CopyData(&'a [u8]),
    /// End of copy data.
    CopyDone,
    /// Reply to Parse.
    ParseComplete,
    /// Reply to Bind.
    BindComplete,
    /// Reply to Close.
    CloseComplete,
    /// A command returns no rows.
    NoData,
    /// Parameters of a command; their types are skipped.
    ParameterDescription,
}

impl<'a> Backend<'a> {
    /// Decodes a body; text that is not UTF-8 is replaced, not refused.
    pub fn decode(tag: u8, body: &'a [u8]) -> Result<Backend<'a>, Error> {
        let mut f = Fields::new(tag, body);
        Ok(match tag {
            b'R' => match f.u32("method")? {
                AUTH_OK => Backend::AuthenticationOk,
                AUTH_CLEARTEXT => Backend::AuthenticationCleartext,
                other => Backend::AuthenticationOther(other),
            },
            b'S' => {
                let name = String::from_utf8_lossy(f.cstr("name")?);
                Backend::ParameterStatus(name, String::from_utf8_lossy(f.cstr("value")?))
            }
            b'K' => Backend::BackendKeyData,
            b'Z' => {
                f.u8("status")?;
                Backend::ReadyForQuery
            }
            b'E' => Backend::ErrorResponse(decode_report(f)?),
            b'N' => Backend::NoticeResponse(decode_report(f)?),
            b'C' => Backend::CommandComplete(String::from_utf8_lossy(f.cstr("tag")?)),
            b'I' => Backend::EmptyQuery,
            b'T' => {
                let columns = (0..column_count(&mut f, tag)?).map(|_| {
                    let name = f.cstr("column name")?;
                    f.take(18, "column description")?;
                    Ok(String::from_utf8_lossy(name))
                });
                Backend::RowDescription(columns.collect::<Result<_, Error>>()?)
            }
            b'D' => {
                let values = (0..column_count(&mut f, tag)?).map(|_| {
                    let length = f.i32("value length")?;
                    if length == -1 {
                        return Ok(None);
                    }
                    let length = usize::try_from(length).map_err(|_| Error::Field {
                        tag,
                        field: "value length",
                    })?;
                    f.take(length, "value").map(Some)
                });
                Backend::DataRow(values.collect::<Result<_, Error>>()?)
            }
            b'H' => Backend::CopyOut,
            b'W' => Backend::CopyBoth,
            b'G' => Backend::CopyIn,
            b'd' => Backend::CopyData(f.rest()),
            b'c' => Backend::CopyDone,
            b'1' => Backend::ParseComplete,
            b'2' => Backend::BindComplete,
            b'3' => Backend::CloseComplete,
            b'n' => Backend::NoData,
            b't' => Backend::ParameterDescription,
            _ => return Err(Error::Tag(tag)),
        })
    }
}

fn column_count(f: &mut Fields<'_>, tag: u8) -> Result<usize, Error> {
    match usize::from(f.u16("column count")?) {
        n if n <= MAX_COLUMNS => Ok(n),
        _ => Err(Error::Field {
            tag,
            field: "column count",
        }),
    }
}

fn decode_report(mut f: Fields<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    loop {
        let field = f.u8("field type")?;
        if field == 0 {
            return Ok(report);
        }
        let value = f.cstr("field value")?;
        let slot = match field {
            b'S' => &mut report.severity,
            b'C' => &mut report.sqlstate,
            b'M' => &mut report.message,
            _ => continue,
        };
        *slot = String::from_utf8_lossy(value).into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_error_texts_are_cut_between_characters() {
        assert_eq!(cut("abc"), "abc");
        let long = "ä".repeat(MAX_ERROR_TEXT);
        assert_eq!(cut(&format!("x{long}")).len(), MAX_ERROR_TEXT - 1);
        assert_eq!(cut(&long).len(), MAX_ERROR_TEXT);
    }

    #[test]
    fn a_nul_inside_a_text_cannot_forge_a_field() {
        let mut buf = BytesMut::new();
        error_response(&mut buf, "XX000", "a\0Cb");
        let (head, body) = frame::split(&buf, 100).unwrap().unwrap();
        let Backend::ErrorResponse(report) = Backend::decode(head.tag, body).unwrap() else {
            panic!("not an error");
        };
        assert_eq!(
            (report.sqlstate.as_str(), report.message.as_str()),
            ("XX000", "aCb")
        );
    }
}
