//! Which pictures of a data set to look at first, class by class: labels that are probably wrong, pictures that look
//! alike under two labels, and the frequent class that a rare one is nearest to.
//!
//! Pictures are judged by a head on the features of a trunk that was not trained on their labels. Each is held out
//! once, with all that belongs to it: a near-duplicate in training would know its label, right or wrong. All labelled pictures
//! take part, whatever the run used them for.

mod doubts;
mod page;
mod table;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shike_data::inspect::{InspectConfig, Unreadable, inspect};
use shike_data::split::{GroupBy, Groups, SplitError, held_out_at_most};
use shike_data::write::{WriteError, write_bytes};
use shike_data::{Dataset, Decoding, Part, Shot, ShotThresholds};
use shike_infer::Features;

use self::doubts::Said;
use crate::config::TrainData;

/// Parts that are held out one after another.
pub const FOLDS: usize = 5;

/// Seconds between two pictures of a burst.
const BURST: u32 = 30;

/// The pictures that are judged.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Those of training, validation and test that can be read, one part behind the other, `[pictures]`.
    pub images: Dataset,
    /// When each is held out, `[pictures]`; none where it belongs to all pictures of its class, without which no head would know
    /// the class.
    pub folds: Vec<Option<usize>>,
    parts: Vec<Part>,
    /// Groups of pictures that look alike or are equal.
    alike: Vec<Vec<usize>>,
    unreadable: Vec<Unreadable>,
    train_counts: Vec<usize>,
    thresholds: ShotThresholds,
}

impl Subject {
    /// Opens all pictures, finds those that look alike, and deals them into [`FOLDS`]. Near-duplicates and bursts are kept
    /// together, and the [groups](Dataset::groups) of the data. `progress` is told how many pictures were opened, from several threads.
    ///
    /// # Errors
    /// If the parts have other classes.
    pub fn new(
        data: &TrainData,
        thresholds: ShotThresholds,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self, SplitError> {
        let sets: Vec<&Dataset> = data.parts().map(|(_, images)| images).collect();
        let all = Dataset::joined(&sets)?;
        // A burst may lie in `train/fox` and `test/fox`.
        let sides = Dataset::side_by_side(&sets)?;
        let parts = data
            .parts()
            .flat_map(|(part, images)| vec![part; images.len()]);
        let parts: Vec<Part> = parts.collect();
        let mut found = inspect(
            &[(Part::Train, sides.clone())],
            &InspectConfig::default(),
            progress,
        )?;
        let mut rules = vec![GroupBy::NearDuplicates];
        let alike = Groups::new(&sides.clone().without_groups(), &found, &rules)?;
        rules.extend((found.in_bursts > 0).then_some(GroupBy::Time(BURST)));
        let groups = Groups::new(&sides, &found, &rules)?;
        let mut unreadable = std::mem::take(&mut found.unreadable);
        let bad: BTreeSet<usize> = unreadable.iter().map(|bad| bad.image.index).collect();
        for bad in &mut unreadable {
            bad.image.subset = parts[bad.image.index];
            let path = all.relative_path(bad.image.index);
            bad.image.file = path.map_or_else(|| bad.image.file.clone(), str::to_owned);
        }
        let good: Vec<usize> = (0..all.len()).filter(|i| !bad.contains(i)).collect();
        let images = all.select(&good);
        Ok(Self {
            folds: held_out_at_most(images.labels(), &groups.among(&good), FOLDS, 0)?,
            parts: good.iter().map(|&i| parts[i]).collect(),
            alike: alike.among(&good),
            images,
            unreadable,
            train_counts: data.train.class_counts(),
            thresholds,
        })
    }

    /// The classes that have a picture, ascending: heads know these alone.
    pub fn classes(&self) -> Vec<u32> {
        let counts = self.images.class_counts();
        let classes = (0u32..).zip(counts);
        classes
            .filter_map(|(class, n)| (n > 0).then_some(class))
            .collect()
    }

    fn name(&self, class: u32) -> &str {
        &self.images.class_names()[class as usize]
    }

    fn shot(&self, class: u32) -> Shot {
        self.thresholds.group(self.train_counts[class as usize])
    }

    /// The path of a picture, or where it stands in a file.
    fn path(&self, picture: usize) -> String {
        match self.images.relative_path(picture) {
            Some(path) => path.to_owned(),
            None => self.images.origin(picture),
        }
    }

    /// The classes of the most frequent group that has pictures.
    fn frequent(&self) -> Vec<u32> {
        let classes = self.classes();
        let shots = [Shot::Many, Shot::Medium, Shot::Few].into_iter();
        let mut groups = shots.map(|shot| {
            let group = classes.iter().copied();
            let group = group.filter(|class| self.shot(*class) == shot);
            group.collect::<Vec<u32>>()
        });
        groups.find(|group| !group.is_empty()).unwrap_or_default()
    }
}

/// Why to look at a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Both of the next two.
    #[serde(rename = "label+twin")]
    LabelAndTwin,
    /// Its label is probably wrong.
    Label,
    /// Another picture looks like it, and has another label.
    Twin,
    /// It cannot be read.
    Unreadable,
}

