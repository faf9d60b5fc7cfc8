//! Lists as CSV (RFC 4180): a header line, a column of paths, and one of labels or class names.

use csv::{ByteRecord, Error, ErrorKind, Position, ReaderBuilder};

use super::list::ListColumns;
use super::rows::{Names, Rows, Wrong};

pub(super) const PATH: &[&str] = &["path", "image", "file"];
pub(super) const LABEL: &[&str] = &["label", "class"];

/// What others call them, where there is none of those.
const OTHER_PATHS: &[&str] = &[
    "file_name",
    "filename",
    "image_path",
    "filepath",
    "image_id",
    "img",
];
const OTHER_LABELS: &[&str] = &["dx", "category", "category_name", "species", "target"];

/// Where a row has its label.
enum Label {
    Column(usize),
    /// In one of these a 1, in the others 0: one column a class, as ISIC has it.
    OneHot(Vec<usize>),
}

/// Reads the rows. Whether labels are numbers or names, the first row decides. Names are looked up
/// in `known` (those of the training set) where that is given, and else numbered in their order. A
/// number under another word than `label` is a name where the training set has a class of that name: folders
/// `1`, `2` and `10` are not the classes 1, 2 and 10.
pub(super) fn parse(
    bytes: &[u8],
    columns: &ListColumns,
    known: Option<&[String]>,
) -> Result<Rows, Wrong> {
    // Cells are trimmed below: the reader's own way would copy each record.
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.clone();
    let path_at = chosen(&header, columns.image.as_deref(), PATH, OTHER_PATHS)?;
    let label_at = match chosen(&header, columns.label.as_deref(), LABEL, OTHER_LABELS) {
        Ok(column) => Label::Column(column),
        Err(problem) if columns.label.is_none() => {
            let marked = one_hot(bytes, path_at)?;
            match marked.len() {
                0 | 1 => return Err(problem),
                _ => Label::OneHot(marked),
            }
        }
        Err(problem) => return Err(problem),
    };
    let called_class = match label_at {
        Label::Column(at) => !header[at].trim_ascii().eq_ignore_ascii_case(b"label"),
        Label::OneHot(_) => true,
    };
    let mut rows = Rows::default();
    let mut by_name = false;
    let mut names = Names::new(known);
    let mut record = ByteRecord::new();
    let mut lines = Lines::new(bytes);
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| wrong(bytes, &e))?
    {
        let line = lines.of(record.position());
        let wrong = |problem: String| Wrong::line(line, problem);
        let text = |cell: &'_ [u8]| {
            std::str::from_utf8(cell.trim_ascii())
                .map(str::to_owned)
                .map_err(|_| wrong("is not UTF-8 text; save the list as UTF-8".into()))
        };
        let path = text(&record[path_at])?;
        let label = match &label_at {
            Label::Column(at) => text(&record[*at])?,
            Label::OneHot(columns) => {
                let is_marked = |&&at: &&usize| is_one(&record[at]);
                let marked = columns
                    .iter()
                    .filter(is_marked)
                    .map(|&at| text(&header[at]));
                let marked = marked.collect::<Result<Vec<_>, _>>()?;
                match &marked[..] {
                    [class] => class.clone(),
                    [] => return Err(wrong("no class has a 1: wanted one, in its column".into())),
                    several => {
                        return Err(wrong(format!(
                            "{} have a 1: this program gives an image one label",
                            several.join(" and ")
                        )));
                    }
                }
            }
        };
        let number = label.parse::<i64>();
        if rows.paths.is_empty() {
            by_name = number.is_err() || (called_class && names.has(&label));
        }
        let number = match (by_name, number) {
            (false, Ok(number)) => number,
            (false, Err(_)) => {
                return Err(wrong(format!(
                    "the label {label:?} is not a whole number, as the labels before are"
                )));
            }
            (true, number) if !label.is_empty() && (number.is_err() || called_class) => {
                names.number(&label).map_err(wrong)?
            }
            (true, _) => {
                return Err(wrong(format!(
                    "the class {label:?} is no name, as the classes before are"
                )));
            }
        };
        rows.push(line, path, number);
    }
    if by_name {
        names.finish(&mut rows)?;
    }
    Ok(rows)
}

/// Whether a list tells images and labels: its header has a column for each.
pub(super) fn is_list(bytes: &[u8]) -> bool {
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers();
    header.is_ok_and(|header| {
        chosen(header, None, PATH, OTHER_PATHS).is_ok()
            && chosen(header, None, LABEL, OTHER_LABELS).is_ok()
    })
}

fn is_one(cell: &[u8]) -> bool {
    matches!(cell.trim_ascii(), b"1" | b"1.0")
}

/// Columns that hold nothing but 0 and 1.
fn one_hot(bytes: &[u8], path_at: usize) -> Result<Vec<usize>, Wrong> {
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let width = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.len();
    let mut columns: Vec<usize> = (0..width).filter(|&at| at != path_at).collect();
    for record in reader.byte_records() {
        let record = record.map_err(|e| wrong(bytes, &e))?;
        columns
            .retain(|&at| is_one(&record[at]) || matches!(record[at].trim_ascii(), b"0" | b"0.0"));
    }
    Ok(columns)
}

/// The column that was named, or else one that is called as such columns are.
fn chosen(
    header: &ByteRecord,
    named: Option<&str>,
    usual: &[&str],
    others: &[&str],
) -> Result<usize, Wrong> {
    match named {
        Some(name) => column(header, &[name]),
        None => match (column(header, usual), column(header, others)) {
            (Err(problem), other) if !usual.iter().any(|name| is_called(header, name)) => {
                other.or(Err(problem))
            }
            (usual, _) => usual,
        },
    }
}

fn is_called(header: &ByteRecord, name: &str) -> bool {
    header
        .iter()
        .any(|cell| cell.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// The lines of rows, and in each the path, and the cell of another column where one is named.
pub(super) fn cells(
    bytes: &[u8],
    image: Option<&str>,
    other: Option<&str>,
) -> Result<Vec<(usize, Vec<String>)>, Wrong> {
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers().map_err(|e| wrong(bytes, &e))?.clone();
    let mut columns = vec![chosen(&header, image, PATH, OTHER_PATHS)?];
    columns.extend(other.map(|name| column(&header, &[name])).transpose()?);
    let mut lines = Lines::new(bytes);
    let mut rows = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(|e| wrong(bytes, &e))?;
        let line = lines.of(record.position());
        let cell = |&column: &usize| {
            let text = std::str::from_utf8(record[column].trim_ascii());
            text.map(str::to_owned)
                .map_err(|_| Wrong::line(line, "is not UTF-8 text; save the list as UTF-8".into()))
        };
        rows.push((line, columns.iter().map(cell).collect::<Result<_, _>>()?));
    }
    Ok(rows)
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
