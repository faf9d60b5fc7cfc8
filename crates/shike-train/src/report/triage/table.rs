//! `triage.csv` and `triage_classes.csv`.

use std::path::Path;

use shike_data::write::{WriteError, atomic_write};

use super::{ClassRow, Reason, Row};

/// The name of a column, and what stands there.
type Column<T> = (&'static str, fn(&T) -> String);

pub(super) fn write_csv<T>(
    path: &Path,
    columns: &[Column<T>],
    rows: &[T],
) -> Result<(), WriteError> {
    atomic_write(path, |writer| {
        let mut csv = csv::Writer::from_writer(writer);
        csv.write_record(columns.iter().map(|(name, _)| name))?;
        for row in rows {
            csv.write_record(columns.iter().map(|(_, value)| value(row)))?;
        }
        csv.flush()
    })
}

/// Nothing where there is none.
fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn probability(value: Option<impl Into<f64>>) -> String {
    value.map_or_else(String::new, |value| format!("{:.4}", value.into()))
}

impl Reason {
    /// Its name in a file.
    fn name(self) -> &'static str {
        match self {
            Self::LabelAndTwin => "label+twin",
            Self::Label => "label",
            Self::Twin => "twin",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Row {
    pub(super) const COLUMNS: &[Column<Self>] = &[
        ("path", |row| row.path.clone()),
        ("class", |row| row.class.clone()),
        ("shot", |row| row.shot.to_string()),
        ("rank", |row| row.rank.to_string()),
        ("part", |row| row.part.name().to_owned()),
        ("reason", |row| row.reason.name().to_owned()),
        ("suggested", |row| or_empty(row.suggested.as_ref())),
        ("label_probability", |row| {
            probability(row.label_probability)
        }),
        ("suggested_probability", |row| {
            probability(row.suggested_probability)
        }),
        ("twin", |row| or_empty(row.twin.as_ref())),
        ("twin_class", |row| or_empty(row.twin_class.as_ref())),
    ];
}

impl ClassRow {
    pub(super) const COLUMNS: &[Column<Self>] = &[
        ("class", |row| row.class.clone()),
        ("shot", |row| row.shot.to_string()),
        ("training_images", |row| row.training_images.to_string()),
        ("images", |row| row.images.to_string()),
        ("judged", |row| row.judged.to_string()),
        ("doubted", |row| row.doubted.to_string()),
        ("twins", |row| row.twins.to_string()),
        ("unreadable", |row| row.unreadable.to_string()),
        ("label_probability", |row| {
            probability(row.label_probability)
        }),
        ("nearest_frequent", |row| {
            or_empty(row.nearest_frequent.as_ref())
        }),
        ("nearest_probability", |row| {
            probability(row.nearest_probability)
        }),
        ("taken_for_it", |row| or_empty(row.taken_for_it)),
    ];
}
