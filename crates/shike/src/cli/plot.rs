//! Class sizes as bars in a terminal.

use shike_train::text;

/// Sizes that differ by more than this are shown on a logarithmic scale.
const LOG_ABOVE: f64 = 20.0;

/// Rows of a plot; more classes share rows.
const ROWS: usize = 24;

/// Room for class names behind the bars.
const NAMES: usize = 24;

/// One class of a plot.
pub(super) struct Bar<'a> {
    pub name: &'a str,
    pub size: usize,
    /// Its group.
    pub shot: &'a str,
}

/// A title and a row a class, largest first, in `width` columns. `plain` keeps bars to ASCII.
pub(super) fn bars(mut classes: Vec<Bar<'_>>, width: usize, plain: bool) -> String {
    classes.sort_by_key(|class| std::cmp::Reverse(class.size));
    let largest = classes.first().map_or(0, |class| class.size) as f64;
    let smallest = classes.iter().rev().find(|class| class.size > 0);
    let smallest = smallest.map_or(1, |class| class.size) as f64;
    let log = largest > LOG_ABOVE * smallest;
    let scale = |size: f64| match log {
        _ if size <= 0.0 => 0.0,
        // The smallest class gets a bar too.
        true => (1.0 + (size / smallest).max(1.0).ln()) / (1.0 + (largest / smallest).ln()),
        false => size / largest,
    };
    let rows = classes.len().min(ROWS);
    let rows: Vec<(String, f64, &str, String)> = (0..rows)
        .map(|row| {
            let first = row * classes.len() / rows;
            let of_row = &classes[first..(row + 1) * classes.len() / rows];
            let middle = &of_row[of_row.len() / 2];
            let mean = of_row.iter().map(|class| class.size as f64).sum::<f64>();
            let mean = mean / of_row.len() as f64;
            match of_row {
                [one] => (one.size.to_string(), mean, one.shot, clean(one.name)),
                [a, .., b] => {
                    let sizes = if a.size == b.size {
                        a.size.to_string()
                    } else {
                        format!("{}-{}", a.size, b.size)
                    };
                    let ranks = format!("classes {} to {}", first + 1, first + of_row.len());
                    (sizes, mean, middle.shot, ranks)
                }
                [] => Default::default(),
            }
        })
        .collect();
    let sizes = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let bar_width = width.saturating_sub(sizes + NAMES + 13).max(8);
    let mut text = format!(
        "training images per class, largest first{}\n",
        if log { " (log scale)" } else { "" }
    );
    for (size, mean, shot, name) in rows {
        let bar = bar(scale(mean), bar_width, plain);
        let room = width.saturating_sub(sizes + bar_width + 13).max(8);
        let name: String = name.chars().take(room).collect();
        text += format!("  {size:>sizes$} {bar:bar_width$}  {shot:6}  {name}").trim_end();
        text.push('\n');
    }
    text
}

/// A bar of `share` of `width` columns.
fn bar(share: f64, width: usize, plain: bool) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * 8.0 * width as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    match plain {
        true => "#".repeat(eighths.div_ceil(8).min(width)),
        false => "█".repeat(eighths / 8) + EIGHTHS[eighths % 8],
    }
}

/// A name in a line, that cannot move the cursor.
pub(super) fn clean(name: &str) -> String {
    text::clean(name).replace('\n', "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(sizes: &[usize], width: usize, plain: bool) -> Vec<String> {
        let classes = sizes.iter().map(|&size| Bar {
            name: "a\tclass",
            size,
            shot: "medium",
        });
        let text = bars(classes.collect(), width, plain);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn few_classes_have_a_row_each() {
        let rows = plot(&[10, 40, 0, 20], 80, false);
        assert_eq!(rows[0], "training images per class, largest first");
        assert_eq!(rows.len(), 5);
        let filled = |row: &str| row.chars().filter(|&c| c == '█').count();
        // 80 columns less two for the sizes, 24 for names, 13 between them.
        assert_eq!(filled(&rows[1]), 41);
        assert_eq!((filled(&rows[2]), rows[2].contains('▌')), (20, true));
        assert_eq!((filled(&rows[3]), rows[3].contains('▎')), (10, true));
        assert!(
            rows[4].starts_with("   0 ") && filled(&rows[4]) == 0,
            "{}",
            rows[4]
        );
        assert!(rows[1].ends_with("medium  a?class"), "{}", rows[1]);
    }

    #[test]
    fn many_classes_share_rows_and_no_row_is_too_wide() {
        let sizes: Vec<usize> = (1..=1000).collect();
        for (width, plain) in [(80, true), (60, false), (200, false)] {
            let rows = plot(&sizes, width, plain);
            assert_eq!(rows.len(), 25);
            assert!(rows[0].contains("log scale"));
            assert!(rows[1].contains("1000-960") && rows[1].ends_with("classes 1 to 41"));
            assert!(rows[24].ends_with("classes 959 to 1000"), "{}", rows[24]);
            assert!(
                rows.iter().all(|row| row.chars().count() <= width),
                "{rows:#?}"
            );
            assert!(!plain || rows.iter().all(|row| row.is_ascii()));
        }
    }

    #[test]
    fn nothing_to_plot() {
        assert_eq!(plot(&[], 80, true).len(), 1);
        assert_eq!(plot(&[0, 0], 10, false).len(), 3);
    }
}
