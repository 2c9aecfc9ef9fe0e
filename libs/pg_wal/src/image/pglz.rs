//! Decompression of Postgres's own LZ format.
//!
//! The input is a sequence of groups: a control byte, then up to 8 items, described by the control
//! byte's bits from the lowest. Bit 0: one literal byte. Bit 1: a match of two or three bytes; the
//! low nibble of the first is the length minus 3, its high nibble the upper 4 bits of a 12-bit
//! distance, the second byte the lower 8; if the nibble is 15, a third byte is added to the length.
//! Source and target of a match may overlap.

/// Longest distance and longest match follow from the tag's layout.
const MIN_MATCH: usize = 3;

/// Decompresses all of `source` to exactly fill `target`.
///
/// # Errors
/// The rule that `source` breaks.
pub(super) fn decompress(source: &[u8], target: &mut [u8]) -> Result<(), &'static str> {
    let mut input = source.iter().copied();
    let mut done = 0;
    while done < target.len() {
        let control = input.next().ok_or("ends before the page is full")?;
        for bit in 0..8 {
            if done == target.len() {
                break;
            }
            let first = input.next().ok_or("ends before the page is full")?;
            if control >> bit & 1 == 0 {
                *target.get_mut(done).ok_or("literal past the page")? = first;
                done += 1;
                continue;
            }
            let second = input.next().ok_or("ends inside a match")?;
            let distance = usize::from(first & 0xF0) << 4 | usize::from(second);
            let mut length = usize::from(first & 0x0F) + MIN_MATCH;
            if first & 0x0F == 0x0F {
                length += usize::from(input.next().ok_or("ends inside a match")?);
            }
            copy_match(target, done, distance, length)?;
            done += length;
        }
    }
    if input.next().is_some() {
        Err("bytes left when the page is full")
    } else {
        Ok(())
    }
}

fn copy_match(
    target: &mut [u8],
    at: usize,
    distance: usize,
    length: usize,
) -> Result<(), &'static str> {
    if distance == 0 {
        return Err("match of distance 0");
    }
    let from = at.checked_sub(distance).ok_or("match before the page")?;
    if at + length > target.len() {
        return Err("match past the page");
    }
    // An overlapping match repeats its first `distance` bytes; what is copied doubles each time.
    let mut copied = 0;
    while copied < length {
        let n = (distance + copied).min(length - copied);
        target.copy_within(from..from + n, at + copied);
        copied += n;
    }
    Ok(())
}
