//! What `shike inspect` tells a person.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use shike_data::dataset::some_names;
use shike_data::inspect::{self as look, ENOUGH_KEPT, Inspection, Pixels, Problem, Tail};
use shike_data::split::{ClassSize, GroupBy, Groups, MinImages, SplitClass, SplitRecord};
use shike_data::{Dataset, Decoding, Fit, Part, Pipeline};

use super::super::plot::{self, Bar};
use super::{InspectArgs, Written};

fn images(n: usize) -> String {
    format!("{n} image{}", if n == 1 { "" } else { "s" })
}

fn classes(n: usize) -> String {
    format!("{n} class{}", if n == 1 { "" } else { "es" })
}

/// The verb behind so many.
fn verb(n: usize, one: &'static str, several: &'static str) -> &'static str {
    if n == 1 { one } else { several }
}

/// The parts, and how they were read.
pub(super) fn parts(found: &Inspection, notes: &[String], args: &InspectArgs) -> String {
    let mut text = format!("{}\n", args.data.display());
    for part in &found.subsets {
        let (images, classes) = (images(part.images), classes(part.classes));
        let _ = writeln!(text, "  {:5}  {images} in {classes}", part.subset.name());
    }
    for note in notes {
        let _ = writeln!(text, "  {}", plot::clean(note));
    }
    text
}

/// What there is to do about the pictures.
pub(super) fn advised(lines: &[String]) -> String {
    match lines.is_empty() {
        true => String::new(),
        false => format!("\npictures\n  {}\n", lines.join("\n  ")),
    }
}

/// The report for a person.
pub(super) fn describe(
    found: &Inspection,
    notes: &[String],
    advice: Vec<String>,
    args: &InspectArgs,
) -> String {
    let mut text = parts(found, notes, args);
    text.push('\n');
    let tail = &found.tail;
    if let (Some(factor), Some(gini), Some(head)) =
        (tail.imbalance_factor, tail.gini, tail.head_share)
    {
        let _ = writeln!(
            text,
            "training images per class: {} to {}, median {}; imbalance factor {factor:.1}, Gini \
             {gini:.2}; the largest fifth of the classes holds {:.0} %",
            tail.largest,
            tail.smallest,
            tail.median,
            100.0 * head,
        );
    }
    text += &groups(tail, args);
    let bars = found.classes.iter().map(|class| Bar {
        name: &class.name,
        size: class.images.get(&Part::Train).copied().unwrap_or(0),
        shot: class.shot.name(),
    });
    let stdout = console::Term::stdout();
    let width = match stdout.size_checked() {
        Some((_, columns)) if stdout.is_term() => usize::from(columns).clamp(40, 200),
        _ => 80,
    };
    let _ = write!(
        text,
        "\n{}",
        plot::bars(bars.collect(), width, !stdout.is_term())
    );
    text.push_str(&findings(found, args.show));
    let mut pixels = pixel_lines(&found.pixels, None);
    pixels.extend(advice);
    text + &advised(&pixels)
}

