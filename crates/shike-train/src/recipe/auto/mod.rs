//! Settings for pictures that nobody has tried before: what a run does where only `--data` is given.
//!
//! [`plan`] is a function of [`Facts`] alone and reads no file. Each [`Choice`] is a field of a
//! [recipe](crate::recipe), with the reason for its value; the rest are the recipe's defaults, which are
//! the authors'.

mod frozen;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use shike_data::inspect::ENOUGH_KEPT;
use shike_data::{Fit, Size};
use shike_model::loss::FEW_CLASSES;
use shike_model::{BackboneConfig, DktLossConfig, LossConfig};
use thiserror::Error;

pub use self::frozen::plan_frozen;
use super::write::{Choice, GIVEN};
use shike_infer::metrics::{Shot, ShotThresholds};

/// Where a run is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// On the processor's cores.
    Cpu,
    /// On a graphics card.
    Gpu,
}

/// What is known before a run is planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Training images of each class.
    pub class_counts: Vec<usize>,
    /// Width and height of a sample of the training images; none where no header could be read.
    pub sizes: Vec<[u32; 2]>,
    /// Whether there are validation images, and test images.
    pub scored: [bool; 2],
    /// What it runs on.
    pub device: DeviceKind,
    /// Cores of the processor.
    pub cores: usize,
    /// The network, by [name](BackboneConfig::names), where it is given.
    pub arch: Option<String>,
    /// Number of experts, where it is given.
    pub experts: Option<usize>,
    /// The size of the images that the network sees, where it is given.
    pub image_size: Option<Size>,
    /// How pictures of other shapes become that, where it is given.
    pub fit: Option<Fit>,
    /// Epochs of stage 1, where they are given.
    pub epochs: Option<usize>,
    /// Hours that the run may take, where they are given.
    pub hours: Option<f64>,
    /// The file name of initial weights, where they are given.
    pub weights: Option<String>,
    /// The network that they are of, by [name](BackboneConfig::names), where it was recognised.
    pub recognised: Option<&'static str>,
    /// Whether it is given which of the stages that experts share are trained, or at what rates.
    pub parts: bool,
    /// Bounds of the shot groups.
    pub thresholds: ShotThresholds,
}

impl Facts {
    /// The hours of the run over those that a CPU is given otherwise.
    fn share_of_hours(&self) -> f64 {
        self.hours.map_or(1.0, |hours| hours / HOURS)
    }
}

/// Hours, or minutes, as a person reads them.
fn spell(hours: f64) -> String {
    match hours {
        1.5.. => format!("about {hours:.0} hours"),
        _ => format!("about {:.0} minutes", 60.0 * hours),
    }
}

/// Data that nothing can be learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AutoError {
    /// There is nothing to tell apart.
    #[error(
        "there is 1 class, and at least 2 are needed: give the folder that holds a folder for each \
         class"
    )]
    OneClass,
    /// There is no training image.
    #[error("there is no training image")]
    NoImages,
}

/// A run that was planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What was chosen.
    pub choices: Vec<Choice>,
    /// What else a person should know before it begins.
    pub notes: Vec<String>,
}

/// Images that a run on a CPU, one on a GPU, and one from trained weights put through the network in
/// stage 1, if that makes a sensible number of epochs.
const CPU_IMAGES: usize = 400_000;
const GPU_IMAGES: usize = 4_000_000;
const TUNING_IMAGES: usize = 400_000;

/// Work on a CPU in units of one image through ResNet-32 at 32 pixels: about four hours on a core of
/// which 70 are done a second.
const WORK_PER_CORE: f64 = 1e6;

/// Networks for a CPU and sizes of images, from the most work to the least.
const LADDER: [(usize, u32); 10] = [
    (32, 96),
    (32, 80),
    (32, 64),
    (20, 64),
    (32, 48),
    (20, 48),
    (8, 48),
    (32, 32),
    (20, 32),
    (8, 32),
];

