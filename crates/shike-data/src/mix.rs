//! Mixing the images of a batch and their labels.
//!
//! Mixup (Zhang et al. 2018, arXiv 1710.09412) blends two images, CutMix (Yun et al. 2019,
//! arXiv 1905.04899) cuts a box out of one and puts it into the other; labels are shared out in the
//! same proportion. A batch is mixed with itself in reverse order, as in timm: its order is random
//! already, and pairs can be mixed where they lie.

use serde::{Deserialize, Serialize};

use crate::augment::CropBox;
use crate::error::{DataError, Result};
use crate::rng::{Draw, Purpose, rng};

/// How batches are mixed. The default mixes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixing {
    /// Mixup's shares are drawn from Beta(α, α); 0 for no mixup.
    pub mixup_alpha: f64,
    /// CutMix's shares are drawn from Beta(α, α); 0 for no CutMix.
    pub cutmix_alpha: f64,
    /// Probability that a batch is mixed.
    pub probability: f64,
    /// Probability of CutMix where both are wanted.
    pub switch_probability: f64,
}

impl Default for Mixing {
    fn default() -> Self {
        Self {
            mixup_alpha: 0.0,
            cutmix_alpha: 0.0,
            probability: 1.0,
            switch_probability: 0.5,
        }
    }
}

/// How one batch is mixed: image `i` of `n` with image `n - 1 - i`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Share of an image in itself; the rest is its partner's.
    pub share: f64,
    /// The box that comes from the partner (CutMix); without one, pixels are blended (mixup).
    pub cut: Option<CropBox>,
}

impl Mixing {
    /// Checks every field.
    ///
    /// # Errors
    /// [`DataError::Field`] naming the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("mixup_alpha", self.mixup_alpha, 1000.0),
            ("cutmix_alpha", self.cutmix_alpha, 1000.0),
            ("probability", self.probability, 1.0),
            ("switch_probability", self.switch_probability, 1.0),
        ];
        for (field, value, max) in fields {
            if !(0.0..=max).contains(&value) {
                return Err(DataError::field(
                    field,
                    format!("is {value}, must be 0 to {max}"),
                ));
            }
        }
        let (usual, wanted) = (Self::default(), [self.mixup_alpha, self.cutmix_alpha]);
        let wanted = wanted.iter().filter(|alpha| **alpha > 0.0).count();
        let idle = match wanted {
            0 if self.probability != usual.probability => Some(("probability", "one of")),
            0 | 1 if self.switch_probability != usual.switch_probability => {
                Some(("switch_probability", "both of"))
            }
            _ => None,
        };
        match idle {
            None => Ok(()),
            Some((field, needed)) => Err(DataError::field(
                field,
                format!("has no effect without {needed} mixup_alpha and cutmix_alpha"),
            )),
        }
    }

    /// How batch `batch` of an epoch is mixed, if it is. A function of the arguments alone.
    pub fn draw(&self, height: u32, width: u32, seed: u64, epoch: u64, batch: u64) -> Option<Mix> {
        let mut draw = rng(seed, epoch, batch, Purpose::Mix);
        let (mixup, cutmix) = (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0);
        if !(mixup || cutmix) || !draw.coin(self.probability) {
            return None;
        }
        if !mixup || (cutmix && draw.coin(self.switch_probability)) {
            let share = beta(self.cutmix_alpha, &mut draw);
            return Some(cut_mix(height, width, share, &mut draw));
        }
        Some(Mix {
            share: beta(self.mixup_alpha, &mut draw),
            cut: None,
        })
    }
}

/// The paper's box: `1 - share` of the area, its centre anywhere, cut off at the border; the share
/// is then counted again.
fn cut_mix(height: u32, width: u32, share: f64, draw: &mut impl Draw) -> Mix {
    let scale = (1.0 - share).sqrt();
    let mut span = |side: u32| {
        let half = (f64::from(side) * scale) as u32 / 2;
        let centre = draw.below(side);
        (centre.saturating_sub(half), (centre + half).min(side))
    };
    let (top, bottom) = span(height);
    let (left, right) = span(width);
    let cut = CropBox {
        top,
        left,
        height: bottom - top,
        width: right - left,
    };
    let area = |h: u32, w: u32| f64::from(h) * f64::from(w);
    Mix {
        share: 1.0 - area(cut.height, cut.width) / area(height, width),
        cut: Some(cut),
    }
}

/// A number from Beta(α, α), `alpha` above 0.
fn beta(alpha: f64, draw: &mut impl Draw) -> f64 {
    let (a, b) = (gamma(alpha, draw), gamma(alpha, draw));
    if a + b > 0.0 {
        a / (a + b)
    } else {
        // Both are below the smallest number: nearly all of this distribution is 0 or 1.
        f64::from(draw.below(2))
    }
}

/// A number from Gamma(shape, 1), by Marsaglia and Tsang (2000).
fn gamma(shape: f64, draw: &mut impl Draw) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - draw.unit()).powf(1.0 / shape);
        return gamma(shape + 1.0, draw) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = draw.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - draw.unit();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

