//! Another batch size than the recipe's: the linear rule.

use std::fmt;

use super::images_of_a_step;
use crate::config::schedule::Schedule;
use crate::config::stage::Stage2;
use crate::config::{StageConfig, TrainConfig};

/// How learning rates were changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Images of a step in the recipe.
    pub recipe: usize,
    /// Images of a step now.
    pub now: usize,
    /// Each stage that was changed: its number, and its highest rate before and after.
    pub stages: Vec<(usize, f64, f64)>,
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recipe, now, .. } = self;
        write!(
            f,
            "a step sees {now} images instead of the recipe's {recipe}: "
        )?;
        if self.stages.is_empty() {
            return f.write_str("learning rates are as they were given");
        }
        // Six digits; a ratio such as 7 / 64 has no short one.
        let short = |rate: f64| format!("{rate:.5e}").parse::<f64>().unwrap_or(rate);
        let rate = |(stage, before, after): &(usize, f64, f64)| {
            format!("stage {stage} {} → {}", short(*before), short(*after))
        };
        let stages: Vec<String> = self.stages.iter().map(rate).collect();
        let warmup = match now > recipe {
            true => ", after a warm-up from the recipe's first rate",
            false => "",
        };
        write!(
            f,
            "learning rate of {}{warmup} (linear rule)",
            stages.join(", of ")
        )
    }
}

/// Multiplies the learning rates of the stages that `keep` does not hold back by the ratio of the
/// images of a step to `recipe`, those of the recipe: the linear rule of Goyal et al. 2017 (arXiv
/// 1706.02677). `None` if the ratio is 1.
///
/// Epochs stay, those of warm-up too, since they count images and not steps. A higher rate is reached as
/// there by a gradual warm-up: it begins where the recipe's begins, not at the multiple; a schedule
/// without warm-up gets one of 5 epochs (half of a shorter stage) that begins at the recipe's rate. A
/// lower rate needs no such care: all of the schedule is multiplied.
pub fn scale_rates(config: &mut TrainConfig, recipe: usize, keep: [bool; 2]) -> Option<Scaling> {
    let now = images_of_a_step(config);
    if now == recipe {
        return None;
    }
    let ratio = now as f64 / recipe as f64;
    let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
    let stages = [Some(&mut config.stage1), stage2];
    let mut changed = vec![];
    for (i, stage) in stages.into_iter().enumerate() {
        if let (Some(stage), false) = (stage, keep[i]) {
            let before = stage.schedule.peak();
            scale(stage, ratio);
            changed.push((i + 1, before, stage.schedule.peak()));
        }
    }
    Some(Scaling {
        recipe,
        now,
        stages: changed,
    })
}

fn scale(stage: &mut StageConfig, ratio: f64) {
    let half = stage.epochs / 2;
    let first = stage.schedule.lr(0);
    let (base_lr, warmup_lr, warmup_epochs, room) = match &mut stage.schedule {
        Schedule::Constant { lr } => {
            *lr *= ratio;
            return;
        }
        Schedule::WarmupCosine {
            base_lr,
            warmup_lr,
            warmup_epochs,
            eta_min,
            ..
        } => {
            *eta_min *= ratio;
            (base_lr, warmup_lr, warmup_epochs, half)
        }
        Schedule::Step {
            base_lr,
            warmup_lr,
            warmup_epochs,
            milestones,
            ..
        } => {
            let room = milestones.first().map_or(half, |first| half.min(*first));
            (base_lr, warmup_lr, warmup_epochs, room)
        }
    };
    *warmup_lr *= ratio;
    if ratio < 1.0 {
        *base_lr *= ratio;
        return;
    }
    if *warmup_epochs == 0 {
        *warmup_epochs = room.min(5);
    }
    // The line that is `first` in epoch 0 and the new rate at the end of the warm-up; `base_lr` is
    // its rate in epoch 1, or in epoch 0 of a warm-up that has no other.
    *base_lr = match *warmup_epochs {
        0 => *base_lr * ratio,
        1 => first,
        epochs => first + (*warmup_lr - first) / epochs as f64,
    };
}
