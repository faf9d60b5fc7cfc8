//! How long a run takes on this machine, measured on a few pictures before it begins.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Device;
use shike_data::{BadImages, Dataset};
use shike_infer::{Embedder, device};

use super::Learner;
use super::dry_run::human;
use crate::config::stage::Stage2;
use crate::config::{ScoreTest, StageConfig, TrainConfig, TrainData};
use crate::error::TrainError;

/// Pictures of a batch that tells how long a whole one takes, and seconds that one may take to be measured.
const FEW: usize = 4;
const WHOLE: f64 = 2.0;

/// Whole batches that are measured: the first ones are decoded beforehand, and tell nothing of how long that takes.
const BATCHES: [f64; 2] = [2.0, 12.0];

/// A step back and forth over a step forth: the usual ratio, where no stage of a run only goes forth through the network.
const BACK_AND_FORTH: f64 = 3.0;

/// Epochs that stage 2 keeps as long as there is time for them.
const STAGE2_WANTS: usize = 5;

/// Seconds that a run takes a picture.
#[derive(Clone, Debug)]
pub struct Pace {
    /// To train on it in stage 1 and in stage 2; 0 where a stage does not train.
    pub stages: [f64; 2],
    /// To score it, or to embed it where the trunk is frozen.
    pub scoring: f64,
    /// The frozen trunk, which was read to measure it.
    pub trunk: Option<Arc<Embedder>>,
}

impl Pace {
    /// Takes a step or two of a run. Nothing is written.
    ///
    /// # Errors
    /// As [`Learner::dry_run`].
    pub fn measure(
        config: &TrainConfig,
        train: &Dataset,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let learner = |batch_size| {
            let mut config = config.clone();
            config.loader.batch_size = batch_size;
            (config.accumulation, config.score_test) = (1, None);
            // Bad images are for the run to count, and to list in its folder.
            config.bad_images = BadImages::Skip { max_share: 1.0 };
            if let Some(Stage2::TauNorm { taus }) = &mut config.stage2 {
                taus.clear();
            }
            let data = TrainData {
                train: train.clone(),
                val: None,
                test: None,
            };
            Learner::build(config, data, device.clone(), false)
        };
        let whole = config.loader.batch_size.min(train.len());
        if config.frozen.is_some() {
            let learner = learner(whole.min(2 * FEW))?;
            let embedding = learner.dry_run_frozen(2, None)?;
            return Ok(Self {
                stages: [0.0; 2],
                scoring: 1.0 / embedding.images_per_second,
                trunk: learner.embedder.into_inner(),
            });
        }
        let [mut batches, most] = BATCHES;
        if device::is_host(device) && whole > FEW {
            let pace = learner(FEW)?.pace(1)?;
            let seconds = pace.stages.iter().sum::<f64>() * whole as f64;
            if seconds > WHOLE {
                return Ok(pace);
            }
            batches = (WHOLE / seconds).clamp(batches, most);
        }
        learner(whole)?.pace(batches as usize)
    }

    /// The time of a run; `images` are those of training, validation and test.
    pub fn time(&self, config: &TrainConfig, images: [usize; 3]) -> RunTime {
        let [train, val, test] = images.map(|images| images as f64);
        let curves = match (images, config.score_test) {
            ([_, 0, _], Some(ScoreTest::End)) => 0.0,
            ([_, 0, _], _) => test,
            (_, Some(ScoreTest::Every)) => val + test,
            _ => val,
        };
        let models = if config.ema_decay.is_some() { 2.0 } else { 1.0 };
        let scoring = models * self.scoring;
        let each = scoring * curves / config.evaluate_every as f64;
        RunTime {
            epochs: self.stages.map(|picture| match picture {
                0.0 => 0.0,
                picture => train * picture + each,
            }),
            end: match config.frozen {
                Some(_) => self.scoring * (train + val + test),
                None => scoring * (val + test),
            },
        }
    }
}

/// Seconds of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunTime {
    /// An epoch of stage 1 and of stage 2, with what is scored in it.
    pub epochs: [f64; 2],
    /// What is scored at the end; of a frozen trunk, all pictures that are embedded.
    pub end: f64,
}

/// A run that cannot be made short enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoTime {
    /// Seconds that the shortest one takes.
    pub least: f64,
}

impl RunTime {
    /// That of a run whose stage 1 another has done.
    #[must_use]
    pub fn without_stage1(mut self) -> Self {
        self.epochs[0] = 0.0;
        self
    }

    /// Seconds of the whole run.
    pub fn total(&self, config: &TrainConfig) -> f64 {
        let epochs = [1, 2].map(|stage| config.stage(stage).map_or(0, |stage| stage.epochs));
        self.of(epochs)
    }

    fn of(&self, epochs: [usize; 2]) -> f64 {
        let stages = self.epochs.iter().zip(epochs);
        stages.map(|(each, n)| each * n as f64).sum::<f64>() + self.end
    }

