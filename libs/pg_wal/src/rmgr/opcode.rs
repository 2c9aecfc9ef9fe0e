//! Which record types exist.

use super::Error;
use crate::record::{Header, rmgr_name, rmid};
use types::PgMajor;

/// Fails if the record type does not exist in `version`. Ids of extensions (from 15 on) pass:
/// their record types are their own.
pub fn check(header: &Header, version: PgMajor) -> Result<(), Error> {
    if exists(header.rmid, header.info, version) {
        return Ok(());
    }
    Err(unknown(header, version))
}

/// The error for a record type that is not known.
pub fn unknown(header: &Header, version: PgMajor) -> Error {
    Error::Opcode {
        rmid: header.rmid,
        name: rmgr_name(header.rmid),
        info: header.info,
        version,
    }
}

/// Bit set of the high nibbles `info` may have.
const fn nibbles(of: &[u8]) -> u16 {
    let mut set = 0u16;
    let mut rest = of;
    while let [first, tail @ ..] = rest {
        set |= 1 << (*first >> 4);
        rest = tail;
    }
    set
}

fn exists(id: u8, info: u8, version: PgMajor) -> bool {
    // Managers that use the top bit as a flag have eight types only.
    let (mask, set) = match id {
        rmid::XLOG => (
            0xF0,
            nibbles(&[
                0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xA0, 0xB0, 0xD0,
            ]) | if version >= PgMajor::V17 {
                nibbles(&[0xE0])
            } else {
                0
            },
        ),
        rmid::XACT => (0x70, nibbles(&[0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60])),
        rmid::SMGR => (0xF0, nibbles(&[0x10, 0x20])),
        rmid::CLOG | rmid::TBLSPC | rmid::COMMIT_TS | rmid::REPLORIGIN => {
            (0xF0, nibbles(&[0, 0x10]))
        }
        rmid::DBASE if version == PgMajor::V14 => (0xF0, nibbles(&[0, 0x10])),
        rmid::DBASE | rmid::STANDBY => (0xF0, nibbles(&[0, 0x10, 0x20])),
        rmid::MULTIXACT => (0xF0, nibbles(&[0, 0x10, 0x20, 0x30])),
        rmid::RELMAP | rmid::SEQ | rmid::LOGICALMSG | rmid::GENERIC => (0xF0, nibbles(&[0])),
        rmid::HEAP | rmid::HEAP2 => (
            0x70,
            nibbles(&[0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70]),
        ),
        rmid::BTREE => (0xF0, !nibbles(&[0xF0])),
        rmid::HASH => (0xF0, !nibbles(&[0xD0, 0xE0, 0xF0])),
        rmid::GIN => (
            0xF0,
            nibbles(&[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90]),
        ),
        rmid::GIST => (0xF0, nibbles(&[0, 0x10, 0x20, 0x30, 0x60, 0x70])),
        rmid::SPGIST => (
            0xF0,
            nibbles(&[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80]),
        ),
        rmid::BRIN => (0x70, nibbles(&[0, 0x10, 0x20, 0x30, 0x40, 0x50])),
        rmid::MIN_CUSTOM.. => return version >= PgMajor::V15,
        _ => return false,
    };
    set & (1 << ((info & mask) >> 4)) != 0
}
