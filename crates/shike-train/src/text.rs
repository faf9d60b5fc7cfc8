//! Text of others, which may hold anything.

/// Text that cannot move the cursor or turn the order of its letters: names of files and classes may
/// hold anything. Line breaks stay.
pub fn clean(text: &str) -> String {
    let odd = |c: char| {
        // Characters of format that no script needs.
        (c.is_control() && c != '\n')
            || matches!(
                c,
                '\u{AD}' | '\u{61C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{FEFF}'
            )
            || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FFF9}'..='\u{FFFB}')
            || matches!(c, '\u{E0000}'..='\u{E007F}')
    };
    text.replace(odd, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_nothing_on_the_screen() {
        let shown = clean("a\u{1b}[2Jb\u{202E}gpj\u{2066}\tc\nd é\u{200D}日");
        assert_eq!(shown, "a?[2Jb?gpj??c\nd é\u{200D}日");
    }
}