/// Networks for photographs, with 10⁹ multiply-adds of an image of 224 pixels: up to stage 3, stage 4 of an
/// expert, and a convolution of its fusion.
const LARGE: [(&str, [f64; 3]); 7] = [
    ("resnet10", [0.709, 0.180, 0.058]),
    ("resnet18", [1.403, 0.411, 0.058]),
    ("resnet34", [3.021, 0.642, 0.058]),
    ("resnet50", [3.278, 0.809, 0.925]),
    ("resnet101", [6.990, 0.809, 0.925]),
    ("resnet152", [10.702, 0.809, 0.925]),
    ("resnext50", [3.363, 0.865, 0.925]),
];

/// 10⁹ multiply-adds that a core does in an hour of training, and the hours of [`WORK_PER_CORE`].
const PER_HOUR: f64 = 14.0 * 3600.0;
const HOURS: f64 = 4.0;

/// Sides of images that a CPU is given where it has no time for 224 pixels.
const SMALLER: [u32; 6] = [224, 192, 160, 128, 96, 64];

/// Epochs that fine-tuning on fewer than 3,000 images wants before it wants larger ones, or all stages; and
/// the fewest of all.
const ENOUGH: usize = 20;
const FEWEST: usize = 5;

/// The largest class over the smallest below which classes count as balanced.
const BALANCED: f64 = 2.0;

/// The largest share of the training images that may be damaged.
pub const MAX_BAD_SHARE: f64 = 0.05;

/// What is known of the data in numbers.
struct Numbers {
    images: usize,
    largest: usize,
    smallest: usize,
    /// Median of the shorter sides of the pictures.
    short: Option<u32>,
}

impl Numbers {
    fn of(facts: &Facts) -> Result<Self, AutoError> {
        let counts = &facts.class_counts;
        let images = counts.iter().sum();
        if images == 0 {
            return Err(AutoError::NoImages);
        }
        if counts.len() < 2 {
            return Err(AutoError::OneClass);
        }
        let mut short: Vec<u32> = facts.sizes.iter().map(|[w, h]| *w.min(h)).collect();
        short.sort_unstable();
        Ok(Self {
            images,
            largest: counts.iter().copied().max().unwrap_or_default(),
            smallest: counts.iter().copied().min().unwrap_or_default().max(1),
            short: short.get(short.len().saturating_sub(1) / 2).copied(),
        })
    }

    fn imbalance(&self) -> f64 {
        self.largest as f64 / self.smallest as f64
    }
}

/// The largest multiple of `step` that is at most `value`, and at least `step`.
fn down(value: u32, step: u32) -> u32 {
    (value / step * step).max(step)
}

/// `epochs` in steps that people write: of 10, of 5 below 40.
fn rounded(epochs: usize) -> usize {
    let step = if epochs < 40 { 5 } else { 10 };
    (epochs + step / 2) / step * step
}

/// Whether a network is one for photographs, whose stem shrinks them.
fn is_large(arch: &str) -> bool {
    BackboneConfig::named(arch).is_ok_and(|backbone| backbone.is_for_photographs())
}

