//! Replays the corpus of each target, and mutations of it, so that a fault that was found once is
//! found again.
//!
//! `FUZZ_RUNS` sets the number of mutations of each target.

use std::path::Path;

/// Mutations of each target in the ordinary tests.
const RUNS: u64 = 2_000;

/// A stream of numbers, the same for the same seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "there is no corpus of {target}");
    paths.iter().map(|path| std::fs::read(path).expect("the file can be read")).collect()
}

fn mutate(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + numbers.below(8) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 => bytes.insert(at, numbers.below(256) as u8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = numbers.below(256) as u8,
            3 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            4 => {
                let len = numbers.below(64);
                bytes.extend((0..len).map(|_| numbers.below(256) as u8));
            }
            _ => {}
        }
    }
    bytes
}

fn replay(target: &str, share: u64, run: fn(&[u8])) {
    let corpus = corpus(target);
    corpus.iter().for_each(|data| run(data));
    let runs = std::env::var("FUZZ_RUNS").map_or(Ok(RUNS), |runs| runs.parse());
    let mut numbers = Numbers(target.len() as u64);
    for _ in 0..runs.expect("FUZZ_RUNS is a number") / share {
        let seed = &corpus[numbers.below(corpus.len())];
        run(&mutate(seed, &mut numbers));
    }
}

#[test]
fn codec() {
    replay("codec", 1, fuzz::codec::run);
}

#[test]
fn directory() {
    replay("directory", 4, fuzz::directory::run);
}

#[test]
fn core() {
    replay("core", 1, fuzz::core::run);
}

#[test]
fn http() {
    replay("http", 10, fuzz::http::run);
}
