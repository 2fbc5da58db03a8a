//! Makes a value harmless on its way into a log line.
//!
//! Whatever a request puts into a value, a line stays one line and a terminal shows it as
//! characters: control characters (C0, DEL, C1), line and paragraph separators, and invisible or
//! direction-changing characters are escaped, for JSON as `\u2028`, for people as `\u{2028}`.

use std::fmt::{self, Write};

/// The longest value, in bytes after escaping; a longer one is cut and ends in `…`.
pub(super) const MAX_VALUE: usize = 2 << 10;
/// Marks what was cut.
pub(super) const CUT: &str = "…";

/// Escapes what is written through it and stops at its bound.
pub(super) struct Escape<'a> {
    out: &'a mut String,
    json: bool,
    left: usize,
    cut: bool,
}

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while !rest.is_empty() && !self.cut {
            // Most text needs no escape and is taken in runs.
            let run = rest.bytes().take_while(|byte| is_plain(*byte)).count();
            let taken = run.min(self.left);
            self.out.push_str(&rest[..taken]);
            self.left -= taken;
            let mut after = rest[taken..].chars();
            if let Some(character) = after.next() {
                self.bounded(character);
            }
            rest = after.as_str();
        }
        Ok(())
    }
}

impl<'a> Escape<'a> {
    /// Writes to `out`, for JSON or for people, at most [`MAX_VALUE`] bytes and the mark of a cut.
    pub(super) fn new(out: &'a mut String, json: bool) -> Escape<'a> {
        Escape { out, json, left: MAX_VALUE, cut: false }
    }

    /// Adds a character if it still fits in whole, escaped; else cuts.
    fn bounded(&mut self, character: char) {
        let start = self.out.len();
        self.push(character);
        match self.left.checked_sub(self.out.len() - start) {
            Some(left) => self.left = left,
            None => {
                self.out.truncate(start);
                self.out.push_str(CUT);
                self.cut = true;
            }
        }
    }

    fn push(&mut self, character: char) {
        match character {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            // Writing to a `String` cannot fail.
            hidden if is_hidden(hidden) && self.json => {
                let mut units = [0; 2];
                for unit in hidden.encode_utf16(&mut units) {
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
            hidden if is_hidden(hidden) => {
                let _ = write!(self.out, "\\u{{{:x}}}", u32::from(hidden));
            }
            plain => self.out.push(plain),
        }
    }
}

/// Printable ASCII that stands for itself in both formats.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Control characters, separators of lines, and characters that are invisible or change the
/// direction of what follows: nothing that a reader could see as what it is.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str, json: bool) -> String {
        let mut out = String::new();
        write!(Escape::new(&mut out, json), "{value}").unwrap();
        out
    }

    #[test]
    fn json_and_people_get_their_own_notation() {
        let value = "a\"\\\n\r\t\u{1b}\u{2028}\u{e0041}é";
        assert_eq!(escaped(value, true), r#"a\"\\\n\r\t\u001b\u2028\udb40\udc41é"#);
        assert_eq!(escaped(value, false), r#"a\"\\\n\r\t\u{1b}\u{2028}\u{e0041}é"#);
    }

    /// The bound falls between whole escaped characters, wherever they begin.
    #[test]
    fn a_long_value_is_cut_between_characters() {
        for (unit, json) in [("x", true), ("é", false), ("\u{1}", true), ("\u{e0041}", true)] {
            let whole = escaped(unit, json);
            for lead in 0..12 {
                let value = "y".repeat(lead) + &unit.repeat(MAX_VALUE + 1);
                let out = escaped(&value, json);
                let units = (MAX_VALUE - lead) / whole.len();
                assert_eq!(out, "y".repeat(lead) + &whole.repeat(units) + CUT);
            }
        }
        assert_eq!(escaped(&"x".repeat(MAX_VALUE), true).len(), MAX_VALUE, "just fits");
    }

    #[test]
    fn nothing_hidden_passes() {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~');
        for code in (0..=0x10_ffff).filter_map(char::from_u32).filter(|code| is_hidden(*code)) {
            for json in [true, false] {
                let out = escaped(&code.to_string(), json);
                assert!(out.len() > 1 && out.bytes().all(printable), "{code:?}: {out:?}");
            }
        }
    }
}
