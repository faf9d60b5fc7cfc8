//! The short way from the file of a photograph to its crop.
//!
//! Decoding takes most of the time of a photograph, so only the rows that a crop reaches are
//! decoded. Pixels stay at four bytes from the decoder to the resizer, which vector instructions like better
//! than three, and lie in memory that each thread keeps.
//!
//! The resizer is that of `fast_image_resize`: the same filter as Pillow's, but with coefficients
//! of 16 bits where Pillow has 22, so that values differ by at most 1 of 255 from
//! [`resized_crop`](crate::augment::resized_crop), which is exact. JPEG decoders differ from one
//! another by more. What is not a JPEG loses nothing when it is decoded, and takes the exact way.

use std::cell::RefCell;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x4;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use rand_chacha::ChaCha8Rng;

use crate::augment::{CropBox, Interpolation, Pipeline, Transform, center_crop_corner, on_canvas};
use crate::dataset::Raw;
use crate::decode::DecodeLimits;
#[cfg(doc)]
use crate::decode::decode_rgb;
use crate::decode::exif::{stored, turned, upright};
use crate::decode::header::sniff;
use crate::decode::jpeg::{Frame, decode_rows, frame_within, turn};
use crate::error::{DataError, Result};
use crate::rng::Draw;
use crate::scratch;

/// What one thread needs to prepare photographs; `file` is a copy that the decoder may change.
#[derive(Default)]
struct Workspace {
    file: Vec<u8>,
    /// The decoded picture, one whose columns alone are resized, and the resized one, four bytes a pixel.
    decoded: Vec<u8>,
    columns: Vec<u8>,
    resized: Vec<u8>,
    resizer: Resizer,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Decodes an image and applies all transforms of `pipeline`: what the loader does with it. `origin` is
/// the name used in error messages. Pixels of a JPEG that is resized first may differ by 1 from those of
/// [`decode_rgb`] and [`Pipeline::apply`].
///
/// # Errors
/// Those of [`decode_rgb`] and [`Pipeline::apply`].
pub fn prepare(
    raw: Raw<'_>,
    origin: &str,
    pipeline: &Pipeline,
    limits: &DecodeLimits,
    rng: &mut ChaCha8Rng,
) -> Result<RgbImage> {
    let resizes = matches!(
        pipeline.of_pixels().first(),
        Some(
            Transform::RandomResizedCrop { .. }
                | Transform::Resize { .. }
                | Transform::Cover { .. }
                | Transform::Squash { .. }
                | Transform::Pad { .. }
        )
    );
    if let Raw::Encoded(file) = raw
        && resizes
        && sniff(file, origin)?.image == ImageFormat::Jpeg
    {
        let frame = frame_within(file, limits).map_err(|refused| refused.of(origin))?;
        // Inks take the exact way, too.
        if frame.components < 4 {
            return WORKSPACE.with_borrow_mut(|space| {
                space.file.clear();
                space.file.extend_from_slice(file);
                let made = space.jpeg(&frame, origin, pipeline, rng);
                let Workspace {
                    file,
                    decoded,
                    columns,
                    resized,
                    ..
                } = space;
                for buffer in [file, decoded, columns, resized] {
                    scratch::trim(buffer);
                }
                if space.resizer.size_of_internal_buffers() > scratch::KEEP {
                    space.resizer.reset_internal_buffers();
                }
                made
            });
        }
    }
    let image = raw.decode(origin, limits, &pipeline.decoding())?;
    Pipeline::apply_all(pipeline.of_pixels(), image, rng)
}

impl Workspace {
    /// The draws are those of [`Pipeline::apply`], in the same order.
    fn jpeg(
        &mut self,
        frame: &Frame,
        origin: &str,
        pipeline: &Pipeline,
        rng: &mut ChaCha8Rng,
    ) -> Result<RgbImage> {
        let turn = match pipeline.decoding().upright {
            true => turn(&self.file).unwrap_or(Orientation::NoTransforms),
            false => Orientation::NoTransforms,
        };
        let (width, height) = upright((frame.width, frame.height), turn);
        let transforms = pipeline.of_pixels();
        let Some(taken) = transforms[0].takes(width, height, rng)? else {
            unreachable!("the caller looked");
        };
        // Turning the few pixels that come out takes no time.
        let area = stored(taken.area, (frame.width, frame.height), turn);
        let size = upright((taken.to.width, taken.to.height), turn);
        let rows = decode_rows(
            &mut self.file,
            frame,
            area.top + area.height,
            &mut self.decoded,
        )
        .map_err(|refused| refused.of(origin))?;
        let from = (frame.width, rows);
        self.resize(from, area, size, taken.interpolation)?;

        let mut rest = &transforms[1..];
        if turn != Orientation::NoTransforms || taken.canvas.is_some() {
            let all = CropBox::whole(size.0, size.1);
            let mut image = turned(pack(&self.resized, size.0, all, false), turn);
            if let Some(canvas) = taken.canvas {
                image = on_canvas(image, canvas);
            }
            return Pipeline::apply_all(rest, image, rng);
        }
        // The crop and the flip that follow are done while the fourth byte is dropped.
        let mut part = CropBox::whole(size.0, size.1);
        if let [Transform::CenterCrop { size: side }, after @ ..] = rest
            && side.width <= size.0
            && side.height <= size.1
        {
            part = CropBox {
                top: center_crop_corner(size.1, side.height) as u32,
                left: center_crop_corner(size.0, side.width) as u32,
                height: side.height,
                width: side.width,
            };
            rest = after;
        }
        let mut flip = false;
        if let [Transform::HorizontalFlip { p }, after @ ..] = rest {
            flip = rng.coin(*p);
            rest = after;
        }
        let image = pack(&self.resized, size.0, part, flip);
        Pipeline::apply_all(rest, image, rng)
    }