/// A picture to look at; a line of `triage.csv`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Its path below the folder of the data set, or where it stands in a file.
    pub path: String,
    /// The class that its label says.
    pub class: String,
    /// The group of that by its training pictures.
    pub shot: Shot,
    /// Its place among those of the class, from 1.
    pub rank: usize,
    /// The part that it is in.
    pub part: Part,
    /// Why to look at it.
    pub reason: Reason,
    /// The class that it probably is of, where its label is doubted.
    pub suggested: Option<String>,
    /// The probability of its label, as if all classes were equally frequent, where it was judged.
    #[serde(serialize_with = "table::short")]
    pub label_probability: Option<f32>,
    /// That of the suggested class.
    #[serde(serialize_with = "table::short")]
    pub suggested_probability: Option<f32>,
    /// A picture with another label that looks like it.
    pub twin: Option<String>,
    /// The label of that.
    pub twin_class: Option<String>,
    /// Its number and that of its twin, where they can be read.
    #[serde(skip)]
    pictures: (Option<usize>, Option<usize>),
}

impl Row {
    /// How probable the label is beside the suggested class.
    fn odds(&self) -> f32 {
        let own = self.label_probability.unwrap_or(1.0);
        own / self.suggested_probability.unwrap_or(1.0)
    }
}

/// A class; a line of `triage_classes.csv`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ClassRow {
    /// Its name.
    pub class: String,
    /// Its group.
    pub shot: Shot,
    /// Its training pictures.
    pub training_images: usize,
    /// Its pictures in all parts that can be read.
    pub images: usize,
    /// Those that were held out once.
    pub judged: usize,
    /// Those whose label is probably wrong.
    pub doubted: usize,
    /// Those that look like one with another label.
    pub twins: usize,
    /// Those that cannot be read.
    pub unreadable: usize,
    /// The mean probability of its label.
    #[serde(serialize_with = "table::short")]
    pub label_probability: Option<f64>,
    /// The frequent class that its pictures are most probably taken for.
    pub nearest_frequent: Option<String>,
    /// The mean probability of that.
    #[serde(serialize_with = "table::short")]
    pub nearest_probability: Option<f64>,
    /// Pictures to which no class is more probable than that.
    pub taken_for_it: Option<usize>,
}

/// What there is to look at.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Triage {
    /// The pictures, class by class from the rarest on.
    #[serde(rename = "pictures")]
    pub rows: Vec<Row>,
    /// The classes, from the rarest on.
    pub classes: Vec<ClassRow>,
    /// Pairs of pictures that look alike and have two labels.
    pub pairs: usize,
}

impl Triage {
    /// By the log-probabilities that heads gave the pictures which they had not seen, `[pictures, classes]` of the
    /// [classes that have one](Subject::classes), as [`Candidate::held_out`](shike_heads::Candidate::held_out) gives them, and the
    /// pictures' features.
    ///
    /// # Panics
    /// If they are of other pictures.
    pub fn new(subject: &Subject, features: &Features, log_probabilities: &[f32]) -> Self {
        let (known, all) = (subject.classes(), subject.images.num_classes());
        let mut probabilities = vec![0.0; subject.images.len() * all];
        let rows = probabilities.chunks_exact_mut(all);
        for (row, logs) in rows.zip(log_probabilities.chunks_exact(known.len().max(1))) {
            for (&class, log) in known.iter().zip(logs) {
                row[class as usize] = log.exp();
            }
        }
        let judged: Vec<bool> = subject.folds.iter().map(Option::is_some).collect();
        let said = Said {
            probabilities: &probabilities,
            labels: subject.images.labels(),
            judged: &judged,
            classes: subject.images.num_classes(),
        };
        let pairs = pairs(subject, features);
        let mut twins = BTreeMap::new();
        for &[one, other] in &pairs {
            twins.entry(one).or_insert(other);
            twins.entry(other).or_insert(one);
        }
        let mut order: Vec<u32> = (0..said.classes as u32).collect();
        order.sort_by_key(|class| subject.train_counts[*class as usize]);
        let mut of_class: Vec<Vec<usize>> = vec![vec![]; said.classes];
        for (picture, &label) in said.labels.iter().enumerate() {
            of_class[label as usize].push(picture);
        }
        let frequent = subject.frequent();
        let (mut rows, mut classes) = (vec![], vec![]);
        for class in order {
            let pictures = (class, &*of_class[class as usize]);
            let those = rows_of(subject, &said, pictures, &twins);
            classes.push(class_row(subject, &said, pictures, &those, &frequent));
            rows.extend(those);
        }
        Self {
            rows,
            classes,
            pairs: pairs.len(),
        }
    }

