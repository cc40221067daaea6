use super::*;
use crate::threads::on_threads;
use std::collections::BTreeSet;

#[test]
fn philox_matches_the_published_vectors() {
    // kat_vectors of Random123 1.14, philox4x32 10
    assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(
        philox4x32([u32::MAX; 4], [u32::MAX; 2]),
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    );
    assert_eq!(
        philox4x32(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0]
        ),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn streams_differ_in_every_part_and_repeat_exactly() {
    let base = Stream::new(1, "augment");
    let streams = [
        base,
        Stream::new(2, "augment"),
        Stream::new(1, "dropout"),
        base.at(0, 0),
        base.at(0, 1),
        base.at(1, 0),
        base.op(1),
        base.named("w"),
        base.at(0, 0).op(1),
    ];
    let firsts: BTreeSet<_> = streams.iter().map(|s| s.block(0)).collect();
    assert_eq!(firsts.len(), streams.len());
    assert_eq!(base.at(3, 4).block(9), Stream::new(1, "augment").at(3, 4).block(9));
}

#[test]
fn same_numbers_for_any_thread_count() {
    let draw = |threads| {
        on_threads(threads, || {
            let s = Stream::new(7, "noise");
            let (mut u, mut n, mut p) = (vec![0.0; 50_001], vec![0.0; 50_001], vec![0.0; 50_001]);
            s.fill_uniform(&mut u);
            s.fill_normal(&mut n);
            s.fill_poisson(&u.iter().map(|v| v * 40.0).collect::<Vec<_>>(), &mut p);
            (u, n, p)
        })
    };
    assert_eq!(draw(1), draw(3));
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

#[test]
fn distributions_have_their_moments() {
    let s = Stream::new(3, "moments");
    let mut out = vec![0f32; 200_000];
    s.fill_normal(&mut out);
    let normal: Vec<f64> = out.iter().map(|&v| f64::from(v)).collect();
    let (m, v) = moments(&normal);
    let fourth = normal.iter().map(|x| x.powi(4)).sum::<f64>() / 200_000.0;
    assert!(m.abs() < 0.01 && (v - 1.0).abs() < 0.02 && (fourth - 3.0).abs() < 0.1);
    s.fill_uniform(&mut out);
    assert!(out.iter().all(|v| (0.0..1.0).contains(v)));
    for rate in [0.3, 4.0, 9.9, 10.1, 37.0, 5000.0] {
        let counts: Vec<f64> = (0..40_000).map(|i| s.op(i).draws().poisson(rate)).collect();
        let (m, v) = moments(&counts);
        let tolerance = 5.0 * (rate / 40_000.0f64).sqrt();
        assert!((m - rate).abs() < tolerance, "rate {rate}: mean {m}");
        assert!((v / rate - 1.0).abs() < 0.05, "rate {rate}: variance {v}");
    }
}

#[test]
fn permutation_holds_every_index_once_and_below_is_in_range() {
    let p = Stream::new(5, "shuffle").permutation(1000);
    let set: BTreeSet<_> = p.iter().copied().collect();
    assert_eq!((set.len(), set.last().copied()), (1000, Some(999)));
    assert_ne!(p, (0..1000).collect::<Vec<_>>());
    let mut d = Stream::new(5, "below").draws();
    let mut seen = [0; 6];
    for _ in 0..6000 {
        seen[d.below(6) as usize] += 1;
    }
    assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    assert_eq!(d.below(0), 0);
}

#[test]
fn a_part_of_a_stream_is_the_same_drawn_by_itself() {
    let stream = Stream::new(5, "field");
    let mut whole = vec![0f32; 40_000];
    stream.fill_normal(&mut whole);
    for (first, len) in [(0, 9), (1, 1), (2, 2), (3, 6), (5, 0), (8, 7), (16_383, 20_001)] {
        let mut part = vec![0f32; len];
        stream.fill_normal_from(first as u64, &mut part);
        assert_eq!(part, whole[first..first + len], "{len} from {first}");
    }
}
