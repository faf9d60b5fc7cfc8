//! EXIF data: how a camera was held, and when.

use exif::{DateTime, In, Reader, Tag, Value};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::header::sniff;
use super::limits::{DecodeLimits, Refused};
use crate::augment::CropBox;

/// Turns `image`, whose file has so many bytes.
///
/// # Errors
/// [`Refused`] if there is no room for the turned picture beside the other.
pub(crate) fn turn_upright(
    image: RgbImage,
    turn: Orientation,
    file: usize,
    limits: &DecodeLimits,
) -> std::result::Result<RgbImage, Refused> {
    let both = 2 * image.as_raw().len() as u64 + file as u64;
    limits.check(image.dimensions(), both)?;
    Ok(turned(image, turn))
}

/// Whether rows become columns.
fn is_across(turn: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(turn, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
}

/// Width and height after the turn of a picture of this size; or before it, of one that is turned.
pub(crate) fn upright((width, height): (u32, u32), turn: Orientation) -> (u32, u32) {
    match is_across(turn) {
        true => (height, width),
        false => (width, height),
    }
}

/// Where a box of the turned picture lies in the picture as it is stored, which is of this size.
pub(crate) fn stored(area: CropBox, (width, height): (u32, u32), turn: Orientation) -> CropBox {
    use Orientation::{
        FlipHorizontal, FlipVertical, Rotate90, Rotate180, Rotate270, Rotate270FlipH,
    };
    let mut area = match is_across(turn) {
        true => CropBox {
            top: area.left,
            left: area.top,
            height: area.width,
            width: area.height,
        },
        false => area,
    };
    if matches!(
        turn,
        FlipHorizontal | Rotate180 | Rotate270 | Rotate270FlipH
    ) {
        area.left = width - area.left - area.width;
    }
    if matches!(turn, FlipVertical | Rotate180 | Rotate90 | Rotate270FlipH) {
        area.top = height - area.top - area.height;
    }
    area
}

/// Turns a picture.
pub(crate) fn turned(image: RgbImage, turn: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(turn);
    image.into_rgb8()
}

/// When the picture was taken by the EXIF data in `file`, in seconds since 1970 by the camera's own clock: the time of
/// the exposure, else of the file that the camera wrote.
pub(crate) fn taken(file: &[u8]) -> Option<i64> {
    let exif = (sniff(file, "").ok()?.exif)(file)?;
    let mut reader = Reader::new();
    // Cameras write much that is no EXIF.
    reader.continue_on_error(true);
    let exif = reader.read_raw(exif.to_vec());
    let exif = exif
        .or_else(|error| error.distill_partial_result(|_| {}))
        .ok()?;
    let time = |tag| match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(texts) => DateTime::from_ascii(texts.first()?).ok(),
        _ => None,
    };
    let tags = [Tag::DateTimeOriginal, Tag::DateTimeDigitized, Tag::DateTime];
    let time = tags.into_iter().find_map(time)?;
    // A year that begins in March has its leap day at its end.
    let (year, month) = (i64::from(time.year), i64::from(time.month));
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap + (153 * month + 2) / 5 + i64::from(time.day) - 719_469;
    let (hour, minute, second) = (
        i64::from(time.hour),
        i64::from(time.minute),
        i64::from(time.second),
    );
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::Rgb;

    use super::*;

    /// EXIF data with a text in one field of the first folder, or of that for exposures.
    fn exif(tag: u16, text: &str) -> Vec<u8> {
        let field = |tag: u16, kind: u16, count: u32, value: u32| {
            let mut bytes = [tag.to_be_bytes(), kind.to_be_bytes()].concat();
            bytes.extend(count.to_be_bytes());
            bytes.extend(value.to_be_bytes());
            bytes
        };
        let folder = |field: Vec<u8>| [&[0, 1][..], &field, &[0; 4]].concat();
        let count = text.len() as u32 + 1;
        let mut bytes = b"MM\0\x2A\0\0\0\x08".to_vec();
        match tag {
            0x0132 => bytes.extend(folder(field(tag, 2, count, 26))),
            _ => {
                bytes.extend(folder(field(0x8769, 4, 1, 26)));
                bytes.extend(folder(field(tag, 2, count, 44)));
            }
        }
        bytes.extend(text.bytes());
        bytes.push(0);
        let length = (bytes.len() + 8) as u16;
        [
            b"\xFF\xD8\xFF\xE1",
            &length.to_be_bytes()[..],
            b"Exif\0\0",
            &bytes,
        ]
        .concat()
    }

    #[test]
    fn times_are_read() {
        let read = |tag, text| taken(&exif(tag, text));
        // GNU date -u -d "…" +%s
        assert_eq!(read(0x9003, "2024:02:29 23:59:58"), Some(1_709_251_198));
        assert_eq!(read(0x9004, "1970:01:01 00:00:01"), Some(1));
        assert_eq!(read(0x0132, "2001:03:01 12:00:00"), Some(983_448_000));
        assert_eq!(read(0x0132, "    :  :     :  :  "), None);
        assert_eq!(read(0x9003, "yesterday"), None);
        assert_eq!(taken(b"\xFF\xD8\xFF\xD9"), None);
    }

    #[test]
    fn boxes_are_found_in_what_is_stored() {
        let image = RgbImage::from_fn(7, 5, |x, y| Rgb([x as u8, y as u8, 0]));
        let cut = |image: &RgbImage, area: CropBox| {
            let CropBox {
                top,
                left,
                height,
                width,
            } = area;
            image::imageops::crop_imm(image, left, top, width, height).to_image()
        };
        for number in 1..=8 {
            let turn = Orientation::from_exif(number).unwrap();
            let whole = turned(image.clone(), turn);
            assert_eq!(whole.dimensions(), upright((7, 5), turn), "{number}");
            for (top, left, height, width) in [(0, 0, 2, 3), (1, 3, 3, 2), (2, 1, 1, 4)] {
                let area = CropBox {
                    top,
                    left,
                    height,
                    width,
                };
                let part = cut(&image, stored(area, (7, 5), turn));
                assert_eq!(turned(part, turn), cut(&whole, area), "{number}");
            }
        }
    }
}