    /// Gives both stages as many epochs as can be done in so many seconds, at most those that they have: stage 2 keeps its
    /// part, and five epochs as long as possible. Schedules follow.
    ///
    /// # Errors
    /// If one epoch of each is too much.
    pub fn fit(&self, config: &mut TrainConfig, seconds: f64) -> Result<(), NoTime> {
        let epochs = [1, 2].map(|stage| config.stage(stage).map_or(0, |stage| stage.epochs));
        let [first, second] = epochs;
        let share = |n: usize| (second as f64 * n as f64 / first as f64).round() as usize;
        let of_first = |n: usize| [n, share(n).max(STAGE2_WANTS).min(second)];
        let fits = |epochs: [usize; 2]| self.of(epochs) <= seconds;
        if fits(epochs) {
            return Ok(());
        }
        let least = second.min(1);
        let fitted = match self.epochs[0] > 0.0 && fits(of_first(1)) {
            true => of_first(most(first, |n| fits(of_first(n)))),
            false => {
                let first = if self.epochs[0] > 0.0 { 1 } else { first };
                if !fits([first, least]) {
                    let least = self.of([first, least]);
                    return Err(NoTime { least });
                }
                [first, most(second, |n| fits([first, n]))]
            }
        };
        shorten(&mut config.stage1, fitted[0]);
        if let Some(stage2) = config.stage2.as_mut().and_then(Stage2::training_mut) {
            shorten(stage2, fitted[1]);
        }
        Ok(())
    }

    /// A line for a person.
    pub fn describe(&self, config: &TrainConfig) -> String {
        let total = human(self.total(config));
        if config.frozen.is_some() {
            return format!(
                "embedding all pictures takes about {total} on this machine (measured on a few), less for those \
                 whose features are kept; heads take minutes at most"
            );
        }
        let [first, second] = self.epochs;
        let mut stages = vec![];
        if first > 0.0 {
            stages.push(format!("an epoch of stage 1 about {}", human(first)));
        }
        if second > 0.0 {
            stages.push(format!("one of stage 2 {}", human(second)));
        }
        format!(
            "on this machine (measured on a few pictures) {}, and all of it about {total}",
            stages.join(", ")
        )
    }
}

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human(self.least))
    }
}

/// The largest of `1..=n` for which `fits` holds, if it holds for all below that; 1 if for none.
fn most(n: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (1, n);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match fits(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

/// Gives a stage fewer epochs; what its loss does from an epoch on begins earlier in proportion.
fn shorten(stage: &mut StageConfig, epochs: usize) {
    let before = stage.epochs.max(1);
    if let Some((_, from)) = stage.loss.weights_mut() {
        *from = *from * epochs / before;
    }
    stage.set_epochs(epochs);
}

impl Learner {
    fn pace(&self, steps: usize) -> Result<Pace, TrainError> {
        let timed = self.dry_run(steps)?;
        let batch = self.config.loader.batch_size as f64;
        let mut pace = Pace {
            stages: [0.0; 2],
            scoring: 0.0,
            trunk: None,
        };
        for stage in timed.stages {
            let mean = stage.steps.iter().sum::<f64>() / stage.steps.len() as f64;
            pace.stages[stage.stage - 1] = mean / batch;
        }
        let [first, second] = pace.stages;
        pace.scoring = match second {
            0.0 => first / BACK_AND_FORTH,
            forth => forth,
        };
        Ok(pace)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Schedule;
    use shike_model::ShikeConfig;

    fn config(epochs: [usize; 2]) -> TrainConfig {
        TrainConfig::cifar(ShikeConfig::cifar(8, 10).unwrap(), epochs)
    }

    #[test]
    fn epochs_follow_from_time() {
        let time = RunTime {
            epochs: [60.0, 20.0],
            end: 10.0,
        };
        let fitted = |epochs, seconds| {
            let mut config = config(epochs);
            time.fit(&mut config, seconds).map(|()| {
                let second = config.stage(2).map_or(0, |stage| stage.epochs);
                config.validate().unwrap();
                ([config.stage1.epochs, second], config.stage1.schedule)
            })
        };
        let epochs = |all, seconds| fitted(all, seconds).map(|(epochs, _)| epochs);
        // All of it takes 180·60 + 20·20 + 10 seconds.
        assert_eq!(epochs([180, 20], 11_210.0), Ok([180, 20]));
        // A ninth for stage 2.
        assert_eq!(epochs([180, 20], 5_700.0), Ok([91, 10]));
        // Five at least, as long as there is time for them.
        assert_eq!(epochs([180, 20], 710.0), Ok([10, 5]));
        assert_eq!(epochs([180, 20], 170.0), Ok([1, 5]));
        assert_eq!(epochs([180, 20], 130.0), Ok([1, 3]));
        assert_eq!(epochs([180, 20], 89.0), Err(NoTime { least: 90.0 }));
        assert_eq!(epochs([180, 0], 610.0), Ok([10, 0]));
        let Schedule::WarmupCosine { total_epochs, .. } = fitted([180, 0], 610.0).unwrap().1 else {
            panic!("a cosine");
        };
        assert_eq!(total_epochs, 10);
        // Stage 1 is another run's.
        let mut config = config([180, 20]);
        let alone = time.without_stage1();
        alone.fit(&mut config, 110.0).unwrap();
        assert_eq!((config.stage1.epochs, alone.total(&config)), (180, 110.0));
    }

    #[test]
    fn scoring_takes_its_time() {
        let pace = Pace {
            stages: [0.5, 0.1],
            scoring: 0.1,
            trunk: None,
        };
        let mut config = config([3, 2]);
        let time = pace.time(&config, [100, 10, 20]);
        assert_eq!((time.epochs, time.end), ([51.0, 11.0], 3.0));
        assert_eq!(time.total(&config), 3.0 * 51.0 + 2.0 * 11.0 + 3.0);
        // Without validation images the curve is of the test images.
        assert_eq!(pace.time(&config, [100, 0, 20]).epochs, [52.0, 12.0]);
        config.evaluate_every = 2;
        assert_eq!(pace.time(&config, [100, 10, 20]).epochs, [50.5, 10.5]);
    }
}
