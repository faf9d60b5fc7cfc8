//! Lists as JSON: `{"annotations": [{"fpath", "category_id"}], "num_classes"}`, the form of
//! BagofTricks-LT, NCL and others.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::rows::{Rows, Wrong};

const SHAPE: &str =
    r#"wanted {"annotations": [{"fpath": "a/b.jpg", "category_id": 0}], "num_classes": 1}"#;

/// Further fields, such as `image_id` and the sizes of images, are ignored.
#[derive(Deserialize)]
struct Annotation {
    fpath: String,
    category_id: i64,
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
pub(super) fn parse(bytes: &[u8]) -> Result<Rows, Wrong> {
    let mut rows = Rows::default();
    read(bytes, &mut rows, None)?;
    Ok(rows)
}

/// `problem` with the line that annotation `row` ends in.
pub(super) fn locate(bytes: &[u8], row: usize, problem: String) -> Wrong {
    // Only serde_json knows its line, and tells it with an error.
    let again = read(bytes, &mut Rows::default(), Some((row, &problem)));
    again.err().unwrap_or(Wrong::file(problem))
}

fn read(bytes: &[u8], rows: &mut Rows, stop: Option<(usize, &str)>) -> Result<(), Wrong> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let read = File { rows, stop }.deserialize(&mut parser);
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
                    let (rows, stop) = (&mut *self.rows, self.stop);
                    map.next_value_seed(Annotations(File { rows, stop }))?;
                }
                "num_classes" => self.rows.num_classes = map.next_value()?,
                "categories" => {
                    let categories: Option<Vec<Category>> = map.next_value()?;
                    let names = categories.map(names).transpose();
                    self.rows.names = names.map_err(A::Error::custom)?;
                }
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
        let File { rows, stop } = self.0;
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
            rows.paths.push(annotation.fpath);
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