    /// `triage.csv`, `triage_classes.csv` and `triage.html` in a folder.
    pub fn files(folder: &Path) -> [PathBuf; 3] {
        let files = ["triage.csv", "triage_classes.csv", "triage.html"];
        files.map(|file| folder.join(file))
    }

    /// Writes its [files](Self::files), the pictures as `decoding` says, and gives their paths.
    ///
    /// # Errors
    /// If one cannot be written; it is then as it was.
    pub fn write(
        &self,
        subject: &Subject,
        decoding: &Decoding,
        folder: &Path,
    ) -> Result<[PathBuf; 3], WriteError> {
        let files = Self::files(folder);
        table::write_csv(&files[0], table::ROW, &self.rows)?;
        table::write_csv(&files[1], table::CLASS_ROW, &self.classes)?;
        let page = self.page(subject, decoding);
        write_bytes(&files[2], page)?;
        Ok(files)
    }
}

/// Pairs of pictures that look alike and have two labels. Where many look alike, their most frequent label is taken for right, and
/// each other picture is paired with the nearest of those.
fn pairs(subject: &Subject, features: &Features) -> Vec<[usize; 2]> {
    let mut pairs = vec![];
    for group in &subject.alike {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for &picture in group {
            *counts.entry(subject.images.label(picture)).or_default() += 1;
        }
        let usual = counts.iter().rev().max_by_key(|(_, n)| **n);
        let Some((&usual, _)) = usual else { continue };
        let (same, others): (Vec<usize>, Vec<usize>) = group
            .iter()
            .partition(|&&picture| subject.images.label(picture) == usual);
        for other in others {
            let near = |picture: &&usize| cosine(features.row(**picture), features.row(other));
            let nearest = same.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
            pairs.extend(nearest.map(|&nearest| [nearest, other]));
        }
    }
    pairs
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

/// The pictures of a class to look at, in their order.
fn rows_of(
    subject: &Subject,
    said: &Said<'_>,
    (class, pictures): (u32, &[usize]),
    twins: &BTreeMap<usize, usize>,
) -> Vec<Row> {
    let row = |path, part, reason| Row {
        path,
        class: subject.name(class).to_owned(),
        shot: subject.shot(class),
        rank: 0,
        part,
        reason,
        suggested: None,
        label_probability: None,
        suggested_probability: None,
        twin: None,
        twin_class: None,
        pictures: (None, None),
    };
    let look = |picture: usize| {
        let (doubt, twin) = (said.doubt(picture), twins.get(&picture).copied());
        let reason = match (doubt, twin) {
            (Some(_), Some(_)) => Reason::LabelAndTwin,
            (Some(_), None) => Reason::Label,
            (None, Some(_)) => Reason::Twin,
            (None, None) => return None,
        };
        let of_twin = twin.map(|twin| subject.name(subject.images.label(twin)).to_owned());
        Some(Row {
            suggested: doubt.map(|(class, _)| subject.name(class).to_owned()),
            label_probability: said.own(picture),
            suggested_probability: doubt.map(|(_, probability)| probability),
            twin: twin.map(|twin| subject.path(twin)),
            twin_class: of_twin,
            pictures: (Some(picture), twin),
            ..row(subject.path(picture), subject.parts[picture], reason)
        })
    };
    let mut rows: Vec<Row> = pictures.iter().copied().filter_map(look).collect();
    rows.sort_by(|a, b| {
        let order = a.reason.cmp(&b.reason);
        order.then(a.odds().total_cmp(&b.odds()))
    });
    let bad = subject
        .unreadable
        .iter()
        .filter(|bad| bad.image.label == class);
    rows.extend(bad.map(|bad| {
        let (part, file) = (bad.image.subset, bad.image.file.clone());
        row(file, part, Reason::Unreadable)
    }));
    (1..).zip(&mut rows).for_each(|(rank, row)| row.rank = rank);
    rows
}

fn class_row(
    subject: &Subject,
    said: &Said<'_>,
    (class, pictures): (u32, &[usize]),
    rows: &[Row],
    frequent: &[u32],
) -> ClassRow {
    let judged = pictures.iter().copied().filter(|&p| said.judged[p]);
    let judged: Vec<usize> = judged.collect();
    let mean = |of: u32| {
        let of = |&picture: &usize| f64::from(said.of(picture)[of as usize]);
        judged.iter().map(of).sum::<f64>() / judged.len() as f64
    };
    let others = frequent.iter().filter(|other| **other != class);
    let others = others.map(|&other| (mean(other), other));
    let nearest = others
        .filter(|_| !judged.is_empty())
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let taken = |other: u32| {
        let is_taken = |picture: &&usize| {
            let probabilities = said.of(**picture);
            let highest = probabilities.iter().copied().fold(0.0, f32::max);
            probabilities[other as usize] >= highest
        };
        judged.iter().filter(is_taken).count()
    };
    let count = |reasons: &[Reason]| rows.iter().filter(|r| reasons.contains(&r.reason)).count();
    ClassRow {
        class: subject.name(class).to_owned(),
        shot: subject.shot(class),
        training_images: subject.train_counts[class as usize],
        images: pictures.len(),
        judged: judged.len(),
        doubted: count(&[Reason::Label, Reason::LabelAndTwin]),
        twins: count(&[Reason::Twin, Reason::LabelAndTwin]),
        unreadable: count(&[Reason::Unreadable]),
        label_probability: (!judged.is_empty()).then(|| mean(class)),
        nearest_frequent: nearest.map(|(_, other)| subject.name(other).to_owned()),
        nearest_probability: nearest.map(|(mean, _)| mean),
        taken_for_it: nearest.map(|(_, other)| taken(other)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::RgbImage;
    use image::imageops::{FilterType, resize};
    use shike_data::rng::{Draw, Purpose, rng};

    use super::*;

    fn images(labels: &[u32]) -> Dataset {
        let classes = 1 + *labels.iter().max().unwrap() as usize;
        Dataset::from_pixels(vec![0; 3 * labels.len()], 1, 1, labels.to_vec(), classes).unwrap()
    }

    fn subject(labels: &[u32], alike: &[&[usize]]) -> Subject {
        let images = images(labels);
        Subject {
            folds: vec![Some(0); labels.len()],
            parts: vec![Part::Train; labels.len()],
            alike: alike.iter().map(|group| group.to_vec()).collect(),
            unreadable: vec![],
            train_counts: images.class_counts(),
            thresholds: ShotThresholds {
                many_above: 4,
                few_below: 2,
            },
            images,
        }
    }

    /// As many columns as there are numbers for a picture.
    fn features(subject: &Subject, rows: Vec<f32>) -> Features {
        let width = rows.len() / subject.images.len();
        let source = serde_json::json!({
            "backbone": shike_model::BackboneConfig::named("resnet8").unwrap(),
            "weights": "", "pipeline": shike_data::Pipeline::cifar_eval(),
            "normalization": shike_data::Normalization::CIFAR10,
            "precision": shike_infer::Precision::F32,
            "computed": "", "program": "", "depths": [["deep", width]],
        });
        Features {
            source: serde_json::from_value(source).unwrap(),
            class_names: subject.images.class_names().to_vec(),
            names: vec![],
            labels: subject.images.labels().to_vec(),
            contents: vec![],
            rows,
        }
    }

    /// Blurred noise, of which no two pictures look alike.
    fn picture(seed: u64) -> RgbImage {
        let mut draw = rng(seed, 0, 0, Purpose::Other);
        let noise = RgbImage::from_fn(9, 7, |_, _| image::Rgb([draw.below(256) as u8; 3]));
        resize(&noise, 64, 48, FilterType::CatmullRom)
    }

    /// A picture whose EXIF data say when it was taken.
    fn taken_at(path: &Path, seed: u64, time: &str) {
        picture(seed).save(path).unwrap();
        let jpeg = std::fs::read(path).unwrap();
        // One field, DateTime, at 26.
        let field = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x32\0\x02\0\0\0\x14\0\0\0\x1A\0\0\0\0";
        let exif = [field, time.as_bytes(), b"\0"].concat();
        let length = ((exif.len() + 2) as u16).to_be_bytes();
        let whole = [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat();
        std::fs::write(path, whole).unwrap();
    }

    /// What a split kept together need not look alike: it is held out together, and nobody is told of it. What looks alike is
    /// told, and held out together, whether a split kept it together or not.
    #[test]
    fn what_looks_alike_and_what_was_kept_together_are_two_things() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("train").join(name);
        let val = dir.path().join("val");
        for folder in [at("a"), at("b"), val.join("a")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for seed in 0..20 {
            let class = if seed < 10 { "a" } else { "b" };
            let file = at(&format!("{class}/{}.png", seed % 10));
            picture(seed).save(file).unwrap();
        }
        // Smaller copies under the other label.
        for i in 0..3 {
            let copy = resize(&picture(i), 40, 30, FilterType::Triangle);
            copy.save(at(&format!("b/copy{i}.png"))).unwrap();
        }
        // A patient, who has a copy as well.
        let patient = [
            "a/2.png",
            "b/copy2.png",
            "a/5.png",
            "a/6.png",
            "b/5.png",
            "b/6.png",
        ];
        let groups = patient.map(|path| format!("{path} 0\n")).concat();
        std::fs::write(at("groups.txt"), groups).unwrap();
        // Bursts of two, one of which is for validation.
        for minute in 0..4 {
            let [one, other] = [at("a"), val.clone().join("a")]
                .map(|folder| folder.join(format!("burst{minute}.jpg")));
            taken_at(&one, 50 + minute, &format!("2024:01:01 12:{minute:02}:00"));
            taken_at(
                &other,
                60 + minute,
                &format!("2024:01:01 12:{minute:02}:20"),
            );
        }
        let train = shike_data::image_folder(dir.path().join("train")).unwrap();
        let val = shike_data::image_folder_with_classes(val, train.class_names()).unwrap();
        let data = TrainData {
            train: train.with_groups(&at("groups.txt")).unwrap(),
            val: Some(val),
            test: None,
        };
        let subject = Subject::new(&data, ShotThresholds::default(), &|_| {}).unwrap();
        let paths = |group: &Vec<usize>| -> Vec<String> {
            let paths = group.iter().map(|&i| subject.path(i));
            paths.collect()
        };
        let alike: Vec<Vec<String>> = subject.alike.iter().map(paths).collect();
        let expected =
            [0, 1, 2].map(|i| [format!("train/a/{i}.png"), format!("train/b/copy{i}.png")]);
        assert_eq!(alike, expected);
        let fold = |path: &str| {
            let at = (0..subject.images.len()).find(|&i| subject.path(i) == path);
            subject.folds[at.unwrap()].unwrap()
        };
        let mut folds = vec![];
        for i in 0..2 {
            folds.push(fold(&format!("train/a/{i}.png")));
            assert_eq!(folds[i], fold(&format!("train/b/copy{i}.png")));
        }
        for minute in 0..4 {
            let [one, other] =
                ["train", "val"].map(|part| fold(&format!("{part}/a/burst{minute}.jpg")));
            assert_eq!(one, other);
        }
        folds.extend(patient.map(|path| fold(&format!("train/{path}"))));
        assert!(folds[2..].iter().all(|fold| *fold == folds[2]), "{folds:?}");
    }

    #[test]
    fn a_class_without_a_picture_is_left_out() {
        // Of class 1, which has four for training, none can be read.
        let mut subject = subject(&[0, 0, 0, 2, 2], &[]);
        subject.train_counts = vec![3, 5, 2];
        assert_eq!(subject.classes(), [0, 2]);
        let features = features(&subject, vec![1.0; 5]);
        // Of classes 0 and 2.
        let log: Vec<f32> = [[0.9, 0.1], [0.7, 0.3], [0.02, 0.98], [0.5, 0.5], [0.2, 0.8]]
            .concat()
            .into_iter()
            .map(f32::ln)
            .collect();
        let triage = Triage::new(&subject, &features, &log);
        let row = &triage.rows[0];
        let found = (&*row.path, &*row.class, row.suggested.as_deref());
        assert_eq!(
            (triage.rows.len(), found),
            (1, ("memory record 2", "0", Some("2")))
        );
        let of = |class: usize| {
            let row = &triage.classes[class];
            let nearest = row.nearest_frequent.as_deref();
            (&*row.class, row.images, row.judged, nearest)
        };
        // The rarest stands first; the only many-shot class has no picture that one could be taken for.
        assert_eq!(
            [of(0), of(1), of(2)],
            [
                ("2", 2, 2, Some("0")),
                ("0", 3, 3, Some("2")),
                ("1", 0, 0, None)
            ]
        );
        let text = triage.to_string();
        assert!(
            text.contains("5 of 5 pictures were judged")
                && text.contains(
                    "classes without a picture that can be read, which are left out: 1\n"
                )
                && !text.contains("belong together"),
            "{text}"
        );
    }

    #[test]
    fn of_many_that_look_alike_the_odd_one_is_paired_with_its_nearest() {
        let subject = subject(&[0, 0, 0, 1, 1, 0], &[&[0, 1, 2, 3], &[4, 5]]);
        let rows = vec![1.0, 0.0, 0.6, 0.8, 0.0, 1.0, 0.7, 0.9, 1.0, 1.0, 1.0, 1.0];
        let features = features(&subject, rows);
        assert_eq!(pairs(&subject, &features), [[1, 3], [5, 4]]);
    }

    #[test]
    fn a_class_is_listed_with_its_doubts_twins_and_nearest_frequent_class() {
        let mut subject = subject(&[0, 0, 0, 0, 0, 1, 1, 2], &[&[3, 6]]);
        subject.folds[7] = None;
        let log: Vec<f32> = [
            [0.8, 0.1, 0.1],
            [0.8, 0.1, 0.1],
            [0.8, 0.1, 0.1],
            [0.8, 0.1, 0.1],
            [0.05, 0.9, 0.05],
            [0.4, 0.5, 0.1],
            [0.95, 0.05, 0.0],
            [1.0, 1.0, 1.0],
        ]
        .concat()
        .into_iter()
        .map(f32::ln)
        .collect();
        let features = features(&subject, vec![1.0; 8]);
        let triage = Triage::new(&subject, &features, &log);
        let found: Vec<_> = triage
            .rows
            .iter()
            .map(|r| (r.class.as_str(), r.rank, r.reason, r.suggested.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("1", 1, Reason::LabelAndTwin, Some("0")),
                ("0", 1, Reason::Label, Some("1")),
                ("0", 2, Reason::Twin, None),
            ]
        );
        assert_eq!(triage.rows[2].twin_class.as_deref(), Some("1"));
        let classes: Vec<_> = triage
            .classes
            .iter()
            .map(|c| {
                (
                    c.class.as_str(),
                    c.judged,
                    c.doubted,
                    c.nearest_frequent.as_deref(),
                )
            })
            .collect();
        // Class 0 is the only one with many pictures.
        let expected = [("2", 0, 0, None), ("1", 2, 1, Some("0")), ("0", 5, 1, None)];
        assert_eq!(classes, expected);
        assert!((triage.classes[1].nearest_probability.unwrap() - 0.675).abs() < 1e-6);
        assert_eq!(triage.classes[1].taken_for_it, Some(1));
        let text = triage.to_string();
        for line in [
            "7 of 8 pictures were judged",
            "or there is one: 2\n",
            "probably wrong: 1 of 2 in medium-shot classes, 1 of 5 in many-shot classes\n",
            "under two labels: 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let subject = subject(&[0, 1], &[]);
        let features = features(&subject, vec![1.0; 2]);
        let triage = Triage::new(&subject, &features, &[-0.7; 4]);
        let write = || triage.write(&subject, &Decoding::default(), folder.path());
        let [csv, classes, page] = write().unwrap();
        let head = "path,class,shot,rank,part,reason,suggested,label_probability,suggested_probability,twin,twin_class\n";
        assert_eq!(std::fs::read_to_string(&csv).unwrap(), head);
        assert!(
            std::fs::read_to_string(&page)
                .unwrap()
                .contains("All classes")
        );
        let old = std::fs::read(&classes).unwrap();
        std::fs::remove_file(&csv).unwrap();
        std::fs::create_dir(&csv).unwrap();
        let error = write().unwrap_err().to_string();
        assert!(error.contains("triage.csv"), "{error}");
        assert_eq!(std::fs::read(&classes).unwrap(), old);
        // No half of a file lies there.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
