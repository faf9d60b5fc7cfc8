//! Lists as JSON: `{"annotations": [{"fpath", "category_id"}], "num_classes"}`, the form of
//! BagofTricks-LT, NCL and others; and `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
//! "category_id"}], "categories": [{"id", "name"}]}`, that of COCO, COCO Camera Traps and iNaturalist.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::rows::{Names, Rows, Wrong};

const SHAPE: &str =
    r#"wanted {"annotations": [{"fpath": "a/b.jpg", "category_id": 0}], "num_classes": 1}"#;

/// Further fields, such as `image_id` and the sizes of images, are ignored.
#[derive(Deserialize)]
struct Annotation {
    fpath: Option<String>,
    image_id: Option<Id>,
    category_id: i64,
}

/// Of an image: COCO has numbers, camera traps have texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(id) => id.fmt(f),
            Self::Text(id) => write!(f, "{id:?}"),
        }
    }
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
}

/// What the file holds beside rows.
#[derive(Default)]
struct Tables {
    images: Option<Vec<Image>>,
    categories: Option<Vec<Category>>,
    /// The images of annotations that have no path, by row.
    ids: Vec<Option<Id>>,
}

/// No annotation is one, so that reading it gives an error with its place.
#[derive(Deserialize)]
struct Never {
    #[serde(rename = "\0")]
    _never: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// The rows, which have no lines yet: most files are one single line, and only an error needs it.
pub(super) fn parse(bytes: &[u8], known: Option<&[String]>) -> Result<Rows, Wrong> {
    let mut rows = Rows::default();
    let mut tables = Tables::default();
    read(bytes, &mut rows, &mut tables, None)?;
    if tables.ids.iter().any(Option::is_some) {
        look_up(&mut rows, tables, known).map_err(|(row, problem)| match row {
            Some(row) => locate(bytes, row, problem),
            None => Wrong::file(problem),
        })?;
    } else if let Some(categories) = tables.categories {
        rows.names = Some(names(categories).map_err(Wrong::file)?);
    }
    Ok(rows)
}

/// Paths and labels of annotations that name images and categories by ids.
fn look_up(
    rows: &mut Rows,
    tables: Tables,
    known: Option<&[String]>,
) -> Result<(), (Option<usize>, String)> {
    let missing = |table: &str| {
        (
            None,
            format!("annotations have `image_id`, but there is no `{table}`"),
        )
    };
    let images = tables.images.ok_or_else(|| missing("images"))?;
    let categories = tables.categories.ok_or_else(|| missing("categories"))?;
    let categories: HashMap<i64, String> = categories.into_iter().map(|c| (c.id, c.name)).collect();
    let count = images.len();
    let images: HashMap<Id, String> = images
        .into_iter()
        .map(|image| (image.id, image.file_name))
        .collect();
    let mut names = Names::new(known);
    let mut annotated = HashSet::new();
    for (row, id) in tables.ids.iter().enumerate() {
        let wrong = |problem: String| (Some(row), problem);
        if let Some(id) = id {
            let file = images
                .get(id)
                .ok_or_else(|| wrong(format!("the image_id {id} is none of `images`")))?;
            rows.paths[row].clone_from(file);
            annotated.insert(id);
        }
        let category = rows.labels[row];
        let name = categories.get(&category).ok_or_else(|| {
            wrong(format!(
                "the category_id {category} is none of `categories`"
            ))
        })?;
        rows.labels[row] = names.number(name).map_err(wrong)?;
    }
    rows.repeats = true;
    if let without @ 1.. = count.saturating_sub(annotated.len()) {
        rows.notes.push(format!(
            "{without} of {count} images have no annotation and are left out"
        ));
    }
    names
        .finish(rows)
        .map_err(|wrong| (wrong.row, wrong.problem))
}

/// `problem` with the line that annotation `row` ends in.
pub(super) fn locate(bytes: &[u8], row: usize, problem: String) -> Wrong {
    // Only serde_json knows its line, and tells it with an error.
    let stop = Some((row, &*problem));
    let again = read(bytes, &mut Rows::default(), &mut Tables::default(), stop);
    again.err().unwrap_or(Wrong::file(problem))
}

fn read(
    bytes: &[u8],
    rows: &mut Rows,
    tables: &mut Tables,
    stop: Option<(usize, &str)>,
) -> Result<(), Wrong> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let file = File { rows, tables, stop };
    let read = file.deserialize(&mut parser);
    read.and_then(|()| parser.end()).map_err(|e| {
        let text = e.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |t| t.0);
        let problem = match (e.classify(), stop) {
            (_, Some(_)) => text.to_owned(),
            (serde_json::error::Category::Data, None) => format!("{text}; {SHAPE}"),
            _ => format!("is no JSON: {text}"),
        };
        Wrong::line(e.line().max(1), problem)
    })
}

/// The whole file. `stop` makes an error of that annotation.
struct File<'a> {
    rows: &'a mut Rows,
    tables: &'a mut Tables,
    stop: Option<(usize, &'a str)>,
}

impl<'de> DeserializeSeed<'de> for File<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for File<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "annotations" if found => return Err(A::Error::duplicate_field("annotations")),
                "annotations" => {
                    found = true;
                    let (rows, tables, stop) = (&mut *self.rows, &mut *self.tables, self.stop);
                    map.next_value_seed(Annotations(File { rows, tables, stop }))?;
                }
                "num_classes" => self.rows.num_classes = map.next_value()?,
                "categories" => self.tables.categories = map.next_value()?,
                "images" => self.tables.images = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match found {
            true => Ok(()),
            false => Err(A::Error::missing_field("annotations")),
        }
    }
}

struct Annotations<'a>(File<'a>);

impl<'de> DeserializeSeed<'de> for Annotations<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Annotations<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of annotations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let File { rows, tables, stop } = self.0;
        loop {
            let number = rows.paths.len();
            // serde_json takes its line back out of the text of an error that is wrapped.
            let wrap =
                |e: &dyn fmt::Display| A::Error::custom(format!("annotations[{number}]: {e}"));
            if let Some((row, problem)) = stop
                && row == number
                && let Err(e) = seq.next_element::<Never>()
            {
                let text = e.to_string();
                let place = text.rfind(" at line ").map_or("", |at| &text[at..]);
                return Err(wrap(&format!("{problem}{place}")));
            }
            let Some(annotation) = seq.next_element::<Annotation>().map_err(|e| wrap(&e))? else {
                return Ok(());
            };
            if annotation.fpath.is_none() && annotation.image_id.is_none() {
                return Err(wrap(&"missing field `fpath`"));
            }
            tables
                .ids
                .push(annotation.image_id.filter(|_| annotation.fpath.is_none()));
            rows.paths.push(annotation.fpath.unwrap_or_default());
            rows.labels.push(annotation.category_id);
        }
    }
}

/// Names by label. Ids run from 0 like labels, in any order.
fn names(mut categories: Vec<Category>) -> Result<Vec<String>, String> {
    categories.sort_by_key(|category| category.id);
    for (label, category) in categories.iter().enumerate() {
        if usize::try_from(category.id) != Ok(label) {
            return Err(format!(
                "`categories` has the id {} where {label} is due; ids run from 0 without gaps",
                category.id
            ));
        }
    }
    let names: Vec<String> = categories.into_iter().map(|c| c.name).collect();
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(format!("`categories` has the name {twice:?} twice")),
        None => Ok(names),
    }
}
