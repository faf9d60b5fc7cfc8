//! What goes into which list.

use std::collections::{BTreeMap, BTreeSet};

use super::lists::{SplitPlan, group_list};
use super::record::{GroupRecord, LeftOutImage, Together};
use super::sizes::Bounded;
use super::{GroupBy, Groups, SplitConfig, SplitError, assign};
use crate::dataset::Dataset;
use crate::inspect::Inspection;
use crate::part::Part;

/// Plans the split of a folder of classes. Nothing is written yet.
///
/// `found` is what [`inspect`](crate::inspect::inspect) found in `data` alone, as
/// [`Part::Train`], at [`Depth::Full`](crate::inspect::Depth::Full).
///
/// # Errors
/// [`SplitError::Config`] for a setting, [`SplitError::Data`] if `found` is not of `data` or no
/// image can be read, [`SplitError::Name`] for a path that a list cannot hold,
/// [`SplitError::Empty`] if all classes are too small for a part.
pub fn plan(
    data: &Dataset,
    found: &Inspection,
    config: &SplitConfig,
) -> Result<SplitPlan, SplitError> {
    let shares = config.shares()?;
    let wrong = |problem: &str| SplitError::Data(problem.into());
    let Some(root) = data.root() else {
        return Err(wrong("only files can be split, not images in memory"));
    };
    let fits = matches!(&found.subsets[..], [one] if one.images == data.len());
    let (true, Some(duplicates)) = (fits, &found.duplicates) else {
        return Err(wrong("the inspection is not a full one of this data set"));
    };
    let bad: BTreeSet<usize> = found.unreadable.iter().map(|u| u.image.index).collect();
    let good: Vec<usize> = (0..data.len()).filter(|i| !bad.contains(i)).collect();
    if good.is_empty() {
        return Err(wrong("no image can be read"));
    }
    let of: Vec<(u32, bool)> = good.iter().map(|&i| (data.label(i), true)).collect();
    let bounded = Bounded::new(data.class_names(), &of, config)?;
    // Classes close up where one has no image.
    let has_image: BTreeSet<u32> = bounded.labels.iter().flatten().copied().collect();
    let new: BTreeMap<u32, u32> = has_image.iter().copied().zip(0..).collect();
    let taken = good.iter().zip(&bounded.labels);
    let (taken, labels): (Vec<usize>, Vec<u32>) = taken
        .filter_map(|(&i, label)| Some((i, new[label.as_ref()?])))
        .unzip();
    let place = |i: usize| taken.binary_search(&i).ok();
    let equal = duplicates.groups.iter();
    let equal: Vec<Vec<usize>> = equal
        .map(|group| {
            let images = group.images.iter();
            images.filter_map(|image| place(image.index)).collect()
        })
        .collect();
    let found_groups = match config.group_by.is_empty() && data.groups().is_empty() {
        true => None,
        false => Some(Groups::new(data, found, &config.group_by)?),
    };
    let groups = found_groups.as_ref().map(|found| found.among(&taken));
    let assigned = assign(&labels, &equal, groups.as_deref(), config)?;
    let rows = taken.iter().zip(&labels).zip(&assigned);
    let rows = rows.map(|((&i, &label), &part)| {
        (
            part,
            data.relative_path(i).unwrap_or_default().to_owned(),
            label,
        )
    });
    let asked = Part::ALL.into_iter().zip(shares);
    let asked = asked.filter(|&(_, share)| share > 0).map(|(part, _)| part);
    let names: Vec<String> = has_image
        .iter()
        .map(|&label| bounded.names[label as usize].clone())
        .collect();
    let mut plan = SplitPlan::new(root, config, names, asked, rows)?;
    let file = |i: usize| data.relative_path(i).unwrap_or_default();
    let together = groups.as_ref().unwrap_or(&equal).iter();
    plan.groups =
        group_list(together.map(|group| group.iter().map(|&at| file(taken[at])).collect()));
    plan.parts = vec![None; data.len()];
    for (&i, &part) in taken.iter().zip(&assigned) {
        plan.parts[i] = Some(part);
    }
    let record = &mut plan.record;
    if let Some((&subset, _)) = plan.lists.iter().find(|(_, text)| text.is_empty()) {
        let sizes = record
            .classes
            .iter()
            .map(|class| class.images.values().sum());
        return Err(SplitError::Empty {
            subset,
            largest: sizes.max().unwrap_or(0),
            grouped: groups.is_some(),
        });
    }
    if let (Some(found), Some(groups)) = (found_groups, &groups) {
        record.groups = Some(GroupRecord::new(found, groups, &labels));
        for class in &mut record.classes {
            let counts = config.counts(class.images.values().sum())?;
            class.wanted = Some(Part::ALL.into_iter().zip(counts).collect());
        }
    }
    record.sizes = bounded.record;
    record.duplicates = Together {
        groups: duplicates.groups.len(),
        across_classes: duplicates.across_classes,
    };
    let unreadable = found.unreadable.iter().map(|bad| LeftOutImage {
        file: file(bad.image.index).to_owned(),
        reason: bad.reason.clone(),
    });
    record.left_out.images = unreadable.collect();
    record.left_out.folder = data.left_out().clone();
    let readable: BTreeSet<u32> = good.iter().map(|&i| data.label(i)).collect();
    let empty = data.class_names().iter().zip(0..);
    let empty = empty.filter(|(_, label)| !readable.contains(label));
    record.left_out.classes = empty.map(|(name, _)| name.clone()).collect();
    Ok(plan)
}

