//! The checksum of a JSON document: its first member announces one, its last one is it
//! (`docs/format/index_part.md`).
//!
//! ```text
//! {"checksum":"crc32c", ...members... ,"crc32c":"0123abcd"}
//!  <---- CRC-32C of these bytes -----> then these 22
//! ```
//!
//! Both members are unknown to the reference, which drops them when it rewrites a document; one
//! without them has no checksum. One of the two alone is damage, as no single damaged spot can take
//! both away.

/// The members that are not content.
pub const MEMBERS: [&str; 2] = ["checksum", "crc32c"];

const OPENING: &[u8] = br#"{"checksum":"crc32c","#;
const MEMBER: &[u8] = br#","crc32c":""#;
const DIGITS: usize = 8;
const CLOSING: &[u8] = br#""}"#;

/// A document is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Some byte was changed.
    #[error("CRC-32C of its first {length} bytes is {found}, {expected} expected")]
    Mismatch {
        /// Bytes that the checksum covers.
        length: usize,
        /// Checksum of what was read.
        found: String,
        /// Checksum when it was written.
        expected: String,
    },
    /// It is cut off at the end, or its last bytes were changed.
    #[error("it begins with the announcement of a checksum and does not end with one")]
    Unfinished,
    /// Its first bytes were changed.
    #[error("it ends with a checksum that its beginning does not announce")]
    Unannounced,
}

fn digits(covered: &[u8]) -> String {
    format!("{:08x}", types::crc32c::of(covered))
}

/// Adds the checksum to a document, an object with at least one member and without blanks around it.
pub fn add(document: Vec<u8>) -> Vec<u8> {
    let members = document
        .strip_prefix(b"{")
        .and_then(|rest| rest.strip_suffix(b"}"));
    let Some(members) = members.filter(|m| !m.is_empty()) else {
        return document;
    };
    let room = OPENING.len() + MEMBER.len() + DIGITS + CLOSING.len();
    let mut sealed = Vec::with_capacity(members.len() + room);
    sealed.extend_from_slice(OPENING);
    sealed.extend_from_slice(members);
    let crc = digits(&sealed);
    sealed.extend_from_slice(MEMBER);
    sealed.extend_from_slice(crc.as_bytes());
    sealed.extend_from_slice(CLOSING);
    sealed
}

/// Covered bytes and checksum of a document that ends with one.
fn split(document: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = document.strip_suffix(CLOSING)?;
    let (rest, crc) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(MEMBER)?, crc))
}

/// Verifies the checksum of a document, if it has one.
///
/// # Errors
/// The document was damaged.
pub fn verify(document: &[u8]) -> Result<(), Error> {
    let (covered, expected) = match (document.starts_with(OPENING), split(document)) {
        (false, None) => return Ok(()),
        (true, None) => return Err(Error::Unfinished),
        (false, Some(_)) => return Err(Error::Unannounced),
        (true, Some(parts)) => parts,
    };
    let found = digits(covered);
    if found.as_bytes() == expected {
        return Ok(());
    }
    Err(Error::Mismatch {
        length: covered.len(),
        found,
        expected: String::from_utf8_lossy(expected).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let document = add(br#"{"a":1,"b":{"c":"0/15A7618"}}"#.to_vec());
        verify(&document).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(json["b"]["c"], "0/15A7618");
        for bit in 0..document.len() * 8 {
            let mut bad = document.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let parsed = serde_json::from_slice::<serde_json::Value>(&bad).is_ok();
            assert!(verify(&bad).is_err() || !parsed, "bit {bit}");
        }
        for length in 0..document.len() {
            let cut = &document[..length];
            let parsed = serde_json::from_slice::<serde_json::Value>(cut).is_ok();
            assert!(!parsed, "{length}");
        }
    }

    #[test]
    fn what_has_no_checksum_is_taken_as_it_is() {
        verify(br#"{"a":1}"#).unwrap();
        verify(br#"{"crc32c":"0123abcd","a":1}"#).unwrap();
        verify(b"").unwrap();
        assert_eq!(add(b"{}".to_vec()), b"{}");
    }
}
