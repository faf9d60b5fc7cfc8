//! Pictures that look alike.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Instant;

use image::RgbImage;
use image::imageops::{FilterType as Filter, resize};
use shike_data::inspect::{NEAR, looks_like, near_groups};
use shike_data::rng::{Draw, Purpose, rng};

/// Some of `n` hashes are others with up to 16 bits turned.
fn drawn(n: usize) -> Vec<Option<u128>> {
    let mut draw = rng(1, 0, 0, Purpose::Other);
    let mut hashes: Vec<u128> = Vec::with_capacity(n);
    for i in 0..n {
        let half = |draw: &mut _| u128::from(Draw::below(draw, 1 << 31)) << 1;
        let mut hash = (0..5).fold(0, |hash, _| hash << 31 ^ half(&mut draw));
        if i > 0 && draw.coin(0.2) {
            hash = hashes[draw.below(i as u32) as usize];
            for _ in 0..draw.below(18) {
                hash ^= 1 << draw.below(128);
            }
        }
        hashes.push(hash);
    }
    hashes.into_iter().map(Some).collect()
}

#[test]
fn the_search_finds_what_all_pairs_show() {
    let mut hashes = drawn(3000);
    hashes[7] = None;
    // The smallest of each group, by all pairs until nothing changes.
    let mut first: Vec<usize> = (0..hashes.len()).collect();
    let mut near = Vec::new();
    for (a, one) in hashes.iter().enumerate() {
        for (b, other) in hashes.iter().enumerate().skip(a + 1) {
            if let (Some(one), Some(other)) = (one, other)
                && (one ^ other).count_ones() <= NEAR
            {
                near.push((a, b));
            }
        }
    }
    let mut changed = true;
    while changed {
        changed = false;
        for &(a, b) in &near {
            let least = first[a].min(first[b]);
            changed |= first[a] != least || first[b] != least;
            (first[a], first[b]) = (least, least);
        }
    }
    let mut wanted: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    (0..hashes.len()).for_each(|i| wanted.entry(first[i]).or_default().push(i));
    let wanted: Vec<_> = wanted
        .into_values()
        .filter(|group| group.len() > 1)
        .collect();
    let found = near_groups(&hashes);
    assert!(found.len() > 300, "{}", found.len());
    assert_eq!(found, wanted);
}

#[test]
fn a_million_hashes_take_less_than_a_minute() {
    let hashes = drawn(1_000_000);
    let began = Instant::now();
    let found = near_groups(&hashes);
    let took = began.elapsed();
    println!(
        "near-duplicates of 1,000,000 hashes: {} groups in {took:.2?}",
        found.len()
    );
    assert!(found.len() > 100_000);
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn pictures_look_alike_when_they_are_made_again() {
    // Blurred noise, as photographs are.
    let picture = |seed| {
        let mut draw = rng(seed, 0, 0, Purpose::Other);
        let coarse = RgbImage::from_fn(9, 7, |_, _| {
            image::Rgb([(); 3].map(|()| draw.below(256) as u8))
        });
        resize(&coarse, 320, 240, Filter::CatmullRom)
    };
    let differ =
        |a: &RgbImage, b: &RgbImage| (looks_like(a).unwrap() ^ looks_like(b).unwrap()).count_ones();
    for seed in 0..20 {
        let one = picture(seed);
        let smaller = resize(&one, 64, 48, Filter::Triangle);
        let brighter = image::imageops::brighten(&one, 20);
        let mut jpeg = std::io::Cursor::new(Vec::new());
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 30)
            .encode_image(&one)
            .unwrap();
        let jpeg = image::load_from_memory(jpeg.get_ref()).unwrap().into_rgb8();
        for again in [smaller, brighter, jpeg] {
            assert!(
                differ(&one, &again) <= NEAR,
                "{seed}: {}",
                differ(&one, &again)
            );
        }
        assert!(differ(&one, &picture(seed + 100)) > 2 * NEAR);
    }
    assert_eq!(
        looks_like(&RgbImage::from_pixel(50, 40, image::Rgb([7, 9, 200]))),
        None
    );
    assert!(looks_like(&picture(0)).is_some_and(|hash| hash != 0));
}
