//! The Philox4x32-10 bijection.

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Ten rounds of Philox: 128 random bits for a 128-bit counter under a 64-bit key.
#[inline]
#[must_use]
pub fn philox4x32(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

/// [`philox4x32`] of `N` counters at once, word by word; as a loop over the counters for the vector
/// unit, so to be called within [`crate::simd::vectorised`].
#[inline(always)]
pub(super) fn philox4x32_lanes<const N: usize>(
    mut c: [[u32; N]; 4],
    mut k: [u32; 2],
) -> [[u32; N]; 4] {
    for _ in 0..10 {
        for i in 0..N {
            let p0 = M0 * u64::from(c[0][i]);
            let p1 = M1 * u64::from(c[2][i]);
            c[0][i] = (p1 >> 32) as u32 ^ c[1][i] ^ k[0];
            c[1][i] = p1 as u32;
            c[2][i] = (p0 >> 32) as u32 ^ c[3][i] ^ k[1];
            c[3][i] = p0 as u32;
        }
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}
