//! The random permutations of PyTorch on the CPU: the Mersenne Twister MT19937 (Matsumoto and
//! Nishimura, "Mersenne Twister", ACM TOMACS 8, 1998) and the shuffle of `randperm`.

const N: usize = 624;
const M: usize = 397;

/// `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`.
pub(super) fn permutation(n: usize, seed: i64) -> Vec<usize> {
    let mut twister = Twister::new(seed as u32); // torch keeps the low 32 bits too
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        order.swap(i, i + twister.next() as usize % (n - i));
    }
    order
}

/// MT19937.
struct Twister {
    state: [u32; N],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, at: N }
    }

    fn next(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let bits = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (bits >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_twister_is_that_of_the_paper() {
        // first and ten thousandth number of the reference program for seed 5489 (C++ standard)
        let mut twister = Twister::new(5489);
        assert_eq!(twister.next(), 3_499_211_612);
        assert_eq!((1..10_000).map(|_| twister.next()).last(), Some(4_123_659_995));
    }

    #[test]
    fn splits_are_those_of_the_reference() {
        let Some(t) = fixture::tensors_in(&fixture::emdiffuse(), "datasets") else { return };
        for (name, n, share) in [("10_3", 10, 3.0), ("25_0.1", 25, 0.1)] {
            let (train, held) = crate::split::torch_split(n, share, -1).unwrap();
            let numbers = |part: Vec<usize>| part.into_iter().map(|i| i as f32).collect::<Vec<_>>();
            assert_eq!(numbers(train), t[&format!("out.split.{name}.train")]);
            assert_eq!(numbers(held), t[&format!("out.split.{name}.val")]);
        }
    }

    #[test]
    fn small_permutations() {
        assert!(permutation(0, 3).is_empty());
        assert_eq!(permutation(1, 3), [0]);
        let mut order = permutation(1000, -1);
        assert_eq!(order, permutation(1000, 0xffff_ffff));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, k)| i == *k));
    }
}
