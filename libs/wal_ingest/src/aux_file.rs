//! Small files that live outside relations (`docs/format/values.md`, "Aux files").
//!
//! A file is found by a hash of its path; files whose paths collide share a value.

use bytes::{BufMut, Bytes};
use types::Key;
use types::be::{Error, Reader};
use types::key::AUX_FILE_PREFIX;

/// First byte of a value that holds files.
const VERSION: u8 = 1;
const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;

fn fnv1a(text: &str) -> u128 {
    text.bytes()
        .fold(OFFSET, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME))
}

/// The key of the file with this path, relative to the data directory.
pub fn key(path: &str) -> Key {
    let classes: [(&str, [u8; 2]); 5] = [
        ("pg_logical/mappings/", [1, 1]),
        ("pg_logical/snapshots/", [1, 2]),
        ("pg_logical/", [1, 0xFF]),
        ("pg_replslot/", [2, 1]),
        ("pg_stat/", [3, 1]),
    ];
    let (class, rest) = if path == "pg_logical/replorigin_checkpoint" {
        ([1, 3], "")
    } else {
        classes
            .iter()
            .find_map(|(prefix, class)| path.strip_prefix(prefix).map(|rest| (*class, rest)))
            .unwrap_or(([0xFF, 0xFF], path))
    };
    let [_, _, _, low @ ..] = fnv1a(rest).to_be_bytes();
    let mut bytes = [0; 16];
    let [c0, c1] = class;
    bytes
        .iter_mut()
        .zip([AUX_FILE_PREFIX, c0, c1].into_iter().chain(low))
        .for_each(|(to, from)| *to = from);
    Key::from_metadata(bytes)
}

/// The files in a value; none in an empty one.
pub fn decode(value: &Bytes) -> Result<Vec<(String, Bytes)>, Error> {
    let mut files = Vec::new();
    if value.is_empty() {
        return Ok(files);
    }
    let mut r = Reader::new(value);
    match r.u8()? {
        VERSION => {}
        v => {
            return Err(Error::Invalid {
                at: 0,
                what: "aux file version",
                value: u64::from(v),
            });
        }
    }
    while r.left() > 0 {
        let len = r.u32()? as usize;
        let at = r.position();
        let path = std::str::from_utf8(r.take(len)?).map_err(|e| Error::Invalid {
            at,
            what: "aux file path",
            value: e.valid_up_to() as u64,
        })?;
        let len = r.u32()? as usize;
        files.push((path.to_owned(), value.slice_ref(r.take(len)?)));
    }
    Ok(files)
}

/// The value that holds these files; empty, a tombstone, if there are none.
pub fn encode(files: &[(String, Bytes)]) -> Bytes {
    let mut out = Vec::new();
    if !files.is_empty() {
        out.put_u8(VERSION);
    }
    for (path, content) in files {
        // Both come from one WAL record, whose length fits in 32 bits.
        out.put_u32(path.len() as u32);
        out.put_slice(path.as_bytes());
        out.put_u32(content.len() as u32);
        out.put_slice(content);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_keys() {
        for (path, want) in [
            (
                "pg_logical/mappings/test1",
                "62000001017F8B83D94F7081693471ABF91C",
            ),
            (
                "pg_logical/snapshots/test2",
                "62000001027F8E83D94F7081693471ABFCCD",
            ),
            (
                "pg_logical/replorigin_checkpoint",
                "62000001032E07BB014262B821756295C58D",
            ),
        ] {
            assert_eq!(key(path).to_string(), want, "{path}");
        }
    }

    #[test]
    fn values_round_trip_and_an_empty_one_is_a_tombstone() {
        let files = vec![
            ("pg_stat/a".to_owned(), Bytes::from_static(b"1")),
            ("pg_stat/b".to_owned(), Bytes::new()),
        ];
        assert_eq!(decode(&encode(&files)).unwrap(), files);
        assert!(encode(&[]).is_empty());
        assert!(decode(&Bytes::from_static(&[2])).is_err());
        assert!(decode(&Bytes::from_static(&[1, 0, 0])).is_err());
    }
}
