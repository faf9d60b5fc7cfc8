//! What is known about a benchmark, and whether the data on disk are it.

use shike_data::Part;

use serde::{Deserialize, Serialize};
use shike_data::Dataset;

use crate::config::source::TrainData;
use crate::run::receipt::SplitReceipt;

/// `[dataset]` of a recipe: the benchmark that it is for. Nothing in it changes a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// What to download.
    #[serde(default)]
    pub images: String,
    /// From where.
    #[serde(default)]
    pub url: String,
    /// Under which terms.
    #[serde(default)]
    pub terms: String,
    /// Where the lists come from.
    #[serde(default)]
    pub lists_url: String,
    /// The files below `--data`.
    #[serde(default)]
    pub layout: String,
    /// Number of classes.
    pub classes: Option<usize>,
    /// The published sets of images.
    #[serde(default)]
    pub splits: Vec<KnownSplit>,
    /// Published accuracies.
    #[serde(default)]
    pub published: Vec<Published>,
}

/// A published set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSplit {
    /// What it is for.
    pub part: Part,
    /// Name of its list, where it has one.
    pub list: Option<String>,
    /// How many images.
    pub images: usize,
    /// Images of the largest class.
    pub largest: Option<usize>,
    /// Images of the smallest class.
    pub smallest: Option<usize>,
    /// Largest class over smallest, where a data set is cut in several ways.
    pub imbalance_factor: Option<f64>,
    /// SHA-256 as a run's receipt has it: of the list's lines, or of labels and pixels.
    pub sha256: Option<String>,
    /// Whether others measure on it, too; otherwise it is a selection of this project.
    #[serde(default = "yes")]
    pub published: bool,
    /// Git's name of the list, for a list that was only seen in a repository.
    pub git_blob: Option<String>,
    /// Where these numbers come from.
    pub source: Option<String>,
}

/// A published accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Whose.
    pub method: String,
    /// On which network.
    pub network: Option<String>,
    /// Largest class over smallest, where a data set is cut in several ways.
    pub imbalance_factor: Option<f64>,
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Where the number was read.
    pub source: String,
}

fn yes() -> bool {
    true
}

impl Card {
    /// What to download, and where to put it.
    pub fn instructions(&self) -> String {
        let lists = match self.lists_url.as_str() {
            "" => String::new(),
            url => format!("\n  lists:  {url}"),
        };
        let layout: Vec<String> = self.layout.lines().map(|l| format!("    {l}")).collect();
        format!(
            "{} needs\n  images: {}\n          {}{lists}\n  terms:  {}\n  laid out as\n{}",
            self.name,
            self.images,
            self.url,
            self.terms,
            layout.join("\n"),
        )
    }

    /// Compares data with the known sets: a line for each set, and one more where something differs.
    /// Files are not read, but the pixels of CIFAR are hashed.
    pub fn compare(&self, data: &TrainData) -> Vec<String> {
        let mut lines = vec![];
        let mut other = false;
        for (part, set) in data.parts() {
            let known: Vec<_> = self.splits.iter().filter(|s| s.part == part).collect();
            if known.is_empty() {
                continue;
            }
            let (line, same) = self.compare_split(&known, set);
            other |= !same;
            lines.push(format!("{part} set: {line}"));
        }
        if other {
            lines.push("accuracies can be compared only with those on the same images".into());
        }
        lines
    }

    /// What a set of images is, and whether it is a known one.
    fn compare_split(&self, known: &[&KnownSplit], set: &Dataset) -> (String, bool) {
        let counts = set.class_counts();
        let (largest, smallest) = (counts.iter().max(), counts.iter().min());
        let classes = self.classes.unwrap_or(counts.len());
        let alike = |split: &&&KnownSplit| {
            let same = |known: Option<usize>, found: Option<&usize>| {
                known.is_none() || known.as_ref() == found
            };
            split.images == set.len()
                && classes == counts.len()
                && same(split.largest, largest)
                && same(split.smallest, smallest)
        };
        let that = match known.iter().any(|split| split.published) {
            true => format!("the published split of {}", self.name),
            false => format!("this project's own split of {}", self.name),
        };
        let alike: Vec<_> = known.iter().filter(alike).collect();
        let hashes: Vec<_> = alike.iter().filter_map(|s| s.sha256.as_deref()).collect();
        if alike.is_empty() {
            let sizes: Vec<String> = known.iter().map(|s| s.images.to_string()).collect();
            let line = format!(
                "NOT {that}: {} images of {} classes, there {} of {classes}",
                set.len(),
                counts.len(),
                sizes.join(" or "),
            );
            return (line, false);
        }
        if hashes.is_empty() {
            let line = format!("as many images as {that}, whose hash is not known");
            return (line, true);
        }
        let hash = match SplitReceipt::new(set) {
            Ok(receipt) => receipt.sha256,
            Err(error) => return (format!("cannot be compared: {error}"), false),
        };
        match hashes.contains(&hash.as_str()) {
            true => (that, true),
            false => {
                let line = format!(
                    "NOT {that}: as many images, but others or in another order (sha256 {hash})"
                );
                (line, false)
            }
        }
    }
}