impl Mix {
    /// Mixes the pixels of a batch, `[n, height, width, 3]`, where they lie; blends are rounded to
    /// the nearest value.
    pub fn apply(&self, images: &mut [u8], n: usize, width: usize) {
        let size = images.len() / n.max(1);
        for i in 0..n / 2 {
            let (first, second) = images.split_at_mut((n - 1 - i) * size);
            self.pair(&mut first[i * size..][..size], &mut second[..size], width);
        }
    }

    /// Mixes two images with each other.
    fn pair(&self, a: &mut [u8], b: &mut [u8], width: usize) {
        let Some(cut) = self.cut else {
            let share = self.share as f32;
            for (a, b) in a.iter_mut().zip(b) {
                let (x, y) = (f32::from(*a), f32::from(*b));
                *a = (share * x + (1.0 - share) * y + 0.5) as u8;
                *b = (share * y + (1.0 - share) * x + 0.5) as u8;
            }
            return;
        };
        let lines = a
            .chunks_exact_mut(3 * width)
            .zip(b.chunks_exact_mut(3 * width));
        let columns = 3 * cut.left as usize..3 * (cut.left + cut.width) as usize;
        for (a, b) in lines.skip(cut.top as usize).take(cut.height as usize) {
            a[columns.clone()].swap_with_slice(&mut b[columns.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BOTH: Mixing = Mixing {
        mixup_alpha: 0.3,
        cutmix_alpha: 1.0,
        probability: 0.8,
        switch_probability: 0.25,
    };

    #[test]
    fn shares_have_the_moments_of_beta() {
        for alpha in [0.2, 0.3, 1.0, 4.0] {
            let mut draw = rng(1, 0, 0, Purpose::Other);
            let n = 20_000;
            let shares: Vec<f64> = (0..n).map(|_| beta(alpha, &mut draw)).collect();
            assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)));
            let mean = shares.iter().sum::<f64>() / f64::from(n);
            let variance = shares.iter().map(|s| (s - 0.5).powi(2)).sum::<f64>() / f64::from(n);
            let want = 0.25 / (2.0 * alpha + 1.0);
            // Six standard errors; (share - 1/2)^2 lies between 0 and 1/4.
            assert!(
                (mean - 0.5).abs() < 6.0 * (want / f64::from(n)).sqrt(),
                "{alpha}: {mean}"
            );
            let error = (0.25 * want / f64::from(n)).sqrt();
            assert!((variance - want).abs() < 6.0 * error, "{alpha}: {variance}");
        }
        let mut draw = rng(1, 0, 0, Purpose::Other);
        assert!((0..100).all(|_| [0.0, 1.0].contains(&beta(1e-12, &mut draw))));
    }

    #[test]
    fn draws_depend_on_the_batch_alone_and_come_as_often_as_wanted() {
        BOTH.validate().unwrap();
        let (mut cuts, mut blends) = (0.0, 0.0);
        for batch in 0..4000 {
            let mix = BOTH.draw(24, 32, 7, 1, batch);
            assert_eq!(mix, BOTH.draw(24, 32, 7, 1, batch));
            match mix {
                Some(Mix {
                    cut: Some(cut),
                    share,
                }) => {
                    cuts += 1.0;
                    assert!(cut.top + cut.height <= 24 && cut.left + cut.width <= 32);
                    let area = f64::from(cut.width * cut.height) / (24.0 * 32.0);
                    assert!((share + area - 1.0).abs() < 1e-12);
                }
                Some(_) => blends += 1.0,
                None => {}
            }
        }
        // 0.8 * 0.25 and 0.8 * 0.75, six standard deviations.
        assert!((cuts - 800.0f64).abs() < 6.0 * 25.3, "{cuts}");
        assert!((blends - 2400.0f64).abs() < 6.0 * 31.0, "{blends}");
        assert_eq!(Mixing::default().draw(24, 32, 7, 1, 0), None);
        let error = Mixing {
            probability: 1.5,
            ..BOTH
        }
        .validate()
        .unwrap_err();
        assert!(error.to_string().starts_with("probability"), "{error}");
    }

    #[test]
    fn pixels() {
        // Three images of 2 x 2, of value 10, 20 and 41.
        let batch: Vec<u8> = [10, 20, 41].iter().flat_map(|&v| [v; 12]).collect();
        let mut blended = batch.clone();
        let mix = Mix {
            share: 0.75,
            cut: None,
        };
        mix.apply(&mut blended, 3, 2);
        // 17.75 and 33.25; the middle one is its own partner.
        assert_eq!([0, 12, 24].map(|i| blended[i]), [18, 20, 33]);

        let cut = Mix {
            share: 0.75,
            cut: Some(CropBox {
                top: 1,
                left: 0,
                height: 1,
                width: 1,
            }),
        };
        let mut pasted = batch.clone();
        cut.apply(&mut pasted, 3, 2);
        assert_eq!(
            pasted[..12],
            [10, 10, 10, 10, 10, 10, 41, 41, 41, 10, 10, 10]
        );
        assert_eq!(
            pasted[24..],
            [41, 41, 41, 41, 41, 41, 10, 10, 10, 41, 41, 41]
        );
    }
}
