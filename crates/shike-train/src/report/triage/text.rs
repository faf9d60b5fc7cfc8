//! What there is to look at, in a few lines.

use std::fmt;

use shike_data::Shot;
use shike_data::dataset::some_names;

use super::{ClassRow, Triage};

impl fmt::Display for Triage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&ClassRow) -> usize| self.classes.iter().map(of).sum::<usize>();
        let (images, judged) = (sum(|c| c.images), sum(|c| c.judged));
        writeln!(
            f,
            "{judged} of {images} pictures were judged, each by a head that had seen neither it nor what belongs to it"
        )?;
        let none = [
            (
                "of which none was, as all of their pictures belong together, or there is one",
                true,
            ),
            (
                "without a picture that can be read, which are left out",
                false,
            ),
        ];
        for (why, there) in none {
            let those = self
                .classes
                .iter()
                .filter(|c| c.judged == 0 && (c.images > 0) == there);
            let names: Vec<&str> = those.map(|c| c.class.as_str()).collect();
            if !names.is_empty() {
                writeln!(f, "classes {why}: {}", some_names(&names))?;
            }
        }
        let of_shot = |shot: Shot| {
            let those = self.classes.iter().filter(|c| c.shot == shot);
            let (doubted, judged) = those.fold((0, 0), |(a, b), c| (a + c.doubted, b + c.judged));
            (judged > 0).then(|| format!("{doubted} of {judged} in {shot}-shot classes"))
        };
        let shots = [Shot::Few, Shot::Medium, Shot::Many].into_iter();
        let shots: Vec<String> = shots.filter_map(of_shot).collect();
        writeln!(
            f,
            "labels that are probably wrong: {}",
            match shots.is_empty() {
                true => "0".into(),
                false => shots.join(", "),
            }
        )?;
        write!(
            f,
            "pairs of pictures that look alike under two labels: {}",
            self.pairs
        )?;
        match sum(|c| c.unreadable) {
            0 => Ok(()),
            n => write!(f, "\npictures that cannot be read: {n}"),
        }
    }
}
