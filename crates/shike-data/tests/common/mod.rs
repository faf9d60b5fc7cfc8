//! What the tests over golden values and real data share.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use shike_data::rng::{Draw, Purpose, rng};
use shike_data::{DataError, DecodeLimits, Pipeline, Raw, Result, Transform, decode_rgb, prepare};

/// A folder of `shared/`, or `None` with a note if there is no `shared/` here.
pub fn shared(test: &str, folder: &str) -> Option<PathBuf> {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !shared.exists() {
        // Past the test harness, which shows what a test that passes has printed only on demand.
        let line = format!("SKIPPED {test}: shared/ is not here\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return None;
    }
    Some(shared.join(folder))
}

/// A folder of the golden values. See [`shared`].
pub fn golden(test: &str, set: &str) -> Option<PathBuf> {
    shared(test, &format!("golden/{set}"))
}

pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Shape and values of one array of an `.npz` file.
pub fn npz<T: npyz::Deserialize>(path: &Path, name: &str) -> (Vec<u64>, Vec<T>) {
    let mut archive =
        npyz::npz::NpzArchive::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let array = archive.by_name(name).unwrap().unwrap();
    (array.shape().to_vec(), array.into_vec().unwrap())
}

/// The unpacked bytes of an `.xz` file.
pub fn unxz(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut out = Vec::new();
    liblzma::read::XzDecoder::new(BufReader::new(file))
        .read_to_end(&mut out)
        .unwrap();
    out
}

/// CPython's `random` module: MT19937 with its seeding and its way to draw.
pub struct MersenneTwister {
    state: [u32; 624],
    at: usize,
}

impl MersenneTwister {
    /// `random.seed(seed)`.
    pub fn seeded(seed: u32) -> Self {
        let mut state = [0u32; 624];
        state[0] = 19_650_218;
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        // init_by_array with the one word `seed`.
        let mix = |state: &[u32; 624], i: usize, factor: u32| {
            state[i] ^ (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(factor)
        };
        let mut i = 1;
        for _ in 0..624 {
            state[i] = mix(&state, i, 1_664_525).wrapping_add(seed);
            i += 1;
            if i == 624 {
                state[0] = state[623];
                i = 1;
            }
        }
        for _ in 0..623 {
            state[i] = mix(&state, i, 1_566_083_941).wrapping_sub(i as u32);
            i += 1;
            if i == 624 {
                state[0] = state[623];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, at: 624 }
    }

    fn word(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7FFF_FFFF);
                let twist = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }
}

impl Draw for MersenneTwister {
    fn below(&mut self, n: u32) -> u32 {
        let bits = 32 - n.leading_zeros();
        loop {
            let value = self.word() >> (32 - bits);
            if value < n {
                return value;
            }
        }
    }

    fn unit(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }
}

/// A file, decoded.
pub fn decode_file(path: &Path, limits: &DecodeLimits) -> Result<RgbImage> {
    decode_rgb(&bytes(path)?, &path.display().to_string(), limits)
}

/// A file, prepared as the loader does.
pub fn prepare_file(
    path: &Path,
    pipeline: &Pipeline,
    limits: &DecodeLimits,
    random: &mut ChaCha8Rng,
) -> Result<RgbImage> {
    let bytes = bytes(path)?;
    let origin = path.display().to_string();
    prepare(Raw::Encoded(&bytes), &origin, pipeline, limits, random)
}

/// A file, decoded and turned as its EXIF data say.
pub fn decode_file_upright(path: &Path, limits: &DecodeLimits) -> Result<RgbImage> {
    let upright = Pipeline {
        transforms: vec![Transform::ExifOrientation],
    };
    let mut unused = rng(0, 0, 0, Purpose::Other);
    prepare_file(path, &upright, limits, &mut unused)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    shike_data::read::read(path).map_err(|source| DataError::Io {
        path: path.to_owned(),
        source,
    })
}
