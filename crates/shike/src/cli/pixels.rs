//! What becomes of the pixels of files: options of commands that prepare pictures.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use shike_data::inspect::value_range;
use shike_data::{Dataset, Decoding, Fit, Pipeline};

use super::CliError;

/// What becomes of the pixels of files.
#[derive(Args, Clone, Debug, Default)]
pub struct PixelArgs {
    /// Pictures whose EXIF data say how the camera was held: turn them `upright`, or take them as they are `stored`
    /// [default: upright where settings are chosen for the pictures, else as the recipe says].
    #[arg(long, value_parser = exif(), value_name = "upright|stored")]
    pub exif: Option<bool>,
    /// How a picture of another shape becomes what the network sees: `crop` cuts its ends off, `pad` and `squash` keep
    /// all of it, with grey around it or stretched [default: pad where a crop would keep less than two thirds of the
    /// median picture, else crop].
    #[arg(long)]
    pub fit: Option<Fit>,
    /// The values of 16-bit pictures that become black and white, as in 0..4095; `auto` takes those between which 99.8 %
    /// of the pixels of the training pictures are [default: 0..65535].
    #[arg(long, value_name = "LOW..HIGH|auto")]
    pub range: Option<Range>,
    /// The colour that transparent pixels are laid over: `white`, `black`, or red, green and blue from 0 to 255, as in
    /// 124,116,104 [default: alpha is dropped, and what lies under it is seen].
    #[arg(long, value_name = "COLOR", value_parser = colour)]
    pub background: Option<[u8; 3]>,
}

/// Values of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Those that the pictures have.
    Auto,
    /// These.
    Given([u16; 2]),
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bounds = text.split_once("..").and_then(|(low, high)| {
            let (low, high) = (low.parse().ok()?, high.parse().ok()?);
            (low < high).then_some([low, high])
        });
        let wanted = "wanted two values from 0 to 65535, the lower first, as in 0..4095, or auto";
        bounds.map(Self::Given).ok_or_else(|| wanted.to_owned())
    }
}

fn exif() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["upright", "stored"]).map(|value| value == "upright")
}

fn colour(text: &str) -> Result<[u8; 3], String> {
    match text {
        "white" => return Ok([255; 3]),
        "black" => return Ok([0; 3]),
        _ => {}
    }
    let parts: Vec<u8> = text
        .split(',')
        .map_while(|part| part.parse().ok())
        .collect();
    let whole = parts.len() == text.split(',').count();
    let wanted = "wanted white, black, or three numbers from 0 to 255, as in 124,116,104";
    let colour = <[u8; 3]>::try_from(parts).ok().filter(|_| whole);
    colour.ok_or_else(|| wanted.to_owned())
}

impl PixelArgs {
    /// Finds the values for `--range auto` in these pictures.
    pub(super) fn settle<'a>(
        &mut self,
        pictures: impl IntoIterator<Item = &'a Dataset>,
    ) -> Result<(), CliError> {
        if self.range == Some(Range::Auto) {
            let found = value_range(pictures).ok_or_else(|| {
                let message =
                    "--range auto: none of the pictures has 16 bits that differ: leave it out";
                CliError::Usage(message.into())
            })?;
            self.range = Some(Range::Given(found));
        }
        Ok(())
    }

    /// The first of these options that was given.
    pub(super) fn first(&self) -> Option<&'static str> {
        [
            (self.exif.is_some(), "--exif"),
            (self.fit.is_some(), "--fit"),
            (self.range.is_some(), "--range"),
            (self.background.is_some(), "--background"),
        ]
        .into_iter()
        .find_map(|(given, option)| given.then_some(option))
    }

    /// A pipeline with what was given.
    pub(super) fn apply(&self, pipeline: &Pipeline) -> Pipeline {
        let old = pipeline.decoding();
        let pipeline = pipeline.decoded(&Decoding {
            upright: self.exif.unwrap_or(old.upright),
            range: match self.range {
                Some(Range::Given(range)) => range,
                _ => old.range,
            },
            background: self.background.or(old.background),
        });
        match self.fit {
            Some(fit) => pipeline.fitted(fit),
            None => pipeline,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_colours() {
        assert_eq!("0..4095".parse(), Ok(Range::Given([0, 4095])));
        assert_eq!("auto".parse(), Ok(Range::Auto));
        for text in ["4095", "5..5", "9..3", "0..65536", "-1..3", "a..b", ""] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains("as in 0..4095"), "{text}: {error}");
        }
        assert_eq!(colour("white"), Ok([255; 3]));
        assert_eq!(colour("1,20,255"), Ok([1, 20, 255]));
        for text in ["1,2", "1,2,3,4", "1,2,256", "grey", "1,2,", ""] {
            assert!(colour(text).is_err(), "{text}");
        }
    }
}
