//! `triage.csv` and `triage_classes.csv`.

use std::path::Path;

use serde::{Serialize, Serializer};
use shike_data::write::{WriteError, atomic_write};

/// The columns of `triage.csv`: the fields of a [`Row`](super::Row).
pub(super) const ROW: &str = "path,class,shot,rank,part,reason,suggested,label_probability,suggested_probability,twin,\
                              twin_class";

/// The columns of `triage_classes.csv`: the fields of a [`ClassRow`](super::ClassRow).
pub(super) const CLASS_ROW: &str = "class,shot,training_images,images,judged,doubted,twins,unreadable,\
                                    label_probability,nearest_frequent,nearest_probability,taken_for_it";

/// Writes rows below a head, which a table without rows has, too.
pub(super) fn write_csv(
    path: &Path,
    head: &str,
    rows: &[impl Serialize],
) -> Result<(), WriteError> {
    atomic_write(path, |writer| {
        let mut csv = csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(writer);
        csv.write_record(head.split(','))?;
        for row in rows {
            csv.serialize(row)?;
        }
        csv.flush()
    })
}

/// A probability with four digits.
pub(super) fn short<P: Copy + Into<f64>, S: Serializer>(
    value: &Option<P>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let short = value.map(|value| (value.into() * 1e4).round() / 1e4);
    short.serialize(serializer)
}
