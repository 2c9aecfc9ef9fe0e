//! CRC-32C (Castagnoli), the checksum of WAL records, of Postgres's small files, of layers and of
//! objects in the bucket.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;

/// The CRC of these bytes.
pub fn of(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC of the bytes that `crc` is of, with `bytes` behind them.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The CRC of two runs of bytes together, from that of each and the second one's length in bytes.
pub fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    crc_fast::checksum_combine(Crc32Iscsi, u64::from(first), u64::from(second), second_len) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bit by bit, from the polynomial alone.
    fn plain(bytes: &[u8]) -> u32 {
        let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82F6_3B78 * (crc & 1))
            })
        });
        !crc
    }

    #[test]
    fn the_check_value_is_right() {
        assert_eq!(of(b"123456789"), 0xE306_9283);
        assert_eq!(of(b""), 0);
        // RFC 3720, B.4.
        assert_eq!(of(&[0; 32]), 0x8A91_36AA);
        assert_eq!(of(&[0xFF; 32]), 0x62A8_AB43);
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in vec(any::<u8>(), 0..3000), start in 0usize..64, cut: u16) {
            let bytes = bytes.get(start..).unwrap_or_default();
            let (a, b) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
            let whole = plain(bytes);
            prop_assert_eq!(of(bytes), whole);
            prop_assert_eq!(append(of(a), b), whole);
            prop_assert_eq!(combine(of(a), of(b), b.len() as u64), whole);
        }
    }
}
