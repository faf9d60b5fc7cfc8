//! Labels that are probably wrong, by what heads say of pictures that they have not seen.
//!
//! A label is doubted where another class is [`ODDS`] times as probable, and the more, the higher these odds are. Probabilities
//! are as if all classes were equally frequent, else rare labels would be doubted for being rare; a temperature has brought them to
//! what they promise, so that of pictures that are hard few are doubted.
//!
//! Confident learning (Northcutt, Jiang and Chuang, JAIR 2021) takes the mean probability of each class's own pictures for the
//! bound from which a class is believed. With three pictures of a class that mean is noise, and with a weak trunk it is so
//! low that half of all labels are doubted (docs/OWN_DATA.md has numbers).

/// How many times as probable as its label another class has to be for a doubt.
const ODDS: f32 = 10.0;

/// What was said of pictures.
pub(super) struct Said<'a> {
    /// Probabilities, `[pictures, classes]`.
    pub probabilities: &'a [f32],
    /// `[pictures]`.
    pub labels: &'a [u32],
    /// Which of them were held out, `[pictures]`; of the others nothing is known.
    pub judged: &'a [bool],
    pub classes: usize,
}

impl Said<'_> {
    /// Probabilities of a picture, `[classes]`.
    pub fn of(&self, picture: usize) -> &[f32] {
        &self.probabilities[picture * self.classes..][..self.classes]
    }

    /// The probability of its label, where it was judged.
    pub fn own(&self, picture: usize) -> Option<f32> {
        self.judged[picture].then(|| self.of(picture)[self.labels[picture] as usize])
    }

    /// The class that it probably is of in place of that of its label, and the probability of that.
    pub fn doubt(&self, picture: usize) -> Option<(u32, f32)> {
        let (own, label) = (self.own(picture)?, self.labels[picture]);
        let others = (0u32..).zip(self.of(picture).iter().copied());
        let others = others.filter(|(class, _)| *class != label);
        let highest = others.max_by(|a, b| a.1.total_cmp(&b.1));
        highest.filter(|(_, other)| *other >= ODDS * own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_doubted_where_another_class_is_ten_times_as_probable() {
        let probabilities = [
            0.08, 0.85, 0.07, // 0: rather 1
            0.09, 0.86, 0.05, // 0: not ten times
            0.04, 0.36, 0.60, // 0: rather 2
            0.50, 0.01, 0.49, // 2
            0.00, 1.00, 0.00, // 2: not judged
        ];
        let said = Said {
            probabilities: &probabilities,
            labels: &[0, 0, 0, 2, 2],
            judged: &[true, true, true, true, false],
            classes: 3,
        };
        let doubts: Vec<_> = (0..5).map(|picture| said.doubt(picture)).collect();
        let expected = [Some((1, 0.85)), None, Some((2, 0.6)), None, None];
        assert_eq!(doubts, expected);
        assert_eq!((said.own(3), said.own(4)), (Some(0.49), None));
    }
}
