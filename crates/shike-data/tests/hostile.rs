//! Pictures that were damaged on purpose: none may end the program, hang it, or be called by no name.
//!
//! The seeds are those of the fuzzer and of `jpeg/`; nothing is fetched. `SHIKE_HOSTILE=1000000` tries
//! more than the 40 of each seed that a test run does.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{decode_file_upright, prepare_file};
use rand::Rng;
use shike_data::rng::{Purpose, rng};
use shike_data::{DecodeLimits, Pipeline, decode_rgb};

fn seeds() -> Vec<Vec<u8>> {
    let folders = ["tests/seeds", "tests/jpeg"];
    let mut paths: Vec<_> = folders
        .iter()
        .flat_map(|folder| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            std::fs::read_dir(folder).unwrap()
        })
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jpg" || e == "png"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Some bytes changed, taken away or doubled, more often near the start, where the headers are.
fn damaged(seed: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.next_u32() % 4 {
        let within = match random.next_u32() % 2 {
            0 => bytes.len().min(700),
            _ => bytes.len(),
        };
        let at = random.next_u32() as usize % within.max(1);
        let value = random.next_u32();
        match random.next_u32() % 8 {
            0 => bytes.truncate(at.max(10)),
            1 => drop(bytes.drain(at..(at + value as usize % 20).min(bytes.len()))),
            2 => {
                let part = bytes[at..(at + value as usize % 40).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            3 => bytes
                .splice(at..at, [0xFF, 0xC0 + (value % 64) as u8])
                .for_each(drop),
            4 => bytes
                .get_mut(at)
                .into_iter()
                .for_each(|byte| *byte = [0, 1, 0x7F, 0xFF][value as usize % 4]),
            _ => bytes
                .get_mut(at)
                .into_iter()
                .for_each(|byte| *byte ^= 1 << (value % 8)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        mend_checksums(&mut bytes);
    }
    bytes
}

/// A PNG with wrong checksums is refused before anything of interest.
fn mend_checksums(png: &mut [u8]) {
    let mut at = 8;
    while let Some(&[a, b, c, d]) = png.get(at..at + 4) {
        let behind = at + 8 + u32::from_be_bytes([a, b, c, d]) as usize;
        if behind + 4 > png.len() {
            return;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&png[at + 4..behind]);
        png[behind..behind + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = behind + 4;
    }
}

#[test]
fn damaged_pictures_are_errors_with_a_name() {
    // What is caught in a decoder is not printed.
    static PRINTED: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|panic| {
        PRINTED.fetch_add(1, Ordering::Relaxed);
        eprintln!("{panic}");
    }));
    let rounds = std::env::var("SHIKE_HOSTILE").map_or(40, |n| n.parse().unwrap());
    let limits = DecodeLimits {
        max_pixels: 1 << 20,
        max_alloc: 16 << 20,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture");
    let name = path.display().to_string();
    let (mut read, mut refused, mut panics) = (0, 0, 0);
    for (number, seed) in seeds().iter().enumerate() {
        for round in 0..rounds {
            let mut random = rng(number as u64, 0, round, Purpose::Other);
            let bytes = match round {
                0 => seed.clone(),
                _ => damaged(seed, &mut random),
            };
            std::fs::write(&path, &bytes).unwrap();
            let started = Instant::now();
            let whole = decode_rgb(&bytes, &name, &limits);
            let upright = decode_file_upright(&path, &limits);
            let mut prepare = |pipeline| prepare_file(&path, &pipeline, &limits, &mut random);
            let scored = prepare(Pipeline::photo_eval(32));
            let trained = prepare(Pipeline::photo_train(24));
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{number} {round}"
            );
            match whole {
                Ok(image) => {
                    assert!(image.width() * image.height() <= 1 << 20);
                    assert!(upright.is_ok() && trained.is_ok(), "{number} {round}");
                    read += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.starts_with(&name), "{text}");
                    // Scoring sees all of a picture; training may need less.
                    assert!(
                        upright.is_err() && scored.is_err(),
                        "{number} {round}: {text}"
                    );
                    panics += usize::from(text.contains("the decoder panicked"));
                    refused += 1;
                }
            }
        }
    }
    println!("{read} read, {refused} refused, {panics} of them by a panic");
    assert!(read > 0 && panics > 0);
    assert_eq!(PRINTED.load(Ordering::Relaxed), 0);
}
