//! Looks at the files of the images before the first step.

use std::time::Duration;

use shike_data::{BadImages, DataError, Dataset, DecodeLimits, FileCheck, Part};

use crate::config::TrainConfig;
use crate::config::source::TrainData;
use crate::error::TrainError;

/// A run of days may begin ten seconds later.
const BUDGET: Duration = Duration::from_secs(10);

/// Images of the classes that are decoded, and how many of them at most.
const FEW: usize = 3;
const MOST: usize = 500;

/// How many bad images an error names.
const EXAMPLES: usize = 10;

/// Training images have to be there, the others to be whole as far as that is seen without decoding:
/// an epoch finds a bad training image soon, but a bad test image only when it is over. Returns
/// what a person should know.
pub(super) fn at_start(data: &TrainData, policy: BadImages) -> Result<Vec<String>, DataError> {
    let checks = [FileCheck::Exists, FileCheck::Header];
    let of = |(part, set): (Part, &Dataset)| -> Vec<String> {
        let notes = set.notes().iter();
        notes.map(|note| format!("{part}: {note}")).collect()
    };
    let mut notes: Vec<String> = data.parts().flat_map(of).collect();
    notes.extend(all(data, policy, checks, Some(BUDGET))?);
    rarest(&data.train, policy)?;
    for (part, set) in data.parts().filter(|(part, _)| *part != Part::Train) {
        let seen = set.files_also_in(&data.train, BUDGET / 2);
        if seen > 0 {
            notes.push(format!(
                "{part}: {seen} of {} images equal training images, byte for byte: accuracy on them is too \
                 high",
                set.len()
            ));
        }
    }
    Ok(notes)
}

/// Decodes the images of classes that have a few: a class without a good one would end the run within
/// the first epoch.
fn rarest(train: &Dataset, policy: BadImages) -> Result<(), DataError> {
    let counts = train.class_counts();
    let is_rare = |i: &usize| counts[train.label(*i) as usize] <= FEW;
    let rare: Vec<usize> = (0..train.len()).filter(is_rare).take(MOST).collect();
    let rare = train.select(&rare);
    let report = rare.check_files(FileCheck::Decode, &DecodeLimits::default(), Some(BUDGET))?;
    let mut left = counts;
    for (i, error) in report.bad {
        let label = rare.label(i) as usize;
        left[label] -= 1;
        if matches!(policy, BadImages::Fail) {
            return Err(error);
        }
        if left[label] == 0 {
            return Err(DataError::NoReplacement {
                class: train.class_names()[label].clone(),
                source: Box::new(error),
            });
        }
    }
    Ok(())
}

/// Checks training images by the first of `checks`, the others by the second. Returns a line on
/// each set that could not be checked as a whole, has bad images that are left out, or was decoded.
pub(super) fn all(
    data: &TrainData,
    policy: BadImages,
    checks: [FileCheck; 2],
    budget: Option<Duration>,
) -> Result<Vec<String>, DataError> {
    let mut notes = Vec::new();
    for (part, set) in data.parts() {
        let train = part == Part::Train;
        let check = checks[usize::from(!train)];
        let report = set.check_files(check, &DecodeLimits::default(), budget)?;
        let (bad, images) = (report.bad.len(), set.len());
        let allowed = match policy {
            BadImages::Skip { max_share } if train => max_share * images as f64,
            _ => 0.0,
        };
        if bad as f64 > allowed {
            let named = report.bad.iter().take(EXAMPLES);
            let mut examples: Vec<String> = named.map(|(_, error)| error.to_string()).collect();
            if bad > EXAMPLES {
                examples.push(format!("and {} more", bad - EXAMPLES));
            }
            return Err(DataError::BadImages {
                part,
                bad,
                images,
                examples,
            });
        }
        if let Some((_, error)) = report.bad.first() {
            notes.push(format!(
                "{part}: {bad} of {images} images cannot be used and will be replaced; {error}"
            ));
        }
        if report.checked < images {
            notes.push(format!(
                "{part}: {} of {images} images were looked at in {} seconds; the others are looked at when they are loaded",
                report.checked,
                BUDGET.as_secs()
            ));
        } else if check == FileCheck::Decode {
            notes.push(format!(
                "{part}: {images} images decoded, {bad} of them bad"
            ));
        }
    }
    Ok(notes)
}

/// A line on each stage whose sampling and loss both make up for the class frequencies, so that rare classes
/// end up in front.
pub(super) fn double_balancing(config: &TrainConfig, train: &Dataset) -> Vec<String> {
    let counts = train.class_counts();
    let of_size = |class: &usize| counts[*class];
    let classes = || (0..counts.len()).filter(|class| counts[*class] > 0);
    let (Some(most), Some(least)) = (classes().max_by_key(of_size), classes().min_by_key(of_size))
    else {
        return vec![];
    };
    let line = |stage: usize| {
        let of = config.stage(stage)?;
        if !of.sampling.balances() || !of.loss.balances() {
            return None;
        }
        let prior = config
            .logit_prior(stage, of.epochs.checked_sub(1)?, &counts)
            .ok()?;
        let factor = prior[least] / prior[most];
        let class = |class: usize| {
            let name = &train.class_names()[class];
            format!("`{name}` ({} training images)", counts[class])
        };
        // Each in part may make a whole: square-root sampling and half of the logit adjustment.
        (factor > 1.01).then(|| {
            format!(
                "stage{stage}: sampling and loss both make up for the class frequencies (double \
                 balancing): the network learns as if {} were {factor:.1} times as frequent as {}; take \
                 sampling instance, or a loss without a prior or weights",
                class(least),
                class(most)
            )
        })
    };
    [1, 2].into_iter().filter_map(line).collect()
}

