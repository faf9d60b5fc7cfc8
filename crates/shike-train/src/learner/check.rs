//! Looks at the files of the images before the first step.

use std::time::Duration;

use shike_data::{BadImages, DataError, Dataset, DecodeLimits, FileCheck};

use super::TrainData;

/// A run of days may begin ten seconds later.
const BUDGET: Duration = Duration::from_secs(10);

/// How many bad images an error names.
const EXAMPLES: usize = 10;

/// Training images have to be there, the others to be whole as far as that is seen without decoding:
/// an epoch finds a bad training image soon, but a bad test image only when it is over. Returns
/// what a person should know.
pub(super) fn at_start(data: &TrainData, policy: BadImages) -> Result<Vec<String>, DataError> {
    let checks = [FileCheck::Exists, FileCheck::Header];
    let sets = sets(data);
    let mut notes: Vec<String> = sets
        .iter()
        .flat_map(|(split, set)| {
            set.notes()
                .iter()
                .map(move |note| format!("{split}: {note}"))
        })
        .collect();
    notes.extend(all(data, policy, checks, Some(BUDGET))?);
    Ok(notes)
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
    for (split, set) in sets(data) {
        let train = split == "training";
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
                split,
                bad,
                images,
                examples,
            });
        }
        if let Some((_, error)) = report.bad.first() {
            notes.push(format!(
                "{split}: {bad} of {images} images cannot be used and will be replaced; {error}"
            ));
        }
        if report.checked < images {
            notes.push(format!(
                "{split}: {} of {images} images were looked at in {} seconds; --check-images looks at all",
                report.checked,
                BUDGET.as_secs()
            ));
        } else if check == FileCheck::Decode {
            notes.push(format!(
                "{split}: {images} images decoded, {bad} of them bad"
            ));
        }
    }
    Ok(notes)
}

fn sets(data: &TrainData) -> Vec<(&'static str, &Dataset)> {
    let sets = [
        ("training", Some(&data.train)),
        ("validation", data.val.as_ref()),
        ("test", data.test.as_ref()),
    ];
    sets.into_iter()
        .filter_map(|(split, set)| Some((split, set?)))
        .collect()
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
        std::fs::write(dir.path().join("train/cat/a.webp"), "").unwrap();
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
        assert_eq!(notes[0], "training: 1 file skipped: 1 .webp");
        assert!(
            notes[1].starts_with("training: 1 of 4 images cannot be used and will be replaced")
        );
        assert_eq!(notes.len(), 2);

        let page = dir.path().join("test/cat/3.png");
        std::fs::write(&page, "<html>").unwrap();
        let error = at_start(&data, skip).unwrap_err().to_string();
        assert!(error.starts_with("1 of the 4 test images"), "{error}");
        assert!(error.contains("3.png: is HTML"), "{error}");
        // What only decoding finds: a chunk of pixels that is none.
        let mut bytes = std::fs::read(dir.path().join("test/cat/2.png")).unwrap();
        let at = bytes.windows(4).position(|w| w == b"IDAT").unwrap();
        bytes[at + 6] ^= 0xFF;
        std::fs::write(page, bytes).unwrap();
        at_start(&data, skip).unwrap();
        let error = all(&data, skip, [FileCheck::Decode; 2], None).unwrap_err();
        assert!(
            error.to_string().contains("3.png: not a readable image"),
            "{error}"
        );
    }
}
