use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn batch(number: u64) -> Batch {
    let tensor = candle_core::Tensor::new(&[number as f32], &candle_core::Device::Cpu).unwrap();
    Batch { tensors: BTreeMap::from([("x".to_owned(), tensor)]), ids: Vec::new() }
}

fn value(batch: Result<Batch, BoxError>) -> u64 {
    batch.unwrap().get("x").unwrap().to_vec1::<f32>().unwrap()[0] as u64
}

fn ahead(batches: u64) -> Ahead {
    Ahead { batches, bytes: u64::MAX }
}

#[test]
fn order_is_kept_though_batches_take_different_times() {
    let make: Arc<Make> = Arc::new(|n, _| {
        std::thread::sleep(Duration::from_millis((n * 7) % 5));
        Some(Ok(batch(n)))
    });
    let got: Vec<u64> = Prefetch::new(make, 3..20, 4, ahead(3)).map(value).collect();
    assert_eq!(got, (3..20).collect::<Vec<_>>());
}

#[test]
fn threads_run_ahead_only_so_far() {
    static MOST: AtomicU64 = AtomicU64::new(0);
    let make: Arc<Make> = Arc::new(|n, _| {
        MOST.fetch_max(n, Ordering::Relaxed);
        Some(Ok(batch(n)))
    });
    let mut batches = Prefetch::new(make, 0..1000, 3, ahead(4));
    for wanted in 0..10 {
        std::thread::sleep(Duration::from_millis(3));
        // the reader waits for `wanted`, four more may be there
        assert!(MOST.load(Ordering::Relaxed) <= wanted + 4);
        assert_eq!(value(batches.next().unwrap()), wanted);
    }
}

#[test]
fn bytes_limit_threads_but_never_stop_the_reader() {
    // a batch is one f32
    for (bytes, most_ahead) in [(0, 0), (3, 0), (8, 1), (12, 2), (1000, 6)] {
        let most = Arc::new(AtomicU64::new(0));
        let seen = most.clone();
        let make: Arc<Make> = Arc::new(move |n, _| {
            seen.fetch_max(n, Ordering::Relaxed);
            Some(Ok(batch(n)))
        });
        let mut batches = Prefetch::new(make, 0..12, 3, Ahead { batches: 6, bytes });
        for wanted in 0..12 {
            std::thread::sleep(Duration::from_millis(2));
            assert!(most.load(Ordering::Relaxed) <= wanted + most_ahead, "{bytes} bytes");
            assert_eq!(value(batches.next().unwrap()), wanted);
        }
        assert!(batches.next().is_none());
    }
}

#[test]
fn a_dropped_iterator_stops_its_threads_at_once() {
    let make: Arc<Make> = Arc::new(|n, wanted| {
        for _ in 0..10_000 {
            if !wanted() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(Ok(batch(n)))
    });
    let start = Instant::now();
    let batches = Prefetch::new(make, 0..10, 2, ahead(2));
    std::thread::sleep(Duration::from_millis(5));
    drop(batches);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn errors_and_panics_arrive_in_their_place() {
    let make: Arc<Make> = Arc::new(|n, _| match n {
        1 => Some(Err("broken file".into())),
        2 => panic!("number {n}"),
        _ => Some(Ok(batch(n))),
    });
    let mut batches = Prefetch::new(make, 0..4, 2, ahead(2));
    assert_eq!(value(batches.next().unwrap()), 0);
    assert_eq!(batches.next().unwrap().unwrap_err().to_string(), "broken file");
    let panic = batches.next().unwrap().unwrap_err().to_string();
    assert!(panic.contains("batch 2: number 2"), "{panic}");
    assert_eq!(value(batches.next().unwrap()), 3);
    assert!(batches.next().is_none());
}
