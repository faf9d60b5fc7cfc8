//! One image: can it be read, and what does it hold.

use xxhash_rust::xxh3::xxh3_128;

use super::pixels::Header;
use super::{Depth, InspectConfig, looks_like};
use crate::dataset::{Dataset, Raw};
use crate::decode::Decoding;
use crate::error::Result;

/// Length and hash of an image's bytes.
pub(super) type Content = (u64, u128);

/// What an image holds that was read to its end: its bytes, and how it looks.
pub(super) type Seen = (Content, Option<u128>);

/// What the image holds, if it was read to its end; or why it cannot be used.
pub(super) type Checked = std::result::Result<Option<Seen>, String>;

/// Beside it what the header says, where that can be read.
pub(super) fn check(data: &Dataset, i: usize, config: &InspectConfig) -> (Option<Header>, Checked) {
    let mut header = None;
    let checked = match config.depth {
        Depth::Header => Header::read(data, i, &config.limits).map(|found| {
            header = found;
            None
        }),
        Depth::Full => whole(data, i, config, &mut header).map(Some),
    };
    let checked = checked.map_err(|error| {
        let text = error.to_string();
        let reason = text.strip_prefix(&data.origin(i));
        let reason = reason.and_then(|text| text.strip_prefix(": "));
        reason.unwrap_or(&text).to_owned()
    });
    (header, checked)
}

fn whole(
    data: &Dataset,
    i: usize,
    config: &InspectConfig,
    header: &mut Option<Header>,
) -> Result<Seen> {
    data.read(i, |raw, origin| {
        if let Raw::Encoded(bytes) = raw {
            *header = Some(Header::of(bytes, origin, &config.limits)?);
        }
        let image = raw.decode(origin, &config.limits, &Decoding::default())?;
        let bytes = raw.bytes();
        Ok(((bytes.len() as u64, xxh3_128(bytes)), looks_like(&image)))
    })
}