/// Network and size of the images, with the reasons of both.
fn network(facts: &Facts, numbers: &Numbers, passes: usize) -> (String, String, u32, String) {
    let short = numbers.short.unwrap_or(224);
    let median = match numbers.short {
        Some(short) => format!("the median of the shorter sides is {short} pixels"),
        None => "no header of a picture could be read".to_owned(),
    };
    let small_sizes = |depth: Option<usize>| {
        let budget = match facts.device {
            DeviceKind::Gpu => f64::INFINITY,
            DeviceKind::Cpu => WORK_PER_CORE * facts.share_of_hours() * facts.cores.max(1) as f64,
        };
        let fits = move |&&(layers, size): &&(usize, u32)| {
            let work = passes as f64 * layers as f64 / 32.0 * (f64::from(size) / 32.0).powi(2);
            let wanted = depth.is_none_or(|depth| depth == layers);
            wanted && size <= down(short, 16) && work <= budget
        };
        // What fits no budget is trained in the smallest way there is.
        let smallest = (depth.unwrap_or(8), if short < 32 { 16 } else { 32 });
        LADDER.iter().find(fits).copied().unwrap_or(smallest)
    };
    if let Some(arch) = &facts.arch {
        let size = match is_large(arch) {
            true => down(short.min(224), 32),
            false => {
                let depth = arch.strip_prefix("resnet").and_then(|d| d.parse().ok());
                small_sizes(depth).1
            }
        };
        let why = format!(
            "{median}; the size for this network on this machine, never larger than the pictures"
        );
        return (arch.clone(), GIVEN.to_owned(), size, why);
    }
    if let Some(file) = &facts.weights {
        let (arch, why) = match facts.recognised {
            Some(arch) => (
                arch,
                format!("the network that the weights in {file} are of"),
            ),
            None => (
                "resnet50",
                format!("what weights such as {file} usually are for"),
            ),
        };
        let small = !is_large(arch);
        let size = if small { 32 } else { down(short.min(224), 32) };
        return (
            arch.to_owned(),
            why,
            size,
            format!("{median}; weights are for {}", if small { 32 } else { 224 }),
        );
    }
    if facts.device == DeviceKind::Gpu && short >= 128 {
        let arch = if numbers.images < 20_000 {
            "resnet18"
        } else {
            "resnet50"
        };
        let why = match arch {
            "resnet18" => {
                "a GPU, but fewer than 20000 images, which would not fill a ResNet-50 from \
                           random weights (`weights` starts from trained ones)"
            }
            _ => "a GPU, and enough images for a network of this size",
        };
        let size = down(short.min(224), 32);
        let size_why =
            format!("{median}; a multiple of 32, at most 224 and never larger than the pictures");
        return (arch.to_owned(), why.to_owned(), size, size_why);
    }
    let (depth, size) = small_sizes(None);
    let arch = match depth {
        8 => "resnet8",
        20 => "resnet20",
        _ => "resnet32",
    };
    let (why, size_why) = match facts.device {
        DeviceKind::Gpu => (
            "pictures this small want a network without a stem that shrinks them".to_owned(),
            format!("{median}; a multiple of 16, never larger than the pictures"),
        ),
        DeviceKind::Cpu => (
            format!(
                "no GPU: the largest of the networks for small images that {} core{} can train on \
                 {passes} images in {}",
                facts.cores.max(1),
                if facts.cores > 1 { "s" } else { "" },
                match facts.hours {
                    None => "hours, not days".to_owned(),
                    Some(hours) => spell(hours),
                },
            ),
            format!(
                "{median}; a multiple of 16, never larger than the pictures{}",
                match size < down(short, 16).min(LADDER[0].1) {
                    true => ", and as much as this CPU can do",
                    false => "",
                },
            ),
        ),
    };
    (arch.to_owned(), why, size, size_why)
}

/// How far a CPU takes a network for photographs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affordable {
    size: u32,
    /// Whether what all experts share is not trained.
    frozen: bool,
    epochs: usize,
    hours: f64,
}

