//! `triage.html`: the pictures to look at, from the rarest class on.

use rayon::prelude::*;
use shike_data::Decoding;
use shike_infer::metrics::Table;

use super::{ClassRow, Reason, Row, Subject, Triage};
use crate::report::html;
use crate::report::view::{Block, Picture, View, picture, thumbnail};

/// Pictures of a class that are shown.
const OF_CLASS: usize = 24;

/// Pictures that are shown in all: each takes about 3 kB, and has to be decoded.
const IN_ALL: usize = 1000;

const INTRODUCTION: &str = "Classes stand from the rarest to the most frequent, each with the pictures to look at first. Each picture was judged \
                            by heads that have seen neither it nor what belongs to it. Probabilities are as if all classes were equally \
                            frequent. A doubt is no proof: hard pictures are doubted as well.";

impl Triage {
    /// The page. A picture that cannot be decoded any more is left out of its row.
    pub(super) fn page(&self, subject: &Subject, decoding: &Decoding) -> String {
        let mut blocks = vec![
            Block::Text(INTRODUCTION.into()),
            Block::Pre(self.to_string()),
        ];
        let (mut rest, mut at) = (IN_ALL, &*self.rows);
        for class in &self.classes {
            let of_class = at.iter().take_while(|row| row.class == class.class).count();
            let (rows, others) = at.split_at(of_class);
            at = others;
            let shown = &rows[..rows.len().min(OF_CLASS).min(rest)];
            rest -= shown.len();
            if rows.is_empty() {
                continue;
            }
            blocks.push(Block::Heading(class.title()));
            blocks.extend(class.nearest().map(Block::Text));
            if !shown.is_empty() {
                let pictures = shown
                    .par_iter()
                    .map(|row| row.thumbnails(subject, decoding));
                blocks.push(Block::Table(table(shown), pictures.collect()));
            }
            if shown.len() < rows.len() {
                let more = rows.len() - shown.len();
                blocks.push(Block::Note(format!("{more} more are in triage.csv")));
            }
        }
        blocks.push(Block::Heading("All classes".into()));
        blocks.push(Block::Table(classes(&self.classes), vec![]));
        html::page(&View {
            title: "Pictures to look at".into(),
            blocks,
        })
    }
}

impl ClassRow {
    fn title(&self) -> String {
        let Self {
            class,
            shot,
            training_images,
            ..
        } = self;
        format!("{class} ({shot}-shot, {training_images} for training)")
    }

    /// The frequent class that it is nearest to.
    fn nearest(&self) -> Option<String> {
        let (name, mean) = (self.nearest_frequent.as_ref()?, self.nearest_probability?);
        Some(format!(
            "nearest frequent class: {name}, with a probability of {:.0} % on average; {} of {} pictures are taken for it",
            100.0 * mean,
            self.taken_for_it.unwrap_or(0),
            self.judged
        ))
    }
}

impl Row {
    /// The picture and its twin.
    fn thumbnails(&self, subject: &Subject, decoding: &Decoding) -> Vec<Picture> {
        let (own, twin) = self.pictures;
        let titles = [Some(&self.class), self.twin_class.as_ref()];
        let pictures = [own, twin].into_iter().zip(titles);
        let drawn = pictures.filter_map(|(at, class)| {
            let at = at?;
            let jpeg = thumbnail(&picture(&subject.images, at, decoding)?)?;
            let title = format!("{}: {}", class?, subject.path(at));
            Some(Picture { title, jpeg })
        });
        drawn.collect()
    }

    fn why(&self) -> String {
        let percent =
            |p: Option<f32>| p.map_or_else(String::new, |p| format!("{:.0} %", 100.0 * p));
        let doubt = self.suggested.as_ref().map(|suggested| {
            let (own, other) = (self.label_probability, self.suggested_probability);
            format!("rather {suggested}: {} to {}", percent(other), percent(own))
        });
        let twin = self.twin.as_ref().zip(self.twin_class.as_ref());
        let twin =
            twin.map(|(path, class)| format!("looks like {path}, which is labelled {class}"));
        let unreadable = (self.reason == Reason::Unreadable).then(|| "cannot be read".into());
        let all: Vec<String> = [doubt, twin, unreadable].into_iter().flatten().collect();
        all.join("; ")
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::default();
    table.row("picture", ["why", "part"].map(String::from).into_iter());
    for row in rows {
        table.row(&row.path, [row.why(), row.part.to_string()].into_iter());
    }
    table
}

/// All classes, from the rarest on.
fn classes(rows: &[ClassRow]) -> Table {
    let mut table = Table::default();
    let head = "for training|pictures|judged|doubted|twins|unreadable|nearest frequent class|probability [%]|taken for it";
    table.row("class", head.split('|').map(String::from));
    for row in rows {
        let cells = [
            row.training_images.to_string(),
            row.images.to_string(),
            row.judged.to_string(),
            row.doubted.to_string(),
            row.twins.to_string(),
            row.unreadable.to_string(),
            row.nearest_frequent.clone().unwrap_or_default(),
            row.nearest_probability
                .map_or_else(String::new, |p| format!("{:.0}", 100.0 * p)),
            row.taken_for_it.map_or_else(String::new, |n| n.to_string()),
        ];
        table.row(&row.class, cells.into_iter());
    }
    table
}
