//! Little-endian fields at constant offsets of fixed-size structures.
//!
//! Offsets are compile-time constants; one that does not fit the array does not compile, so
//! reading and writing cannot fail.

/// The `N` bytes at `AT`.
#[inline]
pub(crate) fn get<const AT: usize, const N: usize, const LEN: usize>(b: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN) };
    let mut out = [0; N];
    out.copy_from_slice(&b[AT..AT + N]);
    out
}

/// Stores `v` at `AT`.
#[inline]
pub(crate) fn put<const AT: usize, const N: usize, const LEN: usize>(
    b: &mut [u8; LEN],
    v: [u8; N],
) {
    const { assert!(AT + N <= LEN) };
    b[AT..AT + N].copy_from_slice(&v);
}

/// The `N` bytes at `at`, if the slice is long enough.
#[inline]
pub(crate) fn try_get<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..)?.first_chunk::<N>().copied()
}

/// The `u32` at `at`, if the slice is long enough.
#[inline]
pub(crate) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    try_get(b, at).map(u32::from_le_bytes)
}