/// Fits a network for photographs into the hours that a CPU is given: it gets fewer epochs first, then
/// (if it knows something) is trained in its last stage alone, then sees smaller images. `usual` and `least`
/// are the epochs that it should have, and those below which it is better to save elsewhere.
fn fit(
    facts: &Facts,
    work: [f64; 3],
    size: u32,
    images: usize,
    [usual, least]: [usize; 2],
) -> Affordable {
    let [trunk, own, fusion] = work;
    let experts = facts.experts.unwrap_or(3);
    // Experts fuse stages 1, 2 and 3 in turn, through 3, 2 and 1 convolutions.
    let fusions = (experts / 3) as f64 * 6.0 + [0.0, 3.0, 5.0][experts % 3];
    let experts = experts as f64 * own + fusions * fusion;
    let cores = facts.cores.max(1) as f64;
    let at = |size: u32, frozen: bool, epochs: usize| {
        // What is trained goes backward as well, through inputs and through weights.
        let trained = 3.0 * experts + if frozen { trunk } else { 3.0 * trunk };
        let passes = epochs as f64 * trained + stage2_epochs(epochs) as f64 * (trunk + experts);
        let scale = (f64::from(size) / 224.0).powi(2);
        Affordable {
            size,
            frozen,
            epochs,
            hours: images as f64 * passes * scale / (PER_HOUR * cores),
        }
    };
    let freezes = facts.weights.is_some() && !facts.parts;
    let mut tries = vec![(size, false)];
    tries.extend(freezes.then_some((size, true)));
    if facts.image_size.is_none() {
        let smaller = SMALLER.into_iter().filter(|smaller| *smaller < size);
        tries.extend(smaller.map(|size| (size, freezes)));
    }
    let longest = |least: usize, (size, frozen): (u32, bool)| {
        let epochs = (least..=usual).rev().filter(|n| *n < 10 || n % 5 == 0);
        let mut tried = epochs.map(|epochs| at(size, frozen, epochs));
        tried.find(|fit| fit.hours <= HOURS * facts.share_of_hours())
    };
    let last = tries[tries.len() - 1];
    let found = tries.iter().find_map(|tried| longest(least, *tried));
    let found = found.or_else(|| longest(FEWEST, last));
    found.unwrap_or_else(|| at(last.0, last.1, FEWEST))
}

/// Epochs of stage 2 behind so many of stage 1.
fn stage2_epochs(epochs: usize) -> usize {
    (epochs / 9).max(5)
}

