//! Text that others wrote (names, paths, metadata, logs), made fit for people: nothing in it steers
//! a terminal, is invisible, or turns around the text beside it, and there is not too much of it.
//! Programs get it as it is, in JSON, and cut only where it would be a burden.

use super::budget;

/// Does nobody see this character for what it is? Controls, and what Unicode lists as ignorable by
/// default: bidirectional controls, zero-width and other invisible characters, variation selectors,
/// tags. With them the separators of lines, and the marks of annotations.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Is all of it seen, and on one line?
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(is_unseen)
}

/// What stands for a character on a screen.
fn seen(c: char) -> char {
    match c {
        '\t' | '\n' => ' ',
        c if is_unseen(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// The text as one line.
pub fn plain(text: &str) -> String {
    text.chars().map(seen).collect()
}

/// The text as one line of bearable length.
pub fn shown(text: &str) -> String {
    let mut rest = text.chars();
    let mut out: String = rest.by_ref().take(budget::SHOWN_CHARS).map(seen).collect();
    if rest.next().is_some() {
        out.push('…');
    }
    out
}

/// A path, likewise.
pub fn path(path: &std::path::Path) -> String {
    shown(&path.display().to_string())
}

/// A path in JSON, which knows Unicode only: what is none of a name is replaced.
///
/// # Errors
/// Those of the serialiser.
pub fn path_as_json<S: serde::Serializer>(
    path: &(impl AsRef<std::path::Path> + ?Sized),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

/// A page of lines: the last stop before a screen, whatever was forgotten on the way.
pub fn page(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { seen(c) }).collect()
}

/// A text that belongs into JSON, cut.
pub fn bounded(mut text: String) -> String {
    if text.len() > budget::TEXT_BYTES {
        let end = text.floor_char_boundary(budget::TEXT_BYTES);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A text with what nobody sees written as JSON writes it in strings, so that nothing is lost.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut units = [0; 2];
    for c in text.chars() {
        if is_unseen(c) {
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unseen_reaches_a_screen() {
        let hostile =
            "a\u{1b}]0;x\u{7}\u{9b}31m\u{202e}gpj\u{2066}\u{200b}\u{feff}\u{e0041}\u{2028}\u{ad}\r\nb\tc";
        let bad = |c: char| c == '\u{fffd}';
        for text in [plain(hostile), shown(hostile), page(hostile)] {
            assert!(
                text.chars().all(|c| bad(c) || c.is_ascii_graphic() || c == ' ' || c == '\n'),
                "{text:?}"
            );
            assert_eq!(text.matches(bad).count(), 11, "{text:?}");
        }
        assert!(page(hostile).contains('\n') && !plain(hostile).contains('\n'));
        assert!(["a\nb", "a\tb", "a\u{1b}", "a\u{202e}b"].iter().all(|text| !is_plain(text)));
        for fine in ["", "Ünïcödé 日本語 العربية", "model-Q4_K_M.gguf", "🙂"] {
            assert_eq!((plain(fine), page(fine), escaped(fine)), (fine.into(), fine.into(), fine.into()));
            assert!(is_plain(fine));
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "é".repeat(budget::SHOWN_CHARS + 1);
        assert_eq!(shown(&long).chars().count(), budget::SHOWN_CHARS + 1);
        assert!(shown(&long).ends_with('…') && !shown(&long[2..]).ends_with('…'));
        let cut = bounded(format!("a{}", "é".repeat(budget::TEXT_BYTES)));
        assert!(cut.len() <= budget::TEXT_BYTES + '…'.len_utf8() && cut.ends_with('…'));
        assert_eq!(bounded("short".into()), "short");
    }

    #[test]
    fn what_is_escaped_can_be_read_back() {
        let name = "a\u{7f}\u{202e}\u{e0041}é";
        let text = format!("\"{}\"", escaped(name));
        assert_eq!(text, "\"a\\u007f\\u202e\\udb40\\udc41é\"");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), name);
    }
}