/// What a person should know of pictures that are not 8-bit, opaque, upright and nearly square: what becomes of them
/// in a run whose pipeline is known, or what a run can do.
pub(in crate::cli) fn pixel_lines(pixels: &Pixels, pipeline: Option<&Pipeline>) -> Vec<String> {
    let all = pixels.looked_at;
    let decoding = pipeline.map_or_else(Decoding::default, Pipeline::decoding);
    let [low, high] = decoding.range;
    let stretched = decoding.range != Decoding::default().range;
    let mut lines = Vec::new();
    if pixels.sixteen_bits > 0 {
        let mut line = format!(
            "{} of {all} {} 16 bits a channel, of which ",
            pixels.sixteen_bits,
            verb(pixels.sixteen_bits, "has", "have")
        );
        line += &match stretched {
            true => format!("the values {low} to {high} become black to white"),
            false => "the upper 8 are taken".to_owned(),
        };
        if pixels.narrow > 0 && !stretched {
            let _ = write!(
                line,
                "; {} of {} that were decoded use less than an eighth of the range, which leaves few grey \
                 levels: --range auto stretches the values that training pictures have, --range 0..4095 those of \
                 12 bits",
                pixels.narrow, pixels.ranges,
            );
        }
        lines.push(line);
    }
    if pixels.transparent > 0 {
        let done = match decoding.background {
            Some([red, green, blue]) => format!("they are laid over {red},{green},{blue}"),
            None => "alpha is dropped, and what lies under it is seen; --background white lays them over a \
                     colour"
                .to_owned(),
        };
        lines.push(format!(
            "{} of {all} may have transparent pixels: {done}",
            pixels.transparent
        ));
    }
    if pixels.several > 0 {
        lines.push(format!(
            "{} of {all} {}: the first is taken",
            pixels.several,
            verb(
                pixels.several,
                "is an animation or has several pages",
                "are animations or have several pages"
            )
        ));
    }
    if pixels.turned > 0 {
        let done = match (pipeline, decoding.upright) {
            (None, _) => {
                "training turns them upright, unless a recipe or --exif stored says otherwise"
            }
            (_, true) => {
                "they are turned upright, here and in prediction; --exif stored takes them as they are"
            }
            (_, false) => {
                "they are taken as they are stored; --exif upright turns them, here and in prediction"
            }
        };
        lines.push(format!(
            "{} of {all} {} an EXIF turn: {done}",
            pixels.turned,
            verb(pixels.turned, "carries", "carry")
        ));
    }
    let size = pipeline.and_then(Pipeline::output_size);
    // A few are in every collection; who asks for a rectangle knows their shape.
    if let Some(kept) = pixels.median_kept
        && pixels.elongated * 10 >= all
        && size.is_none_or(|size| size.width == size.height)
    {
        let done = match pipeline.map(Pipeline::fit) {
            None if kept < ENOUGH_KEPT => "training pads all pictures, so that nothing is cut off; --fit crop cuts their ends off, and \
                                           --image-size 320x160 is a shape of your own"
                .to_owned(),
            None => "training cuts their ends off, for most pictures keep enough; --fit pad and --fit squash keep all of \
                     them, and --image-size 320x160 is a shape of your own"
                .to_owned(),
            Some(None | Some(Fit::Crop)) => {
                "--fit pad or --fit squash keeps all of them, if their ends matter".to_owned()
            }
            Some(Some(fit)) => format!("all of each is seen ({})", fit.name()),
        };
        lines.push(format!(
            "{} of {all} {} holds less than two thirds of {} ({:.0} % of the median picture): {done}",
            pixels.elongated,
            verb(
                pixels.elongated,
                "is so wide or tall that the square in its middle",
                "are so wide or tall that the square in their middle"
            ),
            verb(pixels.elongated, "it", "them"),
            100.0 * kept,
        ));
    }
    lines
}

/// A class that seems to be of pictures that belong to none.
pub(in crate::cli) fn no_class_line(names: &[String]) -> Option<String> {
    const NAMES: [&str; 8] = [
        "unknown",
        "unknowns",
        "other",
        "others",
        "none",
        "no class",
        "none of these",
        "none of the above",
    ];
    let is_one = |name: &&String| {
        let words = name.to_lowercase().replace(['_', '-'], " ");
        NAMES.contains(&words.trim())
    };
    let name = names.iter().find(is_one)?;
    Some(format!(
        "`{name}` is a class like any other. If its pictures are of no class, they may lie elsewhere: `shike eval --unknown \
         DIR` tells how many of them a model without this class takes for one, and `shike predict --unknown` names such pictures"
    ))
}