/// Plans a run.
///
/// # Errors
/// If there is nothing to learn.
pub fn plan(facts: &Facts) -> Result<Plan, AutoError> {
    let numbers = Numbers::of(facts)?;
    let Numbers { images, .. } = numbers;
    let classes = facts.class_counts.len();
    let tuned = facts.weights.is_some();
    let mut choices = Vec::new();
    let mut choose = |field: &str, value: Value, reason: String| {
        choices.push(Choice::new(field, value, &reason));
    };

    let (budget, range) = match (tuned, facts.device) {
        (true, _) => (TUNING_IMAGES, [10, 60]),
        (false, DeviceKind::Cpu) => (CPU_IMAGES, [30, 200]),
        (false, DeviceKind::Gpu) => (GPU_IMAGES, [60, 200]),
    };
    let usual = rounded((budget / images).clamp(range[0], range[1]));
    // Fewer epochs are to take less time, and not to make room for a larger network.
    let (arch, arch_why, mut size, mut size_why) = network(facts, &numbers, usual * images);
    if let Some(given) = facts.image_size {
        // As much work.
        let side = f64::from(given.width) * f64::from(given.height);
        (size, size_why) = (side.sqrt().round() as u32, GIVEN.to_owned());
    }
    // Networks for small images were chosen by the time that they take.
    let work = LARGE.iter().find(|(name, _)| *name == arch);
    let fitted = work.filter(|_| facts.device == DeviceKind::Cpu);
    let fitted = fitted.map(|(_, work)| {
        let least = match images {
            0..3_000 if tuned => ENOUGH,
            _ => range[0],
        };
        fit(facts, *work, size, images, [usual, least.min(usual)])
    });
    let cores = format!(
        "{} core{}",
        facts.cores.max(1),
        if facts.cores > 1 { "s" } else { "" }
    );
    if let Some(fit) = fitted.filter(|fit| fit.size < size) {
        size = fit.size;
        let _ = write!(
            size_why,
            "; as large as {cores} can train on in {}",
            spell(HOURS * facts.share_of_hours())
        );
    }
    let fitting = fitted.map_or(usual, |fit| fit.epochs);
    let epochs = facts.epochs.unwrap_or(fitting);
    choose("model.arch", json!(arch), arch_why);
    match facts.experts {
        Some(experts) => choose("model.experts", json!(experts), GIVEN.into()),
        None => choose("model.experts", json!(3), "as in the paper".into()),
    }
    let seen = facts.image_size.unwrap_or(size.into());
    choose("image_size", json!(seen), size_why);
    of_pictures(facts, seen, &mut choose);

    // A network for small images has a reference of its own.
    let large = is_large(&arch);
    let (reference, peaks, most) = match large {
        true => (64, [0.025, 0.025], 64),
        false => (128, [0.15, 0.1], 128),
    };
    let batch = match images {
        0..600 => 16,
        600..3_000 => 32,
        3_000..20_000 => 64,
        _ => most,
    };
    choose(
        "loader.batch_size",
        json!(batch),
        format!(
            "{images} training images make {} steps of an epoch: small sets want small batches",
            images.div_ceil(batch)
        ),
    );
    let epochs_why = match epochs {
        _ if facts.epochs.is_some() => GIVEN.to_owned(),
        n if n < usual => {
            format!(
                "as many as {cores} can do in {}; {usual} are usual for {images} images",
                spell(HOURS * facts.share_of_hours())
            )
        }
        n if n == range[1] => format!("the most that helps; {images} images are few"),
        n if n == range[0] => format!("the fewest that do; {images} images are many"),
        _ => format!("{} images in all", epochs * images),
    };
    choose("stage1.epochs", json!(epochs), epochs_why);
    let scaled = |peak: f64| peak * batch as f64 / reference as f64;
    let rate_why = |peak: f64| {
        format!("{peak} for a batch of {reference}, in proportion to the batch (linear rule)")
    };
    let lr = match tuned {
        true => {
            let lr = 0.01 * batch as f64 / 32.0;
            let why = "0.01 for a batch of 32: trained weights want small steps";
            choose("stage1.lr", json!(lr), why.into());
            lr
        }
        false => {
            choose("stage1.lr", json!(scaled(peaks[0])), rate_why(peaks[0]));
            scaled(peaks[0])
        }
    };
    if tuned && large {
        let shared = ["stem", "layer1", "layer2", "layer3"];
        let frozen = fitted.is_some_and(|fit| fit.frozen);
        if frozen {
            let why =
                "as they were trained: a CPU has time for the last stage, fusion and classifiers";
            choose("freeze", json!(shared), why.into());
        }
        let trained = shared.into_iter().filter(|_| !frozen).chain(["layer4"]);
        let factors: Map<_, _> = trained.map(|part| (part.to_owned(), json!(0.1))).collect();
        let why = format!(
            "what was trained learns at {}: it knows most; fusion and classifiers are new",
            0.1 * lr
        );
        choose("lr_factors", Value::Object(factors), why);
    }
    let imbalance = numbers.imbalance();
    let tail = format!(
        "classes of {} to {} images, imbalance factor {imbalance:.1}",
        numbers.largest, numbers.smallest
    );
    choose(
        "stage1.sampling",
        json!("instance"),
        "every image once an epoch: features are learnt best from the data as they are".into(),
    );
    let shike = "SHIKE: experts that learn from one another";
    match classes {
        0..FEW_CLASSES => {
            let why = format!(
                "{shike}, as the paper reads (dkt-paper): as released, its non-target term works against \
                 the cross-entropy at fewer than {FEW_CLASSES} classes"
            );
            choose(
                "stage1.loss",
                json!(LossConfig::Dkt(DktLossConfig::paper())),
                why,
            );
        }
        _ => choose("stage1.loss.kind", json!("dkt"), shike.into()),
    }
    choose(
        "stage2.epochs",
        json!(stage2_epochs(epochs)),
        match epochs / 9 {
            0..5 => "classifiers alone; they need a few epochs however short stage 1 is".into(),
            _ => "classifiers alone, a ninth of stage 1, as in the paper".into(),
        },
    );
    choose(
        "stage2.lr",
        json!(match tuned {
            true => 0.01 * batch as f64 / 32.0,
            false => scaled(peaks[1]),
        }),
        match tuned {
            true => "as in stage 1".into(),
            false => rate_why(peaks[1]),
        },
    );
    choose(
        "stage2.loss.kind",
        json!("balanced_softmax"),
        format!("makes up for the frequencies of the classes: {tail}"),
    );

    let per_class = images / classes;
    let (pipeline, why) = match (images < 1_000 || per_class < 20, images) {
        (true, _) => (
            "randcls",
            format!(
                "strong (crops, flips, colours, RandAugment): {images} images, {per_class} a class on average, are soon learnt by heart"
            ),
        ),
        (_, ..20_000) => (
            "basic",
            "crops, flips and colours: the usual for thousands of images".into(),
        ),
        _ => (
            "photo_train",
            format!("crops and flips: {images} images need no more"),
        ),
    };
    choose("train_pipeline", json!(pipeline), why);
    choose(
        "bad_images.skip.max_share",
        json!(MAX_BAD_SHARE),
        "folders of one's own have damaged files: another image of the class stands in, and \
         bad_images.csv lists them"
            .into(),
    );

    let mut notes = vec![
        "pictures are flipped left to right at random: where left and right matter (text, traffic \
         signs), take `horizontal_flip` out"
            .to_owned(),
    ];
    if imbalance < BALANCED {
        notes.push(format!(
            "{tail}: nearly balanced. A method for long tails brings nothing here; it does no harm \
             either, and a plain network (`model.plain`) is faster"
        ));
    }
    notes.extend(groups(facts));
    let allowed = HOURS * facts.share_of_hours();
    if fitted.is_some_and(|fit| fit.hours > allowed && facts.epochs.is_none()) {
        notes.push(format!(
            "{arch} takes more than {} on {cores}, already with the smallest images and the fewest epochs: it \
             wants a GPU",
            spell(allowed)
        ));
    }
    match facts.scored {
        [_, true] => {}
        [true, false] => notes.push(
            "no test images: scores are those of the validation images, on which best.safetensors \
             is chosen, too"
                .into(),
        ),
        [false, false] => notes.push("no validation or test images: nothing will be scored".into()),
    }
    Ok(Plan { choices, notes })
}

