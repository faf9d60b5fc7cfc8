//! What has to hold for any input.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shike_data::augment::pillow::{
    Op, affine_bicubic, affine_nearest, auto_augment_cifar10, crop, cutout, resized_crop, rotate,
};
use shike_data::augment::{CropBox, Interpolation, random_resized_crop_box};
use shike_data::imbalance::{LongTail, class_counts, first_n_per_class};
use shike_data::rng::{Purpose, rng};
use shike_data::{Dataset, DecodeLimits, Loader, LoaderConfig, Pipeline, decode_rgb, list_file};

/// The same cases in every run, so that what lands was tested as it lands; `PROPTEST_RNG_SEED`
/// draws others.
fn cases(count: u32) -> ProptestConfig {
    let mut config = ProptestConfig::with_cases(count);
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(2304);
    }
    config
}

fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 37) as u8, (y * 91) as u8, (x * y + 5) as u8])
    })
}

/// Finite numbers from the smallest to the largest, with ordinary ones among them.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![-3.0..3.0f64, -1e3..1e3f64, prop::num::f64::NORMAL]
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn moves_keep_the_size(
        width in 1u32..40, height in 1u32..40,
        m in prop::array::uniform6(any_number()),
        degrees in any_number(),
    ) {
        let image = pattern(width, height);
        for out in [
            affine_nearest(&image, &m, [1, 2, 3]),
            affine_bicubic(&image, &m, [1, 2, 3]),
            rotate(&image, degrees, [1, 2, 3]),
        ] {
            prop_assert_eq!(out.dimensions(), (width, height));
        }
    }

    #[test]
    fn operations_keep_the_size(
        width in 1u32..40, height in 1u32..40, magnitude in -2.0..300.0f64, seed in any::<u64>(),
    ) {
        for op in Op::ALL {
            let out = op.apply(pattern(width, height), magnitude);
            prop_assert_eq!(out.dimensions(), (width, height), "{:?}", op);
        }
        let mut random = rng(seed, 0, 0, Purpose::Augment);
        let out = auto_augment_cifar10(pattern(width, height), &mut random);
        prop_assert_eq!(out.dimensions(), (width, height));
    }

    #[test]
    fn crops_of_any_box(
        width in 1u32..40, height in 1u32..40,
        top in -60i64..60, left in -60i64..60, h in 0u32..50, w in 0u32..50,
        side in 1u32..50, seed in any::<u64>(),
    ) {
        let image = pattern(width, height);
        let out = crop(&image, top, left, h, w);
        for (x, y, pixel) in out.enumerate_pixels() {
            let (px, py) = (i64::from(x) + left, i64::from(y) + top);
            let inside = (0..i64::from(width)).contains(&px) && (0..i64::from(height)).contains(&py);
            let want = if inside { image[(px as u32, py as u32)] } else { Rgb([0; 3]) };
            prop_assert_eq!(*pixel, want);
        }
        let area = CropBox { top: top.unsigned_abs() as u32, left: 3, height: h, width: w };
        prop_assert_eq!(resized_crop(&image, area, side, h, Interpolation::Bilinear).dimensions(), (side, h));
        let cut = cutout(image.clone(), h, w, side);
        prop_assert_eq!(cut.dimensions(), (width, height));
        let mut random = rng(seed, 0, 0, Purpose::Augment);
        let area = random_resized_crop_box(width, height, [0.08, 1.0], [0.75, 4.0 / 3.0], &mut random);
        prop_assert!(area.top + area.height <= height && area.left + area.width <= width);
        prop_assert!(area.height > 0 && area.width > 0);
    }

    #[test]
    fn a_resize_stays_within_the_range_of_its_input(
        width in 1u32..40, height in 1u32..40, w in 1u32..60, h in 1u32..60, low in 0u8..200, span in 0u8..56,
    ) {
        let image = RgbImage::from_fn(width, height, |x, y| {
            Rgb([low + ((x * 7 + y * 13) as u8 % (span + 1)); 3])
        });
        let whole = CropBox { top: 0, left: 0, height, width };
        let out = resized_crop(&image, whole, w, h, Interpolation::Bilinear);
        prop_assert!(out.iter().all(|v| (low..=low + span).contains(v)));
    }

    #[test]
    fn damaged_files_never_panic(
        png in any::<bool>(), at in any::<prop::sample::Index>(), flips in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let format = if png { ImageFormat::Png } else { ImageFormat::Jpeg };
        let mut bytes = Cursor::new(Vec::new());
        pattern(24, 24).write_to(&mut bytes, format).unwrap();
        let mut bytes = bytes.into_inner();
        let start = at.index(bytes.len());
        for (byte, flip) in bytes[start..].iter_mut().zip(&flips) {
            *byte ^= flip;
        }
        let limits = DecodeLimits { max_pixels: 1 << 20, max_alloc: 16 << 20 };
        match decode_rgb(&bytes, "some/file", &limits) {
            Ok(image) => prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= 1 << 20),
            Err(error) => prop_assert!(error.to_string().contains("some/file")),
        }
    }

    #[test]
    fn any_list_is_read_or_refused_with_its_name(text in prop::collection::vec(
        prop_oneof![Just(b' '), Just(b'\n'), Just(b'\r'), Just(b'0'), Just(b'1'), Just(b'-'),
                    Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..60))
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, &text).unwrap();
        match list_file("root", &path, None, None) {
            Ok(data) => {
                prop_assert!(data.class_counts().iter().all(|&n| n > 0));
                prop_assert!((0..data.len()).all(|i| !data.origin(i).contains("/../")));
            }
            Err(error) => prop_assert!(error.to_string().contains("list.txt")),
        }
    }

    #[test]
    fn profiles_fall_and_selections_have_their_size(
        n_max in 1usize..600, classes in 1usize..50, factor in 1.0..600.0f64,
    ) {
        for profile in [LongTail::Exponential, LongTail::Step, LongTail::Balanced] {
            let Ok(counts) = class_counts(profile, n_max, classes, factor) else {
                prop_assert!(factor > n_max as f64 * 0.999);
                continue;
            };
            prop_assert_eq!(counts[0], n_max);
            prop_assert!(counts.is_sorted_by(|a, b| a >= b));
            let labels: Vec<u32> =
                (0..n_max * classes).map(|i| (i * 7 % classes) as u32).collect();
            if let Ok(chosen) = first_n_per_class(&labels, &counts) {
                prop_assert_eq!(chosen.len(), counts.iter().sum::<usize>());
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn batches_do_not_depend_on_workers_or_start(
        order in prop::collection::vec(0u32..30, 0..60),
        batch_size in 1usize..20, workers in 2usize..9, prefetch in 1usize..4,
        start in 0usize..8, drop_last in any::<bool>(), epoch in 0u64..9,
    ) {
        let pixels = (0..30 * 3072).map(|i| (i * 31 % 253) as u8).collect();
        let data = Dataset::from_pixels(pixels, 32, 32, vec![0; 30], 1).unwrap();
        let loader = |workers| {
            let config = LoaderConfig { batch_size, workers, prefetch, drop_last };
            Loader::new(data.clone(), Pipeline::cifar_train(), config, 7).unwrap()
        };
        let one: Vec<_> = loader(1).epoch(epoch, order.clone(), 0).map(Result::unwrap).collect();
        let many: Vec<_> =
            loader(workers).epoch(epoch, order.clone(), start).map(Result::unwrap).collect();
        prop_assert_eq!(one.len(), loader(1).batches_per_epoch(order.len()));
        prop_assert_eq!(&one[start.min(one.len())..], &many[..]);
        let seen: Vec<u32> = one.iter().flat_map(|b| b.indices.clone()).collect();
        prop_assert_eq!(&order[..seen.len()], &seen[..]);
    }
}
