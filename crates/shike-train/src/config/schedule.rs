//! Learning-rate schedules.
//!
//! A rate belongs to an epoch, not to a step: the reference calls its scheduler once per epoch,
//! after validation, and both stages of SHIKE restart the schedule at their own epoch 0. So a
//! schedule is a pure function of the epoch, and a resumed run has no scheduler state to lose.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A rule that gives each epoch of a stage its learning rate.
///
/// # The warm-up line
///
/// `WarmupCosine` and `Step` share the reference's warm-up: for epochs `e < warmup_epochs`
///
/// ```text
/// lr(e) = base_lr + (warmup_lr - base_lr) / (warmup_epochs - 1) * (e - 1)
/// ```
///
/// The `e - 1` is the reference's: epoch 0 trains *below* `base_lr`, epoch 1 at `base_lr`, and the
/// first epoch after the warm-up (`e = warmup_epochs`) at `warmup_lr`. With `warmup_epochs = 1`
/// that line has no slope, and epoch 0 trains at `base_lr`; with 0 there is no warm-up and
/// `base_lr` is not used.
///
/// ```
/// use shike_train::Schedule;
///
/// // Stage 1 of the reference on CIFAR-100-LT.
/// let schedule = Schedule::WarmupCosine {
///     base_lr: 0.05,
///     warmup_lr: 0.15,
///     warmup_epochs: 5,
///     total_epochs: 180,
///     eta_min: 0.0,
/// };
/// assert!((schedule.lr(0) - 0.025).abs() < 1e-12);
/// assert!((schedule.lr(5) - 0.15).abs() < 1e-12);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Linear warm-up, then half a cosine: the schedule of both stages in the reference
    /// (`CosineAnnealingLRWarmup`). For `e >= warmup_epochs`
    /// `eta_min + (warmup_lr - eta_min) * (1 + cos(π (e - warmup_epochs) / (total_epochs - warmup_epochs))) / 2`.
    WarmupCosine {
        /// Rate at epoch 1 of the warm-up (reference: 0.05).
        base_lr: f64,
        /// Peak rate, reached when the warm-up ends (reference: 0.15 in stage 1, 0.1 in stage 2).
        warmup_lr: f64,
        /// Epochs of warm-up (reference: 5).
        warmup_epochs: usize,
        /// The reference's `T_max`: the epoch at which the rate would be `eta_min`. It equals the
        /// number of epochs of the stage, so the last epoch still trains slightly above `eta_min`.
        total_epochs: usize,
        /// Rate at and after `total_epochs` (reference: 0).
        #[serde(default)]
        eta_min: f64,
    },
    /// The same rate in every epoch.
    Constant {
        /// The rate.
        lr: f64,
    },
    /// Linear warm-up, then the rate is multiplied by `gamma` at each milestone, as RIDE, SADE and
    /// NCL do on iNaturalist and Places-LT.
    Step {
        /// Rate at epoch 1 of the warm-up.
        base_lr: f64,
        /// Rate after the warm-up, before the first milestone.
        warmup_lr: f64,
        /// Epochs of warm-up; 0 for none.
        warmup_epochs: usize,
        /// Epochs from which on the rate is multiplied once more, in ascending order.
        milestones: Vec<usize>,
        /// Factor at each milestone, above 0 and at most 1.
        gamma: f64,
    },
}

/// A schedule that cannot be run; the message names the field and says what would be right.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("schedule: {field} = {value}: {expected}")]
pub struct ScheduleError {
    /// The field at fault, as it is spelled in a configuration file.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

/// Rounding noise in the first warm-up rate is no error: `0.1 - 0.2 / 2` may be -1e-17.
const ROUNDING: f64 = 1e-12;

impl Schedule {
    /// One of every kind.
    pub(crate) const KINDS: [Self; 3] = [
        Self::WarmupCosine {
            base_lr: 0.05,
            warmup_lr: 0.1,
            warmup_epochs: 5,
            total_epochs: 10,
            eta_min: 0.0,
        },
        Self::Constant { lr: 0.1 },
        Self::Step {
            base_lr: 0.05,
            warmup_lr: 0.1,
            warmup_epochs: 5,
            milestones: vec![],
            gamma: 0.1,
        },
    ];