/// What a split of these images should keep together beside what it does by `rules`, and how.
pub(in crate::cli) fn group_lines(
    found: &Inspection,
    data: &Dataset,
    rules: &[GroupBy],
) -> Vec<String> {
    let all = data.len();
    let mut lines = Vec::new();
    // What is wrong with a rule, the split tells.
    let groups = Groups::new(data, found, rules).unwrap_or_default();
    let bursts = groups.parted(&found.bursts(data));
    // A few are in every collection.
    if bursts * 20 >= all && bursts > 1 && !rules.iter().any(|by| matches!(by, GroupBy::Time(_))) {
        lines.push(format!(
            "{bursts} of {all} were taken within 30 seconds of another one in their folder: a split keeps such \
             bursts in one part with --group-by time:30"
        ));
    }
    let near = found.near_duplicates.iter().flat_map(|near| &near.groups);
    let near = near.map(|group| group.images.iter().map(|image| image.index).collect());
    let near = groups.parted(&near.collect::<Vec<_>>());
    if near > 0 {
        lines.push(format!(
            "{near} of {all} {} like another one without being equal: a split keeps them in one part with \
             --group-by near-duplicates",
            verb(near, "looks", "look"),
        ));
    }
    let below = (0..all).filter_map(|i| {
        let mut parts = data.relative_path(i)?.splitn(3, '/');
        let (class, folder) = (parts.next()?, parts.next()?);
        parts.next().map(|_| (class, folder))
    });
    let folders = below.collect::<BTreeSet<_>>().len();
    // A list may have any folders, and a rule knows better.
    if folders > data.num_classes() && rules.is_empty() {
        lines.push(format!(
            "they lie in {folders} folders below others: if each is a patient, a place or a sequence, a split \
             keeps it in one part with --group-by path:2"
        ));
    }
    lines
}

/// A line for many-, medium- and few-shot classes each.
fn groups(tail: &Tail, args: &InspectArgs) -> String {
    let mut text = String::new();
    let (many, few) = (args.many_above, args.few_below);
    for (name, line, size) in [
        ("many", format!("more than {many}"), tail.groups.many),
        ("medium", format!("{few} to {many}"), tail.groups.medium),
        ("few", format!("fewer than {few}"), tail.groups.few),
    ] {
        let (classes, images) = (classes(size.classes), images(size.images));
        let _ = writeln!(text, "  {name:6} ({line})  {classes}, {images}");
    }
    text
}

fn findings(found: &Inspection, show: usize) -> String {
    let mut text = String::new();
    let mut list = |title: String, lines: Vec<String>| {
        let _ = writeln!(text, "\n{title}");
        for line in lines.iter().take(show) {
            let _ = writeln!(text, "  {}", plot::clean(line));
        }
        if lines.len() > show {
            let _ = writeln!(text, "  … and {} more (--show, --json)", lines.len() - show);
        }
    };
    let name = |label: &u32| {
        let class = found.classes.get(*label as usize);
        class.map_or_else(|| label.to_string(), |class| class.name.clone())
    };
    if !found.empty_classes.is_empty() {
        let n = found.empty_classes.len();
        let names = found.empty_classes.iter().map(name).collect();
        list(format!("classes without a training image: {n}"), names);
    }
    if !found.unreadable.is_empty() {
        let lines = found.unreadable.iter();
        let lines = lines
            .map(|bad| format!("{}: {}", bad.image.file, bad.reason))
            .collect();
        list(
            format!("files that cannot be read: {}", found.unreadable.len()),
            lines,
        );
    }
    let equal = (&found.duplicates, "equal", "are in", " = ");
    let near = (
        &found.near_duplicates,
        "nearly equal",
        "look like one of",
        " ~ ",
    );
    for (duplicates, what, are, sign) in [equal, near] {
        let Some(duplicates) = duplicates else {
            continue;
        };
        for leak in &duplicates.leaks {
            let (from, to, n) = (leak.from, leak.to, leak.images);
            let too = if what == "equal" { " too" } else { "" };
            list(
                format!("images of {to} that {are} {from}{too}: {n}"),
                Vec::new(),
            );
        }
        type Kind = fn(&look::DuplicateGroup) -> bool;
        let kinds: [(&str, Kind); 3] = [
            ("in several parts", |g| g.across_subsets),
            ("under different labels", |g| g.across_classes),
            ("in one class and part", |g| {
                g.within_classes && !g.across_classes && !g.across_subsets
            }),
        ];
        for (place, kind) in kinds {
            let title = format!("groups of {what} images {place}");
            let groups = duplicates.groups.iter().filter(|group| kind(group));
            let lines: Vec<String> = groups
                .map(|group| {
                    let files: Vec<String> = group
                        .images
                        .iter()
                        .map(|image| match group.across_classes {
                            true => format!("{} ({})", image.file, name(&image.label)),
                            false => image.file.clone(),
                        })
                        .collect();
                    files.join(sign)
                })
                .collect();
            if !lines.is_empty() {
                list(format!("{title}: {}", lines.len()), lines);
            }
        }
    }
    for small in found.too_small.iter().filter(|small| small.classes > 0) {
        let lines = small
            .by_size
            .iter()
            .map(|of| {
                let n = classes(of.labels.len());
                match of.half_width {
                    Some(half) => format!(
                        "{n} with {}: an accuracy is known to ±{half:.0} points",
                        of.images
                    ),
                    None => format!("{n} with none: no accuracy"),
                }
            })
            .collect();
        let (n, part, line) = (small.classes, small.subset.name(), small.fewer_than);
        list(
            format!("classes with fewer than {line} {part} images, too small to measure: {n}"),
            lines,
        );
    }
    let looked = found.duplicates.is_some();
    if found.problems.is_empty() {
        let across = if looked {
            ", no image in two parts"
        } else {
            ""
        };
        let _ = writeln!(text, "\nno empty class, no unreadable file{across}");
    } else {
        text.push_str("\nproblems\n");
        for found in &found.problems {
            let _ = writeln!(text, "  {}", problem(found));
        }
    }
    if !looked {
        text.push_str("only headers were read: cut files and duplicates were not looked for\n");
    }
    text
}

