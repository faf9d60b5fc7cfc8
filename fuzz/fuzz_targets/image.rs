//! Image files: decoded within the limits, or refused by name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shike_data::{DecodeLimits, decode_rgb};

fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits {
        max_pixels: 1 << 20,
        max_alloc: 16 << 20,
    };
    match decode_rgb(bytes, "some/file", &limits) {
        Ok(image) => {
            let (width, height) = image.dimensions();
            assert!(width > 0 && height > 0);
            assert!(u64::from(width) * u64::from(height) <= limits.max_pixels);
        }
        Err(error) => assert!(error.to_string().contains("some/file"), "{error}"),
    }
});
