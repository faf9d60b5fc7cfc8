//! A recipe as it was written: values with the place of each.

use figment::error::{Actual, Kind};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::error::{Place, RecipeError};
use crate::config::Stage2;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In the order of the file, but the key that chooses a kind first.
    Table(Vec<(String, Node)>),
    Array(Vec<Node>),
    Scalar(Value),
}

/// Keys whose value says which other keys a table has.
pub(super) fn is_tag(key: &str) -> bool {
    matches!(key, "kind" | "method" | "arch")
}

/// The field that makes a network plain.
const PLAIN: [&str; 2] = ["model", "plain"];

/// A name without quotes on the command line; what begins otherwise is TOML.
fn is_bare(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_alphabetic() || "_./~".contains(c))
        && !text.contains(['"', '\'', '\n'])
}

impl Node {
    /// Reads a document; `file` is for errors.
    pub fn parse(file: &std::path::Path, text: &str) -> Result<Self, RecipeError> {
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line = |at: usize| 1 + ends.partition_point(|end| *end < at);
        let place = |at: usize| Place::line(file, line(at));
        let table = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
            place: place(error.span().map_or(0, |span| span.start.min(text.len()))),
            problem: error.message().to_owned(),
        })?;
        let start = place(table.span().start);
        let read = Read { place: &place };
        read.table(table.get_ref(), start)
    }

    /// Reads the value of an assignment on the command line.
    fn value(place: &Place, text: &str) -> Result<Self, RecipeError> {
        let here = |_| place.clone();
        match DeValue::parse(text) {
            Ok(value) => Read { place: &here }.value(value.get_ref(), place.clone()),
            Err(_) if is_bare(text) => Ok(Self {
                place: place.clone(),
                content: Content::Scalar(text.into()),
            }),
            Err(error) => Err(RecipeError::Syntax {
                place: place.clone(),
                problem: format!("the value {text:?} is no TOML: {}", error.message()),
            }),
        }
    }

    /// Makes `PATH=VALUE` true. A value that chooses another kind empties its table first: the
    /// parameters of one loss are not those of another. So does a network that becomes plain.
    pub fn assign(&mut self, assignment: &str) -> Result<(), RecipeError> {
        let place = Place::Option(assignment.to_owned());
        let wrong = |problem: String| RecipeError::Syntax {
            place: place.clone(),
            problem,
        };
        let (path, value) = assignment
            .split_once('=')
            .ok_or_else(|| wrong("it must be PATH=VALUE, such as stage1.epochs=90".into()))?;
        let path = path.trim().replace('[', ".").replace(']', "");
        let keys: Vec<&str> = path.split('.').collect();
        if keys.iter().any(|key| key.is_empty()) {
            return Err(wrong(format!("`{path}` is no path such as stage1.epochs")));
        }
        let value = Self::value(&place, value.trim())?;
        let is_true = |node: &Self| matches!(node.content, Content::Scalar(Value::Bool(true)));
        if keys == PLAIN && is_true(&value) && !self.at(&keys).is_some_and(is_true) {
            self.clear_for_plain();
        }
        let mut node = self;
        for (depth, key) in keys.iter().enumerate() {
            if !matches!(node.content, Content::Array(_)) {
                node = node.child(key, &value, &place);
                continue;
            }
            let Content::Array(items) = &mut node.content else {
                unreachable!("that was just asked")
            };
            let count = items.len();
            let item = key.parse().ok().and_then(|i: usize| items.get_mut(i));
            node = item.ok_or_else(|| {
                let list = keys[..depth].join(".");
                wrong(format!(
                    "`{list}` is a list of {count}: its entries are 0, 1, …"
                ))
            })?;
        }
        *node = value;
        Ok(())
    }

    /// Takes away what a plain network does not have, or has otherwise: what is above experts, and a loss
    /// that is not cross-entropy.
    pub fn clear_for_plain(&mut self) {
        let Content::Table(entries) = &mut self.content else {
            return;
        };
        for (table, node) in entries {
            let Content::Table(fields) = &mut node.content else {
                continue;
            };
            match table.as_str() {
                "model" => fields
                    .retain(|(key, _)| ["arch", "backbone", "num_classes"].contains(&key.as_str())),
                "stage1" => fields.retain(|(key, loss)| {
                    let kind = loss.at(&["kind"]).map(|kind| &kind.content);
                    let is = |kind: &Content| matches!(kind, Content::Scalar(kind) if kind == "cross_entropy");
                    key != "loss" || kind.is_some_and(is)
                }),
                _ => {}
            }
        }
    }

    /// The entry `key`, which is made if need be; what is no table becomes one.
    fn child(&mut self, key: &str, value: &Self, place: &Place) -> &mut Self {
        if !matches!(self.content, Content::Table(_)) {
            self.content = Content::Table(vec![]);
        }
        let Content::Table(entries) = &mut self.content else {
            unreachable!("it was just made a table")
        };
        let found = entries.iter().position(|(name, _)| name == key);
        if is_tag(key) {
            let same = found.is_some_and(|at| match (&entries[at].1.content, &value.content) {
                (Content::Scalar(old), Content::Scalar(new)) => old == new,
                _ => false,
            });
            if !same {
                let method = match &value.content {
                    Content::Scalar(new) => new.as_str().and_then(Stage2::method),
                    _ => None,
                };
                let trains = method.is_none_or(|method| method.trains.is_some());
                let kept = |name: &String| match key {
                    // Another network is as deep as it is; how many experts there are stays.
                    "arch" => !["backbone", "shared_layers", "fused_layers"].contains(&&**name),
                    "method" => trains && ["epochs", "lr", "schedule"].contains(&&**name),
                    _ => false,
                };
                entries.retain(|(name, _)| kept(name) || name == key);
            }
        }
        let found = entries.iter().position(|(name, _)| name == key);
        let at = found.unwrap_or_else(|| {
            let empty = Self {
                place: place.clone(),
                content: Content::Table(vec![]),
            };
            let at = if is_tag(key) { 0 } else { entries.len() };
            entries.insert(at, (key.to_owned(), empty));
            at
        });
        &mut entries[at].1
    }

    /// As JSON, of which serde reads.
    pub fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Table(entries) => {
                let entry = |(key, node): &(String, Self)| (key.clone(), node.json());
                Value::Object(entries.iter().map(entry).collect())
            }
            Content::Array(items) => items.iter().map(Self::json).collect(),
        }
    }

    /// Calls `see` with every path and node, parents first.
    pub fn visit(&self, path: &mut Vec<String>, see: &mut impl FnMut(&[String], &Self)) {
        see(path, self);
        let children: Vec<(String, &Self)> = match &self.content {
            Content::Table(entries) => entries.iter().map(|(k, n)| (k.clone(), n)).collect(),
            Content::Array(items) => {
                let items = items.iter().enumerate();
                items.map(|(i, n)| (i.to_string(), n)).collect()
            }
            Content::Scalar(_) => vec![],
        };
        for (key, node) in children {
            path.push(key);
            node.visit(path, see);
            path.pop();
        }
    }

    /// The entry of a table or a list.
    fn entry(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Table(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            Content::Array(items) => key.parse().ok().and_then(|i: usize| items.get(i)),
            Content::Scalar(_) => None,
        }
    }

    /// The node at `path`, if it is there.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.entry(key))
    }

    /// The node at `path`, or the nearest one above that is there.
    pub fn nearest(&self, path: &[String]) -> &Self {
        let mut node = self;
        for key in path {
            match node.entry(key) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// The path of what is wrong at `path` or below: serde forgets where it was inside tables that have a
    /// `kind`. Of several values that it may be, it is the one without which `read` finds something else.
    pub fn locate(
        &self,
        path: Vec<String>,
        wrong: &Kind,
        read: impl Fn(&Value) -> Option<Kind>,
    ) -> Vec<String> {
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        let Some(table) = self.at(&keys) else {
            return path;
        };
        let is_tagged = |node: &Self| match &node.content {
            Content::Table(entries) => entries.first().is_some_and(|(key, _)| is_tag(key)),
            _ => false,
        };
        let is = |node: &Self, found: &Actual| {
            let value = figment::value::Value::serialize(node.json());
            value.is_ok_and(|value| value.to_actual() == *found)
        };
        let mut places = vec![];
        table.visit(&mut path.clone(), &mut |path, node| {
            let fits = match wrong {
                Kind::UnknownField(field, _) => path.last() == Some(field),
                Kind::UnknownVariant(name, _) => node.json() == *name,
                Kind::MissingField(_) => is_tagged(node),
                Kind::InvalidType(found, _) | Kind::InvalidValue(found, _) => is(node, found),
                _ => false,
            };
            if fits {
                places.push(path.to_vec());
            }
        });
        let is_culprit = |path: &Vec<String>| {
            let mut tree = self.json();
            let Some((key, above)) = path.split_last() else {
                return false;
            };
            let pointer: String = above.iter().map(|key| format!("/{key}")).collect();
            let table = tree.pointer_mut(&pointer).and_then(Value::as_object_mut);
            let removed = table.and_then(|table| table.remove(key));
            removed.is_some() && read(&tree).as_ref() != Some(wrong)
        };
        let found = match places.len() {
            0 | 1 => 0,
            // What is inside a table is looked at before the table.
            _ => places.iter().rposition(is_culprit).unwrap_or(0),
        };
        places.into_iter().nth(found).unwrap_or(path)
    }
}

/// Reads TOML; `place` gives the place of a byte.
struct Read<'a> {
    place: &'a dyn Fn(usize) -> Place,
}