/// The problem, and what to do about it.
fn problem(problem: &Problem) -> &'static str {
    match problem {
        Problem::EmptyClasses => {
            "classes without a training image: training leaves out the empty folders of training \
             classes, and refuses classes that only val or test have"
        }
        Problem::Unreadable => {
            "unreadable files: training stops at one, or replaces a few by others of their class \
             (--bad-images skip, its choice where no recipe is given); --split leaves them out"
        }
        Problem::DuplicatesAcrossSubsets => {
            "images in several parts: accuracy on them is too high; keep each in one part alone"
        }
    }
}

pub(super) fn describe_split(written: &Written<'_>, args: &InspectArgs) -> String {
    let mut text = format!("\n{}\n", written.out.display());
    for list in written.record.lists.values() {
        let _ = writeln!(text, "  {:9}  {}", list.file, images(list.images));
    }
    let training = |class: &SplitClass| class.images.get(&Part::Train).copied();
    let split = written.record.classes.iter();
    let counts: Vec<usize> = split.map(|class| training(class).unwrap_or(0)).collect();
    text.push_str("of the classes in the training list are\n");
    text += &groups(&Tail::new(&counts, args.thresholds()), args);
    text += &describe_taken(written.record, args.show);
    let left = &written.record.left_out;
    if !(left.images.is_empty() && left.classes.is_empty()) {
        let (images, classes) = (images(left.images.len()), classes(left.classes.len()));
        let _ = writeln!(
            text,
            "  left out: unreadable: {images}; without a readable image: {classes} (`shike inspect` names them)"
        );
    }
    let _ = writeln!(text, "\ntrain on it with\n  {}", written.command);
    text
}

