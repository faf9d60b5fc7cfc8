//! Lists as CSV (RFC 4180): a header line, a column of paths, and one of labels or class names.

use std::collections::{BTreeSet, HashMap};

use csv::{ByteRecord, Error, ErrorKind, Position, Reader, ReaderBuilder, Trim};

use super::rows::{Rows, Wrong};

const PATH: &[&str] = &["path", "image", "file"];
const LABEL: &[&str] = &["label", "class"];

/// Reads the rows. Whether labels are numbers or names, the first row decides. Names are looked up
/// in `known` (those of the training set) where that is given, and else numbered in their order.
pub(super) fn parse(bytes: &[u8], known: Option<&[String]>) -> Result<Rows, Wrong> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(bytes);
    let header = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.clone();
    let path = column(&header, PATH)?;
    let label = column(&header, LABEL)?;
    let cells = cells(bytes, &mut reader, path, label)?;
    let by_name = cells
        .first()
        .is_some_and(|(_, _, label)| label.parse::<i64>().is_err());
    let mut rows = Rows::default();
    if !by_name {
        for (line, path, label) in cells {
            let number = label.parse().map_err(|_| {
                let problem =
                    format!("the label {label:?} is not a whole number, as the labels before are");
                Wrong::line(line, problem)
            })?;
            rows.push(line, path, number);
        }
        return Ok(rows);
    }
    let own: Vec<String>;
    let names = match known {
        Some(known) => known,
        None => {
            let unique: BTreeSet<&str> = cells.iter().map(|(_, _, name)| name.as_str()).collect();
            own = unique.into_iter().map(str::to_owned).collect();
            rows.names = Some(own.clone());
            &own
        }
    };
    let numbers: HashMap<&str, i64> = names.iter().map(String::as_str).zip(0..).collect();
    for (line, path, name) in cells {
        if name.is_empty() || name.parse::<i64>().is_ok() {
            let problem = format!("the class {name:?} is no name, as the classes before are");
            return Err(Wrong::line(line, problem));
        }
        let Some(&number) = numbers.get(name.as_str()) else {
            let problem = format!("the class {name:?} is none of the training set's");
            return Err(Wrong::line(line, problem));
        };
        rows.push(line, path, number);
    }
    Ok(rows)
}

/// Line, path and label of each row.
fn cells(
    bytes: &[u8],
    reader: &mut Reader<&[u8]>,
    path: usize,
    label: usize,
) -> Result<Vec<(usize, String, String)>, Wrong> {
    let mut cells = Vec::new();
    let mut record = ByteRecord::new();
    let mut lines = Lines::new(bytes);
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| wrong(bytes, &e))?
    {
        let line = lines.of(record.position());
        let text = |column: usize| {
            std::str::from_utf8(&record[column])
                .map(str::to_owned)
                .map_err(|_| {
                    let problem = "is not UTF-8 text; save the list as UTF-8".into();
                    Wrong::line(line, problem)
                })
        };
        cells.push((line, text(path)?, text(label)?));
    }
    Ok(cells)
}

/// The one column with one of these names, in any case.
fn column(header: &ByteRecord, names: &[&str]) -> Result<usize, Wrong> {
    let is_named = |cell: &[u8]| {
        names
            .iter()
            .any(|n| cell.eq_ignore_ascii_case(n.as_bytes()))
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
