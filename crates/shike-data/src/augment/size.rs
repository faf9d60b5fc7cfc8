//! Width and height of what comes out of a transform.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Width and height in pixels. In text one number where they are equal, else `[width, height]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels of a row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
}

impl Size {
    /// The shorter side.
    pub fn short(self) -> u32 {
        self.width.min(self.height)
    }

    /// As tensors have it.
    pub fn height_width(self) -> [usize; 2] {
        [self.height as usize, self.width as usize]
    }

    /// Both sides changed.
    pub fn map(self, f: impl Fn(u32) -> u32) -> Self {
        Self {
            width: f(self.width),
            height: f(self.height),
        }
    }
}

impl From<u32> for Size {
    fn from(side: u32) -> Self {
        Self {
            width: side,
            height: side,
        }
    }
}

impl fmt::Display for Size {
    /// `224`, or `160x320`: width first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width == self.height {
            true => write!(f, "{}", self.width),
            false => write!(f, "{}x{}", self.width, self.height),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| match text.parse() {
            Ok(side @ 1..=super::MAX_SIDE) => Ok(side),
            _ => Err(format!(
                "{text:?}: a side is a whole number from 1 to {}, as in 224 or 160x320 (width x height)",
                super::MAX_SIDE
            )),
        };
        match text.split_once(['x', '×']) {
            None => side(text).map(Self::from),
            Some((width, height)) => Ok(Self {
                width: side(width)?,
                height: side(height)?,
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a side in pixels, or [width, height]")]
enum Sides {
    One(u32),
    Two([u32; 2]),
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.width == self.height {
            true => Sides::One(self.width),
            false => Sides::Two([self.width, self.height]),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Sides::deserialize(deserializer)? {
            Sides::One(side) => side.into(),
            Sides::Two([width, height]) => Self { width, height },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_two() {
        let wide = Size {
            width: 320,
            height: 160,
        };
        for (size, text, json) in [
            (Size::from(224), "224", "224"),
            (wide, "320x160", "[320,160]"),
        ] {
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(size.to_string(), text);
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
            assert_eq!(serde_json::from_str::<Size>(json).unwrap(), size);
        }
        for text in ["0", "", "12x", "x9", "16385", "1x2x3", "-4"] {
            assert!(
                text.parse::<Size>().unwrap_err().contains("as in 224"),
                "{text}"
            );
        }
    }
}