/// Which classes and pictures a split took, and how well the parts came out where groups were kept together.
pub(in crate::cli) fn describe_taken(record: &SplitRecord, show: usize) -> String {
    let mut text = String::new();
    if let Some(sizes) = &record.sizes {
        let named = |classes: &[ClassSize]| {
            let shown = classes
                .iter()
                .map(|class| format!("{} ({})", class.name, class.images));
            some_names(&shown.collect::<Vec<_>>())
        };
        let small = match &record.config.min_images {
            Some(MinImages {
                merge: Some(name),
                images,
            }) => format!("merged into {name}, with fewer than {images} images"),
            min => format!(
                "left out, with fewer than {} images",
                min.as_ref().map_or(0, |min| min.images)
            ),
        };
        let most = record.config.max_images.unwrap_or(0);
        for (what, of) in [
            (small, &sizes.small),
            (format!("cut to {most} images"), &sizes.capped),
        ] {
            if !of.is_empty() {
                let _ = writeln!(text, "{what}: {}: {}", classes(of.len()), named(of));
            }
        }
        if sizes.images > 0 {
            let _ = writeln!(
                text,
                "in no list, by these bounds: {}",
                images(sizes.images)
            );
        }
    }
    text + &describe_groups(record, show)
}

/// How well the parts came out where groups were kept together, in lines.
fn describe_groups(record: &SplitRecord, show: usize) -> String {
    let Some(groups) = &record.groups else {
        return String::new();
    };
    let rules = record.config.group_by.iter();
    let rules: Vec<String> = rules.map(ToString::to_string).collect();
    let of = match rules.is_empty() {
        // Those that came with the list.
        true => "the list".to_owned(),
        false => rules.join(" and "),
    };
    let mut text = format!(
        "groups of {of}: {} of two and more images ({}, at most {} each), {} of them with several classes\n",
        groups.groups,
        images(groups.images),
        groups.largest,
        groups.across_classes,
    );
    for (rule, silent) in rules
        .iter()
        .zip(&groups.silent)
        .filter(|(_, silent)| **silent > 0)
    {
        let _ = writeln!(text, "  {rule} says nothing of {}", images(*silent));
    }
    if record.classes.iter().all(|class| class.wanted.is_none()) {
        return text + "  none of them lies in two of the parts that are given\n";
    }
    let count = |of: &BTreeMap<Part, usize>, part| of.get(&part).copied().unwrap_or(0);
    let parts: Vec<Part> = record.lists.keys().copied().collect();
    let all = parts.iter().map(|&part| {
        let of_classes =
            |of: &dyn Fn(&SplitClass) -> usize| record.classes.iter().map(of).sum::<usize>();
        let wanted = of_classes(&|class| {
            class
                .wanted
                .as_ref()
                .map_or(0, |wanted| count(wanted, part))
        });
        let got = of_classes(&|class| count(&class.images, part));
        format!("{} {got} of {wanted} wanted", part.name())
    });
    let _ = writeln!(text, "  images: {}", all.collect::<Vec<_>>().join(", "));
    // By how much of its images a class is in the wrong part.
    let off = |class: &SplitClass| -> Option<f64> {
        let wanted = class.wanted.as_ref()?;
        let off = parts
            .iter()
            .map(|&part| count(wanted, part).abs_diff(count(&class.images, part)));
        let images: usize = class.images.values().sum();
        Some(off.sum::<usize>() as f64 / 2.0 / images as f64)
    };
    let mut classes: Vec<(f64, &SplitClass)> = record
        .classes
        .iter()
        .filter_map(|class| Some((off(class)?, class)))
        .collect();
    classes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mean = classes.iter().map(|(off, _)| off).sum::<f64>() / classes.len().max(1) as f64;
    let _ = writeln!(
        text,
        "  by class {:.1} % of the images are in another part than wanted (mean; without groups 0)",
        100.0 * mean
    );
    let worst = classes.iter().filter(|(off, _)| *off > 0.05);
    for (_, class) in worst.clone().take(show) {
        let parts = parts.iter().map(|&part| {
            let wanted = class
                .wanted
                .as_ref()
                .map_or(0, |wanted| count(wanted, part));
            format!("{} {} of {wanted}", part.name(), count(&class.images, part))
        });
        let _ = writeln!(
            text,
            "    {}: {}",
            plot::clean(&class.name),
            parts.collect::<Vec<_>>().join(", ")
        );
    }
    if let more @ 1.. = worst.count().saturating_sub(show) {
        let _ = writeln!(text, "    … and {more} more (split.json)");
    }
    text
}