/// Plans lists of parts that are given, within `min_images` and `max_images`: they bound the training images, and
/// validation and test images of classes that are left out go with them.
///
/// The parts have the same class names. Paths start at the folder that holds all of them. With `found`, what a full
/// [`inspect`](crate::inspect::inspect) found in the parts [side by side](Dataset::side_by_side), `group_by` is looked at as well:
/// no group may lie in two parts, and the lists come with the groups.
///
/// # Errors
/// [`SplitError::Config`] for a setting, [`SplitError::Group`] for a rule, [`SplitError::Data`] if the images are no files,
/// [`SplitError::Name`] for a path that a list cannot hold.
pub fn bound(
    parts: &[(Part, Dataset)],
    found: Option<&Inspection>,
    config: &SplitConfig,
) -> Result<SplitPlan, SplitError> {
    let wrong = |problem: &str| SplitError::Data(problem.into());
    let sets: Vec<&Dataset> = parts.iter().map(|(_, data)| data).collect();
    let names = sets
        .first()
        .ok_or_else(|| wrong("there is no image"))?
        .class_names();
    let (root, paths) = Dataset::one_folder(&sets)
        .ok_or_else(|| wrong("only images in files can be put into lists"))?;
    let of_parts = parts
        .iter()
        .flat_map(|(part, data)| (0..data.len()).map(move |i| (*part, data.label(i))));
    let (of_part, images): (Vec<Part>, Vec<(u32, bool)>) = of_parts
        .map(|(part, label)| (part, (label, part == Part::Train)))
        .unzip();
    let rows: Vec<(Part, String)> = of_part.into_iter().zip(paths).collect();
    let bounded = Bounded::new(names, &images, config)?;
    let in_training = bounded
        .labels
        .iter()
        .zip(&rows)
        .filter(|(_, (part, _))| *part == Part::Train);
    let has_image: BTreeSet<u32> = in_training.filter_map(|(label, _)| *label).collect();
    let new: BTreeMap<u32, u32> = has_image.iter().copied().zip(0..).collect();
    let names = has_image
        .iter()
        .map(|&label| bounded.names[label as usize].clone());
    let labels = bounded
        .labels
        .iter()
        .map(|label| new.get(label.as_ref()?).copied());
    let labels: Vec<Option<u32>> = labels.collect();
    let all = Dataset::side_by_side(&sets)?;
    let by_rules = found.map(|found| whole_groups(parts, &all, found, &config.group_by));
    let by_rules = by_rules.transpose()?;
    let groups = match &by_rules {
        Some(found) => found.groups.clone(),
        None => all.groups(),
    };
    let path = |i: &usize| labels[*i].map(|_| rows[*i].1.as_str());
    let groups = groups
        .iter()
        .map(|group| group.iter().filter_map(path).collect());
    let groups = group_list(groups);
    let of = rows.iter().zip(&labels);
    let taken = of.filter_map(|((part, path), label)| Some((*part, path.clone(), (*label)?)));
    let asked = parts.iter().map(|(part, _)| *part);
    let mut plan = SplitPlan::new(&root, config, names.collect(), asked, taken)?;
    plan.groups = groups;
    // Those of the training images, which come first.
    let training = rows
        .iter()
        .zip(&labels)
        .filter(|((part, _), _)| *part == Part::Train);
    plan.parts = training
        .map(|((part, _), label)| label.map(|_| *part))
        .collect();
    if let Some(found) = by_rules {
        let taken: Vec<usize> = (0..labels.len()).filter(|&i| labels[i].is_some()).collect();
        let labels: Vec<u32> = labels.iter().copied().flatten().collect();
        let groups = found.among(&taken);
        plan.record.groups = Some(GroupRecord::new(found, &groups, &labels));
    }
    plan.record.sizes = bounded.record;
    let left_out = parts.iter().map(|(_, data)| data.left_out().clone());
    left_out.for_each(|of| plan.record.left_out.folder.add(of));
    Ok(plan)
}

/// The groups of parts that are given, none of which may lie in two.
fn whole_groups(
    parts: &[(Part, Dataset)],
    all: &Dataset,
    found: &Inspection,
    rules: &[GroupBy],
) -> Result<Groups, SplitError> {
    let of = parts
        .iter()
        .flat_map(|(part, data)| vec![*part; data.len()]);
    let of: Vec<Part> = of.collect();
    let alone = all.clone().without_groups();
    let unequal = Inspection {
        duplicates: None,
        ..found.clone()
    };
    for by in rules {
        // Equal images are no matter of a patient.
        let found = match by {
            GroupBy::NearDuplicates => found,
            _ => &unequal,
        };
        let groups = Groups::new(&alone, found, std::slice::from_ref(by))?.groups;
        let elsewhere = |group: &Vec<usize>| {
            let other = group.iter().find(|&&i| of[i] != of[group[0]]);
            other.map(|&other| [group[0], other])
        };
        let parted: Vec<[usize; 2]> = groups.iter().filter_map(elsewhere).collect();
        if let Some(&[one, other]) = parted.first() {
            let name = |i: usize| format!("{} ({})", all.origin(i), of[i]);
            return Err(SplitError::Group {
                by: by.clone(),
                problem: format!(
                    "{} of its {} groups lie in several of the parts that are given, such as that of {} and {}: \
                     move each into one part, or give all images in one folder or list, to be split by it",
                    parted.len(),
                    groups.len(),
                    name(one),
                    name(other),
                ),
            });
        }
    }
    Groups::new(all, found, rules)
}