impl Read<'_> {
    fn table(&self, table: &DeTable<'_>, place: Place) -> Result<Node, RecipeError> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| (!is_tag(key.get_ref()), key.span().start));
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            let node = self.value(value.get_ref(), (self.place)(key.span().start))?;
            Ok((name.to_string(), node))
        };
        let entries: Result<_, _> = entries.into_iter().map(entry).collect();
        Ok(Node {
            place,
            content: Content::Table(entries?),
        })
    }

    fn value(&self, value: &DeValue<'_>, place: Place) -> Result<Node, RecipeError> {
        let number = |found: &str, number: Option<serde_json::Number>| {
            let number = number.ok_or_else(|| RecipeError::Syntax {
                place: place.clone(),
                problem: format!("{found} is no number that a setting can have"),
            });
            Ok(Content::Scalar(Value::Number(number?)))
        };
        let content = match value {
            DeValue::String(text) => Content::Scalar(Value::String(text.to_string())),
            DeValue::Integer(digits) => {
                let parsed = i64::from_str_radix(digits.as_str(), digits.radix()).ok();
                let large = || u64::from_str_radix(digits.as_str(), digits.radix()).ok();
                let value = parsed.map(Into::into).or_else(|| large().map(Into::into));
                number(digits.as_str(), value)?
            }
            DeValue::Float(digits) => {
                let value = digits.as_str().parse().ok();
                number(
                    digits.as_str(),
                    value.and_then(serde_json::Number::from_f64),
                )?
            }
            DeValue::Boolean(value) => Content::Scalar(Value::Bool(*value)),
            DeValue::Datetime(value) => Content::Scalar(Value::String(value.to_string())),
            DeValue::Table(table) => return self.table(table, place),
            DeValue::Array(items) => {
                let item = |item: &toml::Spanned<DeValue<'_>>| {
                    self.value(item.get_ref(), (self.place)(item.span().start))
                };
                Content::Array(items.iter().map(item).collect::<Result<_, _>>()?)
            }
        };
        Ok(Node { place, content })
    }
}