    /// The learning rate that `epoch` trains with; `epoch` counts from 0 within the stage.
    ///
    /// Epochs beyond the end of a `WarmupCosine` keep its `eta_min`. Call [`Schedule::validate`]
    /// first: on a schedule that it rejects the rate may be negative or NaN.
    pub fn lr(&self, epoch: usize) -> f64 {
        match self {
            Self::WarmupCosine {
                base_lr,
                warmup_lr,
                warmup_epochs,
                total_epochs,
                eta_min,
            } => {
                if epoch < *warmup_epochs {
                    warmup(*base_lr, *warmup_lr, *warmup_epochs, epoch)
                } else if epoch >= *total_epochs {
                    *eta_min
                } else {
                    // Here warmup_epochs <= epoch < total_epochs, so the divisor is at least 1.
                    let done = (epoch - warmup_epochs) as f64;
                    let span = (total_epochs - warmup_epochs) as f64;
                    let cosine = (std::f64::consts::PI * done / span).cos();
                    eta_min + (warmup_lr - eta_min) * (1.0 + cosine) / 2.0
                }
            }
            Self::Constant { lr } => *lr,
            Self::Step {
                base_lr,
                warmup_lr,
                warmup_epochs,
                milestones,
                gamma,
            } => {
                if epoch < *warmup_epochs {
                    return warmup(*base_lr, *warmup_lr, *warmup_epochs, epoch);
                }
                let passed = milestones.iter().filter(|&&m| m <= epoch).count();
                milestones[..passed]
                    .iter()
                    .fold(*warmup_lr, |lr, _| lr * gamma)
            }
        }
    }

    /// The rate at the end of the warm-up: the highest, unless the warm-up goes downwards.
    pub fn peak(&self) -> f64 {
        match self {
            Self::Constant { lr } => *lr,
            Self::WarmupCosine { warmup_lr, .. } | Self::Step { warmup_lr, .. } => *warmup_lr,
        }
    }

    /// Sets the [`peak`](Self::peak); the first one of a warm-up keeps its ratio to it.
    pub fn set_peak(&mut self, peak: f64) {
        match self {
            Self::Constant { lr } => *lr = peak,
            Self::WarmupCosine {
                base_lr, warmup_lr, ..
            }
            | Self::Step {
                base_lr, warmup_lr, ..
            } => {
                *base_lr *= peak / *warmup_lr;
                *warmup_lr = peak;
            }
        }
    }

    /// As [`validate`](Self::validate); also that a stage of so many epochs reaches every milestone.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn validate_for(&self, epochs: usize) -> Result<(), ScheduleError> {
        self.validate()?;
        match self {
            Self::Step { milestones, .. } if milestones.iter().any(|m| *m >= epochs) => {
                let expected = format!("must be below the {epochs} epochs of the stage");
                fail("milestones", format!("{milestones:?}"), expected)
            }
            _ => Ok(()),
        }
    }

    /// Checks that every epoch gets a finite rate that is not negative.
    ///
    /// # Errors
    ///
    /// A [`ScheduleError`] for the first field that is out of range.
    pub fn validate(&self) -> Result<(), ScheduleError> {
        match self {
            Self::WarmupCosine {
                base_lr,
                warmup_lr,
                warmup_epochs,
                total_epochs,
                eta_min,
            } => {
                check_warmup(*base_lr, *warmup_lr, *warmup_epochs)?;
                if *total_epochs == 0 {
                    return fail("total_epochs", total_epochs, "must be at least 1");
                }
                if warmup_epochs > total_epochs {
                    let expected = format!("must be at most total_epochs = {total_epochs}");
                    return fail("warmup_epochs", warmup_epochs, expected);
                }
                if !(0.0..=*warmup_lr).contains(eta_min) {
                    let expected = format!("must lie between 0 and warmup_lr = {warmup_lr}");
                    return fail("eta_min", eta_min, expected);
                }
                Ok(())
            }
            Self::Constant { lr } => check_rate("lr", *lr),
            Self::Step {
                base_lr,
                warmup_lr,
                warmup_epochs,
                milestones,
                gamma,
            } => {
                check_warmup(*base_lr, *warmup_lr, *warmup_epochs)?;
                let shown = || format!("{milestones:?}");
                if !milestones.is_sorted_by(|a, b| a < b) {
                    return fail("milestones", shown(), "must ascend, each epoch once");
                }
                if milestones.first().is_some_and(|m| m < warmup_epochs) {
                    let expected =
                        format!("must not lie within the {warmup_epochs} warm-up epochs");
                    return fail("milestones", shown(), expected);
                }
                if !(*gamma > 0.0 && *gamma <= 1.0) {
                    return fail("gamma", gamma, "must be above 0 and at most 1");
                }
                Ok(())
            }
        }
    }
}

/// The reference's warm-up line; `epoch < warmup_epochs`.
fn warmup(base_lr: f64, warmup_lr: f64, warmup_epochs: usize, epoch: usize) -> f64 {
    if warmup_epochs < 2 {
        return base_lr;
    }
    let slope = (warmup_lr - base_lr) / (warmup_epochs - 1) as f64;
    let lr = slope * (epoch as f64 - 1.0) + base_lr;
    if lr.abs() < ROUNDING { 0.0 } else { lr }
}

fn check_warmup(base_lr: f64, warmup_lr: f64, warmup_epochs: usize) -> Result<(), ScheduleError> {
    check_rate("base_lr", base_lr)?;
    check_rate("warmup_lr", warmup_lr)?;
    if warmup_epochs == 0 {
        return Ok(());
    }
    // The line starts one step below base_lr, which is below 0 when the climb is steep.
    let first = warmup(base_lr, warmup_lr, warmup_epochs, 0);
    if first < 0.0 {
        let expected = format!(
            "epoch 0 would train at {first}: take more warm-up epochs, or a base_lr nearer to \
             warmup_lr = {warmup_lr}"
        );
        return fail("warmup_epochs", warmup_epochs, expected);
    }
    Ok(())
}