    /// Resizes `area` of the decoded picture.
    fn resize(
        &mut self,
        from: (u32, u32),
        area: CropBox,
        to: (u32, u32),
        interpolation: Interpolation,
    ) -> Result<()> {
        let Self {
            decoded, resized, ..
        } = self;
        let resizer = &mut self.resizer;
        let decoded = &decoded[..from.0 as usize * from.1 as usize * 4];
        match interpolation {
            Interpolation::Bilinear => {
                let filter = FilterType::Bilinear;
                resize(resizer, decoded, from, area, resized, to, filter)
            }
            // A filter with negative weights overshoots, and each pass cuts that off: the resizer takes rows
            // first if it is asked for both, and Pillow columns.
            Interpolation::Bicubic => {
                let (filter, between) = (FilterType::CatmullRom, (to.0, area.height));
                let columns = &mut self.columns;
                resize(resizer, decoded, from, area, columns, between, filter)?;
                let all = CropBox::whole(between.0, between.1);
                resize(resizer, columns, between, all, resized, to, filter)
            }
        }
    }
}

/// Resizes `area` of a picture with four bytes a pixel.
fn resize(
    resizer: &mut Resizer,
    source: &[u8],
    from: (u32, u32),
    area: CropBox,
    target: &mut Vec<u8>,
    to: (u32, u32),
    filter: FilterType,
) -> Result<()> {
    target.resize(to.0 as usize * to.1 as usize * 4, 0);
    // The fourth byte is no alpha: nothing is multiplied by it.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .use_alpha(false);
    let problem = |e: &dyn std::fmt::Display| DataError::Transform {
        transform: "resize",
        problem: e.to_string(),
    };
    // With the type of the pixels known, the resizer is compiled for that one alone.
    let source =
        TypedImageRef::<U8x4>::from_buffer(from.0, from.1, source).map_err(|e| problem(&e))?;
    // Not `ResizeOptions::crop`, whose filter would reach beyond the box.
    let source = TypedCroppedImage::from_ref(&source, area.left, area.top, area.width, area.height)
        .map_err(|e| problem(&e))?;
    let mut target =
        TypedImage::<U8x4>::from_buffer(to.0, to.1, target).map_err(|e| problem(&e))?;
    resizer
        .resize_typed(&source, &mut target, &options)
        .map_err(|e| problem(&e))
}

/// Three bytes a pixel of `area` of a picture of four bytes a pixel that is `width` wide.
fn pack(pixels: &[u8], width: u32, area: CropBox, flip: bool) -> RgbImage {
    let mut out = scratch::black(area.width, area.height);
    let (row, columns) = (width as usize * 4, area.width as usize);
    let lines = pixels.chunks_exact(row).skip(area.top as usize);
    for (line, out) in lines.zip(out.chunks_exact_mut(columns * 3)) {
        let line = &line[area.left as usize * 4..][..columns * 4];
        if flip {
            for (from, to) in line.chunks_exact(4).rev().zip(out.chunks_exact_mut(3)) {
                to.copy_from_slice(&from[..3]);
            }
            continue;
        }
        // Four pixels are three words.
        let mut groups = line.chunks_exact(16);
        let mut to = out.chunks_exact_mut(12);
        for (from, to) in groups.by_ref().zip(to.by_ref()) {
            let word = |i: usize| {
                u32::from_le_bytes([
                    from[4 * i],
                    from[4 * i + 1],
                    from[4 * i + 2],
                    from[4 * i + 3],
                ])
            };
            let [a, b, c, d] = [word(0), word(1), word(2), word(3)].map(|w| w & 0xFF_FFFF);
            to[..4].copy_from_slice(&(a | b << 24).to_le_bytes());
            to[4..8].copy_from_slice(&(b >> 8 | c << 16).to_le_bytes());
            to[8..].copy_from_slice(&(c >> 16 | d << 8).to_le_bytes());
        }
        for (from, to) in groups
            .remainder()
            .chunks_exact(4)
            .zip(to.into_remainder().chunks_exact_mut(3))
        {
            to.copy_from_slice(&from[..3]);
        }
    }
    out
}
