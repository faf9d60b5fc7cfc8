//! How large an image may be, and what happens to one that is refused.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use image::error::{DecodingError, LimitError, LimitErrorKind};
use image::{ImageError, ImageFormat};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, panic_text};

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeLimits {
    /// Most pixels that a header may announce. The default is where Pillow refuses: 178,956,970.
    pub max_pixels: u64,
    /// Most bytes that one image may take while it is read: its file, what stands in that besides
    /// the picture, and its pixels. The default is 512 MiB.
    pub max_alloc: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_pixels: 178_956_970,
            max_alloc: 512 << 20,
        }
    }
}

impl DecodeLimits {
    /// Checks the size of a picture, and how much it takes besides the `bytes` of its file.
    ///
    /// # Errors
    /// [`Refused`] if it is too large.
    pub(crate) fn check(&self, size: (u32, u32), bytes: u64) -> std::result::Result<(), Refused> {
        if u64::from(size.0) * u64::from(size.1) > self.max_pixels {
            return Err(Refused::TooLarge(size, self.max_pixels));
        }
        if bytes > self.max_alloc {
            return Err(Refused::TooMuch);
        }
        Ok(())
    }
}

/// Why an image was refused, before the name of its file is known.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The end is missing.
    CutOff,
    /// Width and height, and the pixels that are allowed.
    TooLarge((u32, u32), u64),
    /// It takes more memory than it may.
    TooMuch,
    /// It is of a kind that is not read.
    Kind(String),
    /// It makes no sense.
    Damaged(ImageFormat, String),
}

impl Refused {
    pub(crate) fn of(self, origin: &str) -> DataError {
        let origin = origin.to_owned();
        let source = match self {
            Self::CutOff => return DataError::Truncated { origin },
            Self::TooLarge((width, height), max_pixels) => {
                return DataError::TooLarge {
                    origin,
                    width,
                    height,
                    max_pixels,
                };
            }
            Self::Kind(problem) => return DataError::NotAnImage { origin, problem },
            Self::TooMuch => {
                ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
            }
            Self::Damaged(format, problem) => {
                ImageError::Decoding(DecodingError::new(format.into(), problem))
            }
        };
        DataError::Decode { origin, source }
    }
}

thread_local! {
    /// Whether this thread is in a decoder, whose panics are reported as errors.
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Calls a decoder. A panic of it is an error about the image, and nothing is printed.
pub(crate) fn caught<T>(
    format: ImageFormat,
    decoder: impl FnOnce() -> std::result::Result<T, Refused>,
) -> std::result::Result<T, Refused> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                report(panic);
            }
        }));
    });
    DECODING.set(true);
    let made = catch_unwind(AssertUnwindSafe(decoder));
    DECODING.set(false);
    made.unwrap_or_else(|panic| {
        let problem = format!("the decoder panicked: {}", panic_text(&*panic));
        Err(Refused::Damaged(format, problem))
    })
}
