//! Lists as CSV (RFC 4180): a header line, a column of paths, and one of labels or class names.

use std::collections::HashMap;

use csv::{ByteRecord, Error, ErrorKind, Position, ReaderBuilder};

use super::rows::{Rows, Wrong};

pub(super) const PATH: &[&str] = &["path", "image", "file"];
pub(super) const LABEL: &[&str] = &["label", "class"];

/// Reads the rows. Whether labels are numbers or names, the first row decides. Names are looked up
/// in `known` (those of the training set) where that is given, and else numbered in their order. A
/// number under `class` is a name where the training set has a class of that name: folders `1`, `2`
/// and `10` are not the classes 1, 2 and 10.
pub(super) fn parse(bytes: &[u8], known: Option<&[String]>) -> Result<Rows, Wrong> {
    // Cells are trimmed below: the reader's own way would copy each record.
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.clone();
    let path_at = column(&header, PATH)?;
    let label_at = column(&header, LABEL)?;
    let mut rows = Rows::default();
    let called_class = header[label_at].trim_ascii().eq_ignore_ascii_case(b"class");
    let mut by_name = false;
    let known_names = known.unwrap_or_default().iter().cloned();
    let mut numbers: HashMap<String, i64> = known_names.zip(0..).collect();
    let mut record = ByteRecord::new();
    let mut lines = Lines::new(bytes);
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| wrong(bytes, &e))?
    {
        let line = lines.of(record.position());
        let wrong = |problem: String| Wrong::line(line, problem);
        let text = |column: usize| {
            std::str::from_utf8(record[column].trim_ascii())
                .map_err(|_| wrong("is not UTF-8 text; save the list as UTF-8".into()))
        };
        let (path, label) = (text(path_at)?, text(label_at)?);
        let number = label.parse::<i64>();
        if rows.paths.is_empty() {
            by_name = number.is_err() || (called_class && numbers.contains_key(label));
        }
        let number = match (by_name, number) {
            (false, Ok(number)) => number,
            (false, Err(_)) => {
                return Err(wrong(format!(
                    "the label {label:?} is not a whole number, as the labels before are"
                )));
            }
            (true, number) if !label.is_empty() && (number.is_err() || called_class) => {
                match (numbers.get(label), known) {
                    (Some(&number), _) => number,
                    (None, Some(_)) => {
                        return Err(wrong(format!(
                            "the class {label:?} is none of the training set's"
                        )));
                    }
                    (None, None) => {
                        let next = numbers.len() as i64;
                        numbers.insert(label.to_owned(), next);
                        next
                    }
                }
            }
            (true, _) => {
                return Err(wrong(format!(
                    "the class {label:?} is no name, as the classes before are"
                )));
            }
        };
        rows.push(line, path.to_owned(), number);
    }
    if by_name && known.is_none() {
        one_label(&numbers, &rows)?;
        // They were numbered as they came.
        let mut names: Vec<(String, i64)> = numbers.into_iter().collect();
        names.sort_unstable();
        let mut places = vec![0; names.len()];
        for (place, (_, number)) in (0..).zip(&names) {
            places[*number as usize] = place;
        }
        for label in &mut rows.labels {
            *label = places[*label as usize];
        }
        rows.names = Some(names.into_iter().map(|(name, _)| name).collect());
    }
    Ok(rows)
}

/// Refuses a class such as `cat;dog` where `cat` or `dog` is a class, too.
fn one_label(numbers: &HashMap<String, i64>, rows: &Rows) -> Result<(), Wrong> {
    let mut names: Vec<(&String, &i64)> = numbers.iter().collect();
    names.sort_unstable_by_key(|(_, number)| **number);
    for (name, number) in names {
        let several = |by: &char| {
            let mut parts = name.split(*by).map(str::trim);
            name.contains(*by) && parts.any(|part| numbers.contains_key(part))
        };
        if let Some(by) = [';', '|', ','].iter().find(|by| several(by)) {
            let row = rows.labels.iter().position(|label| label == number);
            let line = row.map_or(1, |row| rows.lines[row]);
            let problem =
                format!("the class {name:?} is several, parted by `{by}`: an image has one");
            return Err(Wrong::line(line, problem));
        }
    }
    Ok(())
}

/// The column of paths alone.
pub(super) fn paths(bytes: &[u8]) -> Result<Vec<String>, Wrong> {
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.clone();
    let column = column(&header, PATH)?;
    let mut lines = Lines::new(bytes);
    let mut paths = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(|e| wrong(bytes, &e))?;
        let line = lines.of(record.position());
        let path = std::str::from_utf8(record[column].trim_ascii());
        let path = path
            .map_err(|_| Wrong::line(line, "is not UTF-8 text; save the list as UTF-8".into()))?;
        paths.push(path.to_owned());
    }
    Ok(paths)
}

/// The one column with one of these names, in any case.
fn column(header: &ByteRecord, names: &[&str]) -> Result<usize, Wrong> {
    let is_named = |cell: &[u8]| {
        names
            .iter()
            .any(|n| cell.trim_ascii().eq_ignore_ascii_case(n.as_bytes()))
    };
    let mut found = (0..header.len()).filter(|&i| is_named(&header[i]));
    let problem = match (found.next(), found.next()) {
        (Some(column), None) => return Ok(column),
        (None, _) => "has no",
        (Some(_), Some(_)) => "has more than one",
    };
    let given: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
    Err(Wrong::line(
        1,
        format!(
            "the header {problem} column called {} (it is {:?}); wanted a first line such as \
             `path,label`",
            names.join(" or "),
            given.join(",")
        ),
    ))
}

fn wrong(bytes: &[u8], error: &Error) -> Wrong {
    let line = Lines::new(bytes).of(error.position());
    let problem = match error.kind() {
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields, but the header has {expected_len}; quote a field with a comma"),
        _ => error.to_string(),
    };
    Wrong::line(line, problem)
}

/// Lines of the file. The reader's own count is one short behind a Windows line end, of which it has
/// consumed half when a record begins.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            line: 1,
        }
    }

    /// The line of a record; records come in order.
    fn of(&mut self, position: Option<&Position>) -> usize {
        let start = position
            .map_or(0, |p| p.byte() as usize)
            .min(self.bytes.len());
        let rest = &self.bytes[start..];
        let ends = rest
            .iter()
            .take_while(|b| matches!(b, b'\r' | b'\n'))
            .count();
        let to = start + ends;
        self.line += self.bytes[self.at.min(to)..to]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        self.at = to;
        self.line
    }
}
