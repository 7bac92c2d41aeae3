//! Texts of others, made fit for a terminal or a line of a log: bounded, and without characters
//! that a terminal acts on.

use std::fmt::Write;

/// The most characters of a text that is shown in an error or in a cell of a table. The longest
/// address fits.
pub const SHOWN_CHARS_MAX: usize = 300;

/// Whether a terminal may act on a character, or show what follows it elsewhere: control
/// characters, separators of lines, and marks of invisible formatting such as the direction of the
/// text.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The text with such characters escaped as in JSON, so that JSON stays JSON. Line breaks stay.
pub fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match acts(c) && c != '\n' {
            // All of them are below U+10000.
            true => _ = write!(plain, "\\u{:04x}", u32::from(c)),
            false => plain.push(c),
        }
    }
    plain
}

/// The text as one line of at most [`SHOWN_CHARS_MAX`] characters and an ellipsis. What is escaped
/// counts as one character.
pub fn shown(text: &str) -> String {
    let mut left = text.chars();
    let cut: String = left.by_ref().take(SHOWN_CHARS_MAX).collect();
    let mut plain = escaped(&cut).replace('\n', "\\u000a");
    if left.next().is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped_and_json_stays_json() {
        let text = "a\x1b[31m\u{9b}2J\x7f\u{202e}ü\r\n✓";
        assert_eq!(escaped(text), "a\\u001b[31m\\u009b2J\\u007f\\u202eü\\u000d\n✓");
        assert_eq!(shown("a\nb"), "a\\u000ab");
        let json = serde_json::json!({"text": text}).to_string();
        let read: serde_json::Value = serde_json::from_str(&escaped(&json)).unwrap();
        assert_eq!(read["text"], text);
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(shown(&"x".repeat(SHOWN_CHARS_MAX)), "x".repeat(SHOWN_CHARS_MAX));
        let long = shown(&"ü".repeat(70_000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN_CHARS_MAX + 1, true));
    }
}