fn check_rate(field: &'static str, lr: f64) -> Result<(), ScheduleError> {
    if lr.is_finite() && lr > 0.0 {
        Ok(())
    } else {
        fail(field, lr, "must be a finite number above 0")
    }
}

fn fail(
    field: &'static str,
    value: impl ToString,
    expected: impl Into<String>,
) -> Result<(), ScheduleError> {
    Err(ScheduleError {
        field,
        value: value.to_string(),
        expected: expected.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn cosine(base_lr: f64, warmup_lr: f64, warmup_epochs: usize, total_epochs: usize) -> Schedule {
        Schedule::WarmupCosine {
            base_lr,
            warmup_lr,
            warmup_epochs,
            total_epochs,
            eta_min: 0.0,
        }
    }

    fn step(milestones: Vec<usize>, gamma: f64) -> Schedule {
        Schedule::Step {
            base_lr: 0.04,
            warmup_lr: 0.2,
            warmup_epochs: 5,
            milestones,
            gamma,
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    /// Values of the reference code (stage 2: T_max 20).
    #[test]
    fn matches_known_rates_of_stage_2() {
        let schedule = cosine(0.05, 0.1, 5, 20);
        schedule.validate().unwrap();
        for (epoch, lr) in [(0, 0.0375), (1, 0.05), (4, 0.0875), (5, 0.1)] {
            close(schedule.lr(epoch), lr);
        }
        assert!((schedule.lr(19) - 1.0926e-3).abs() < 5e-8);
        close(schedule.lr(20), 0.0);
        close(schedule.lr(500), 0.0);
    }

    #[test]
    fn short_warmups_do_not_divide_by_zero() {
        let one = cosine(0.05, 0.1, 1, 4);
        one.validate().unwrap();
        close(one.lr(0), 0.05);
        close(one.lr(1), 0.1);
        let none = cosine(0.05, 0.1, 0, 4);
        none.validate().unwrap();
        close(none.lr(0), 0.1);
        close(none.lr(2), 0.05);
        // The whole stage is warm-up: there is no cosine to divide by.
        let all = cosine(0.05, 0.1, 5, 5);
        all.validate().unwrap();
        close(all.lr(4), 0.0875);
        close(all.lr(5), 0.0);
    }

    #[test]
    fn eta_min_is_the_floor() {
        let schedule = Schedule::WarmupCosine {
            base_lr: 0.1,
            warmup_lr: 0.3,
            warmup_epochs: 2,
            total_epochs: 6,
            eta_min: 0.1,
        };
        close(schedule.lr(4), 0.2);
        close(schedule.lr(6), 0.1);
    }

    #[test]
    fn steps_multiply_at_each_milestone() {
        let schedule = step(vec![60, 80], 0.1);
        schedule.validate().unwrap();
        close(schedule.lr(0), 0.0);
        close(schedule.lr(1), 0.04);
        close(schedule.lr(59), 0.2);
        close(schedule.lr(60), 0.02);
        close(schedule.lr(80), 0.002);
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (cosine(0.0, 0.1, 5, 20), "base_lr"),
            (cosine(0.05, f64::NAN, 5, 20), "warmup_lr"),
            (cosine(0.05, f64::INFINITY, 5, 20), "warmup_lr"),
            (cosine(0.05, 0.15, 2, 20), "warmup_epochs"),
            (cosine(0.05, 0.1, 6, 5), "warmup_epochs"),
            (cosine(0.05, 0.1, 0, 0), "total_epochs"),
            (Schedule::Constant { lr: -1.0 }, "lr"),
            (step(vec![80, 60], 0.1), "milestones"),
            (step(vec![60, 60], 0.1), "milestones"),
            (step(vec![3, 60], 0.1), "milestones"),
            (step(vec![60], 0.0), "gamma"),
            (step(vec![60], f64::NAN), "gamma"),
        ];
        for (schedule, field) in cases {
            let error = schedule.validate().unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().contains(field));
        }
        let eta = Schedule::WarmupCosine {
            base_lr: 0.05,
            warmup_lr: 0.1,
            warmup_epochs: 5,
            total_epochs: 20,
            eta_min: 0.2,
        };
        assert_eq!(eta.validate().unwrap_err().field, "eta_min");
    }

    #[test]
    fn survives_json_and_rejects_unknown_fields() {
        for schedule in [cosine(0.05, 0.1, 5, 20), step(vec![60, 80], 0.1)] {
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
        }
        let typo = r#"{"kind":"constant","lr":0.1,"warmup_epoch":5}"#;
        let error = serde_json::from_str::<Schedule>(typo).unwrap_err();
        assert!(error.to_string().contains("warmup_epoch"), "{error}");
    }
}