/// At most so many sizes of a set are looked at.
const SIZES: usize = 2000;

/// A pipeline without a resize takes images of its size alone: of others it would see a part, or at another
/// scale than the rest of training does.
pub(super) fn sizes(data: &TrainData, config: &TrainConfig) -> Result<(), TrainError> {
    for (part, set) in data.parts() {
        let (field, pipeline) = match part {
            Part::Train => ("train_pipeline", &config.train_pipeline),
            _ => ("eval_pipeline", &config.eval_pipeline),
        };
        let Some(size) = pipeline.fixed_size() else {
            continue;
        };
        for i in (0..set.len()).step_by(set.len().div_ceil(SIZES).max(1)) {
            // A header that cannot be read is another check's matter.
            let Ok([width, height]) = set.header_size(i) else {
                continue;
            };
            let covered =
                |side, wanted| side == wanted && width >= size.width && height >= size.height;
            if !covered(width, size.width) && !covered(height, size.height) {
                let (across, down) = (size.width, size.height);
                let side = size.short();
                return Err(TrainError::Mismatch(format!(
                    "{field} cuts {across}×{down} pixels out of images as they are, and {} is of \
                     {width}×{height}: begin it with {{ kind = \"resize\", short_side = {side} }}, or take \
                     photo_train and photo_eval",
                    set.origin(i)
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use shike_data::image_folder;

    #[test]
    fn training_images_may_be_left_out_and_test_images_may_not() {
        let dir = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            let class = dir.path().join(split).join("cat");
            std::fs::create_dir_all(&class).unwrap();
            for i in 0..4 {
                let image = image::RgbImage::new(8, 8);
                image.save(class.join(format!("{i}.png"))).unwrap();
            }
        }
        std::fs::write(dir.path().join("train/cat/0.png"), "").unwrap();
        std::fs::write(dir.path().join("train/cat/a.heic"), "").unwrap();
        let data = TrainData {
            train: image_folder(dir.path().join("train")).unwrap(),
            val: None,
            test: Some(image_folder(dir.path().join("test")).unwrap()),
        };
        let error = at_start(&data, BadImages::Fail).unwrap_err().to_string();
        let start = "1 of the 4 training images cannot be used:\n  ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with("0.png: is empty (0 bytes)"), "{error}");
        assert!(at_start(&data, BadImages::Skip { max_share: 0.2 }).is_err());
        let skip = BadImages::Skip { max_share: 0.25 };
        let notes = at_start(&data, skip).unwrap();
        assert!(notes[0].starts_with("training: skipped: 1 .heic"));
        assert!(
            notes[1].starts_with("training: 1 of 4 images cannot be used and will be replaced")
        );
        // All pictures are alike.
        let seen = "test: 4 of 4 images equal training images, byte for byte: accuracy";
        assert!(notes[2].starts_with(seen), "{notes:?}");
        assert_eq!(notes.len(), 3);

        let page = dir.path().join("test/cat/3.png");
        std::fs::write(&page, "<html>").unwrap();
        let error = at_start(&data, skip).unwrap_err().to_string();
        assert!(error.starts_with("1 of the 4 test images"), "{error}");
        assert!(error.contains("3.png: is HTML"), "{error}");
        // What only decoding finds: rows behind the first that are damaged.
        let noise = |x: u32, y: u32| image::Rgb([0, 1, 2].map(|c| (x * y * (x + y + c)) as u8));
        image::RgbImage::from_fn(64, 512, noise)
            .save(&page)
            .unwrap();
        let mut bytes = std::fs::read(&page).unwrap();
        let late = bytes.len() - 200;
        bytes[late] ^= 0xFF;
        std::fs::write(page, bytes).unwrap();
        at_start(&data, skip).unwrap();
        let error = all(&data, skip, [FileCheck::Decode; 2], None).unwrap_err();
        assert!(
            error.to_string().contains("3.png: not a readable image"),
            "{error}"
        );
    }

    #[test]
    fn a_class_without_a_good_image_is_found_before_the_first_step() {
        let dir = tempfile::tempdir().unwrap();
        for (class, images) in [("cat", 8u8), ("rare", 2)] {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            for i in 0..images {
                let image = image::RgbImage::from_pixel(8, 8, image::Rgb([i, images, 0]));
                image
                    .save(dir.path().join(class).join(format!("{i}.png")))
                    .unwrap();
            }
        }
        let data = TrainData {
            train: image_folder(dir.path()).unwrap(),
            val: None,
            test: None,
        };
        let skip = BadImages::Skip { max_share: 0.5 };
        let check = |policy| at_start(&data, policy).map_err(|error| error.to_string());
        let cut = |name: &str| {
            let bytes = std::fs::read(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name), &bytes[..bytes.len() / 2]).unwrap();
        };
        cut("rare/0.png");
        assert!(check(skip).is_ok());
        assert!(check(BadImages::Fail).unwrap_err().contains("rare/0.png"));
        cut("rare/1.png");
        let error = check(skip).unwrap_err();
        assert!(
            error.contains("no other image of the class \"rare\" can be read"),
            "{error}"
        );
    }
}