/// The share of the median picture that a box of this shape in its middle holds.
fn kept(sizes: &[[u32; 2]], shape: Size) -> Option<f64> {
    let shape = f64::from(shape.width) / f64::from(shape.height);
    let mut kept: Vec<f64> = sizes
        .iter()
        .map(|[width, height]| f64::from(*width) / f64::from(*height) / shape)
        .map(|ratio| ratio.min(1.0 / ratio))
        .collect();
    kept.sort_by(f64::total_cmp);
    kept.get(kept.len() / 2).copied()
}

/// How pictures become what the network sees, which is of `size`.
fn of_pictures(facts: &Facts, size: Size, choose: &mut impl FnMut(&str, Value, String)) {
    let upright = "as their EXIF data say how the camera was held, here and in prediction";
    choose("upright", json!(true), upright.into());
    let kept = kept(&facts.sizes, size);
    if let Some(fit) = facts.fit {
        choose("fit", json!(fit), GIVEN.to_owned());
    } else if let Some(kept) = kept.filter(|kept| *kept < ENOUGH_KEPT) {
        let why = format!(
            "all of each picture, with grey around it: what is cut out of the middle would hold {:.0} % of the \
             median picture",
            100.0 * kept
        );
        choose("fit", json!(Fit::Pad), why);
    }
}

/// What the shot groups of these classes will not tell.
fn groups(facts: &Facts) -> Option<String> {
    let ShotThresholds {
        many_above,
        few_below,
    } = facts.thresholds;
    let has = |shot| {
        facts
            .class_counts
            .iter()
            .any(|&n| facts.thresholds.group(n) == shot)
    };
    let missing = [
        (Shot::Many, format!("more than {many_above}")),
        (Shot::Few, format!("fewer than {few_below}")),
    ];
    let missing: Vec<String> = missing
        .into_iter()
        .filter(|(shot, _)| !has(*shot))
        .map(|(shot, bound)| {
            format!("no class has {bound} training images, so none is {shot}-shot")
        })
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{}: `thresholds.many_above` and `thresholds.few_below` move the usual bounds",
            missing.join(", and ")
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests;
