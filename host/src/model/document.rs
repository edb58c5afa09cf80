//! Documents beside the weights (README, model card) and alone: what an unfinished one shows,
//! the markers of a merge conflict and placeholders that nobody filled in.
//!
//! Looked at byte by byte, in one pass and whatever the encoding. Everything found is told by its
//! line, but for each of the two kinds only [`budget::DOCUMENT_FINDINGS`] per document; how many
//! there are in all is told with each.
//!
//! A marker stands at the start of a line: seven signs, then a space or the end. `=======` and
//! `|||||||` mean something else elsewhere (the line below a heading, an empty table row), so
//! outside of a conflict the latter is none, and the former only where no heading can be.
//! A placeholder is `{UPPER_CASE}` outside of fenced code, of mathematics and of shell's `${VAR}`.

use std::collections::BTreeMap;
use std::io;

use super::finding::{Code, Findings};
use super::source::ReadAt;
use crate::domain::budget;
use crate::domain::inspection::Finding;

/// Bytes of a placeholder's name; LaTeX and sets have single letters in braces.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 2..=64;

/// Is this the name of a document?
pub fn is_document(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".md") || lower.ends_with(".markdown")
}

/// Looks through a document as far as [`budget::DOCUMENT_BYTES`].
///
/// # Errors
/// The source cannot be read.
pub fn check(source: &dyn ReadAt, findings: &mut Findings) -> io::Result<()> {
    let size = source.size().min(budget::DOCUMENT_BYTES);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    source.read_at(&mut bytes, 0)?;
    if source.size() > size {
        let message =
            format!("the document has {} bytes; only the first {size} were looked at", source.size());
        findings.push(Finding { offset: Some(size), ..Code::DocumentUnread.finding(message) });
    }
    let (markers, placeholders) = look(&bytes);
    let counts = markers.kinds.iter().map(|(sign, count)| format!("{count} {}", sign.to_string().repeat(7)));
    let counts: Vec<String> = counts.collect();
    tell(&markers, findings, |line, what, which| {
        let message = format!("line {line} is a conflict marker, {what} ({which}: {})", counts.join(", "));
        Code::MergeMarker.finding(message)
    });
    tell(&placeholders, findings, |line, what, which| {
        Code::OpenPlaceholder.finding(format!("line {line} has the open placeholder {what} ({which})"))
    });
    Ok(())
}

/// Tells of the first places, each with how many there are.
fn tell(found: &Found<'_>, findings: &mut Findings, finding: impl Fn(usize, &str, &str) -> Finding) {
    for (number, place) in (1..).zip(&found.first) {
        let what = String::from_utf8_lossy(place.what);
        let which = format!("{number} of {}", found.count);
        findings.push(Finding { offset: Some(place.offset as u64), ..finding(place.line, &what, &which) });
    }
}

/// Something found: its line from 1, and its first byte.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    line: usize,
    offset: usize,
    what: &'a [u8],
}

/// What was found of one kind: the first places, and how many there are in all and by their first
/// signs. A document full of it takes no more memory than others.
#[derive(Debug, Default)]
struct Found<'a> {
    first: Vec<Place<'a>>,
    count: usize,
    kinds: BTreeMap<char, usize>,
}

impl<'a> Found<'a> {
    fn push(&mut self, place: Place<'a>) {
        self.count += 1;
        if let Some(&sign) = place.what.first() {
            *self.kinds.entry(sign.into()).or_default() += 1;
        }
        if self.first.len() < budget::DOCUMENT_FINDINGS {
            self.first.push(place);
        }
    }
}

/// Markers and placeholders, in order.
fn look(bytes: &[u8]) -> (Found<'_>, Found<'_>) {
    let (mut markers, mut placeholders) = (Found::default(), Found::default());
    let (mut fence, mut conflict, mut below_text) = (None, Conflict::None, false);
    let mut offset = 0;
    for (line, whole) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
        let text = whole.trim_ascii_end();
        let (mark, text) =
            text.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).map_or((0, text), |t| (3, t));
        let begin = offset + mark;
        offset += whole.len();
        if let Some(what) = marker(text, conflict, below_text) {
            conflict = match what {
                b"<<<<<<<" => Conflict::Ours,
                b"=======" if conflict == Conflict::Ours => Conflict::Theirs,
                b">>>>>>>" => Conflict::None,
                _ => conflict,
            };
            markers.push(Place { line, offset: begin, what });
            below_text = false;
            continue;
        }
        below_text = !text.is_empty();
        let before = fence;
        fence = fenced(fence, text);
        if before.is_none() && fence.is_none() {
            let found = braces(text).map(|(at, what)| Place { line, offset: begin + at, what });
            found.for_each(|place| placeholders.push(place));
        }
    }
    (markers, placeholders)
}

/// The part of a conflict that a line is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conflict {
    None,
    Ours,
    Theirs,
}

/// The seven signs that begin the line, if it is a marker.
fn marker(text: &[u8], conflict: Conflict, below_text: bool) -> Option<&[u8]> {
    let (signs, rest) = text.split_at_checked(7)?;
    if !matches!(rest.first(), None | Some(b' ')) {
        return None;
    }
    let is_marker = match signs {
        b"<<<<<<<" | b">>>>>>>" => true,
        b"|||||||" => conflict == Conflict::Ours,
        // The first of a conflict parts it; others may stand below a heading.
        b"=======" => conflict == Conflict::Ours || !below_text,
        _ => false,
    };
    is_marker.then_some(signs)
}

/// A fence of code: its sign, and how many.
type Fence = Option<(u8, usize)>;

/// The fence that is open after a line.
fn fenced(open: Fence, text: &[u8]) -> Fence {
    // In a list or a quotation a fence is not at the start of its line.
    let inner = text.trim_ascii_start();
    let inner = if open.is_none() { after_bullet(inner) } else { inner };
    let inner = inner.strip_prefix(b">").map_or(inner, <[u8]>::trim_ascii_start);
    let Some(&sign) = inner.first().filter(|sign| matches!(sign, b'`' | b'~')) else { return open };
    let count = inner.iter().take_while(|&&byte| byte == sign).count();
    let rest = inner.get(count..).unwrap_or_default();
    match open {
        Some((own, least)) if sign == own && count >= least && rest.is_empty() => None,
        None if count >= 3 && !(sign == b'`' && rest.contains(&b'`')) => Some((sign, count)),
        _ => open,
    }
}

/// What stands behind the bullet or the number of a list, if there is one.
fn after_bullet(text: &[u8]) -> &[u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = text.get(digits..).unwrap_or_default();
    let item = match rest {
        [b'-' | b'*' | b'+', b' ', item @ ..] if digits == 0 => item,
        [b'.' | b')', b' ', item @ ..] if digits > 0 => item,
        _ => return text,
    };
    item.trim_ascii_start()
}

/// Places and names, with their braces, of the placeholders of a line.
fn braces(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let all = dollars(text, text.len());
    let (mut seen, mut counted) = (0, 0);
    let opened = text.iter().enumerate().filter(|(_, byte)| **byte == b'{');
    opened.filter_map(move |(at, _)| {
        seen += dollars(text.get(counted..).unwrap_or_default(), at - counted);
        counted = at;
        let name = text.get(at + 1..)?;
        let name = name.get(..*NAME_BYTES.end() + 1).unwrap_or(name);
        let name = name.get(..name.iter().position(|&byte| byte == b'}')?)?;
        let is_name = name.first().is_some_and(u8::is_ascii_uppercase)
            && name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
            && NAME_BYTES.contains(&name.len());
        // Within `$…$` there are formulas, and `\text{…}` is one of LaTeX's wherever it stands;
        // a field of BibTeX is `title={…},`.
        let (before, end) = (text.get(..at)?, at + name.len() + 2);
        let formula = seen % 2 == 1 && seen < all;
        let command = without_letters(before).ends_with(b"\\");
        let other = matches!(before.last(), Some(b'$' | b'\\' | b'^'));
        let field = before.ends_with(b"=") && text.get(end) == Some(&b',');
        let open = is_name && !(formula || command || other || field);
        open.then_some((at, text.get(at..end)?))
    })
}

/// Signs of a formula's begin or end within the first bytes; `${` is shell's.
fn dollars(text: &[u8], length: usize) -> usize {
    let signs = (0..length).filter(|&at| text.get(at) == Some(&b'$') && text.get(at + 1) != Some(&b'{'));
    signs.count()
}

fn without_letters(text: &[u8]) -> &[u8] {
    let letters = text.iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    text.get(..text.len() - letters).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        check(&text.as_bytes(), &mut findings).unwrap();
        findings.finish().into_iter().map(|finding| finding.message).collect()
    }

    /// Lines with a marker, and placeholders.
    fn short(text: &str) -> (Vec<usize>, Vec<String>) {
        let (markers, placeholders) = look(text.as_bytes());
        let name = |place: Place<'_>| String::from_utf8_lossy(place.what).into_owned();
        (
            markers.first.iter().map(|place| place.line).collect(),
            placeholders.first.into_iter().map(name).collect(),
        )
    }

    /// A plan as it looks after ten merges that nobody finished.
    #[test]
    fn ten_conflicts_are_thirty_lines() {
        let conflict = |n: usize| {
            format!("## Step {n}\n\n<<<<<<< HEAD\nours {n}\n=======\ntheirs {n}\n>>>>>>> topic-{n}\n\n")
        };
        let plan: String = (1..=10).map(conflict).collect();
        for plan in [plan.clone(), plan.replace('\n', "\r\n"), format!("\u{feff}Title\n=======\n\n{plan}")] {
            let found = found(&plan);
            assert_eq!(found.len(), 30, "{found:?}");
            for signs in ["<<<<<<<", "=======", ">>>>>>>"] {
                assert_eq!(
                    found.iter().filter(|line| line.contains(&format!("marker, {signs} "))).count(),
                    10
                );
            }
            assert!(found[0].ends_with("(1 of 30: 10 <<<<<<<, 10 =======, 10 >>>>>>>)"), "{}", found[0]);
        }
        let mut findings = Findings::default();
        check(&plan.as_bytes(), &mut findings).unwrap();
        let list = findings.finish();
        let second = plan.find("=======").unwrap() as u64;
        assert_eq!((list[1].code.as_str(), list[1].offset), ("merge-marker", Some(second)));
        assert!(list[1].message.starts_with("line 5 "), "{}", list[1].message);
    }

    #[test]
    fn what_looks_like_a_marker_and_is_none() {
        for text in [
            "Heading\n=======\n",
            "Heading\r\n=======\r\n",
            "========\n",
            "======\n",
            " =======\n",
            "<<<<<<<<\n",
            "<<<<<<\n",
            "<<<<<<<HEAD\n",
            " <<<<<<< HEAD\n",
            "text <<<<<<< HEAD\n",
            "|||||||\n",
            "",
        ] {
            assert_eq!(short(text).0, [0; 0], "{text:?}");
        }
        for (text, lines) in [
            ("=======\n", &[1][..]),
            ("text\n\n=======\nmore", &[3]),
            (">>>>>>> topic", &[1]),
            ("<<<<<<<\nH\n=======\n\nT\n=======\n>>>>>>>", &[1, 3, 7]),
            ("<<<<<<< a\nx\n||||||| base\ny\n=======\nz\n>>>>>>> b\nT\n=======\n", &[1, 3, 5, 7]),
            ("<<<<<<< a\n>>>>>>> b\nT\n=======\n", &[1, 2]),
            ("<<<<<<< a\n>>>>>>> b\n=======\n", &[1, 2, 3]),
            ("\u{feff}<<<<<<< a\n=======\n>>>>>>> b\n", &[1, 2, 3]),
            ("```\n<<<<<<< in code\n=======\n>>>>>>> too\n```\n", &[2, 3, 4]),
        ] {
            assert_eq!(short(text).0, lines, "{text:?}");
        }
        assert_eq!(look("\u{feff}<<<<<<< a\n".as_bytes()).0.first[0].offset, 3, "behind the mark");
    }

    #[test]
    fn placeholders_outside_of_code_and_formulas() {
        for (text, names) in [
            ("{DATE}", &["{DATE}"][..]),
            ("v{VERSION} of {MODEL_NAME}, {{AUTHOR}}", &["{VERSION}", "{MODEL_NAME}", "{AUTHOR}"]),
            ("model_{SIZE}-{Q4_0}.gguf `{FILE}`", &["{SIZE}", "{Q4_0}", "{FILE}"]),
            ("costs $5, {PRICE}", &["{PRICE}"]),
            ("${HOME}/{NAME} and ${PATH}", &["{NAME}"]),
            ("{N} {lower} {Mixed} {A B} {} {1ST} {", &[]),
            ("$x_{MAX} + {REST}$ and \\text{KL} and \\mathrm{RMS}, e^{TX}", &[]),
            ("$a$ {OUTSIDE} $b$", &["{OUTSIDE}"]),
            ("  title={BERT}, size={SIZE}", &["{SIZE}"]),
            ("```sh\n{INSIDE}\n```\n{AFTER}", &["{AFTER}"]),
            ("~~~\n{INSIDE}\n```\n{STILL}\n~~~~\n{AFTER}", &["{AFTER}"]),
            ("````\n{INSIDE}\n```\n{STILL}\n````\n{AFTER}", &["{AFTER}"]),
            ("- ```sh\n  {INSIDE}\n  ```\n{AFTER}", &["{AFTER}"]),
            ("1. text\n   ```\n   {INSIDE}\n   ```\n> ```\n> {QUOTED}\n> ```\n{AFTER}", &["{AFTER}"]),
            ("``` {INLINE} ```\n{AFTER}", &["{INLINE}", "{AFTER}"]),
            ("```\nnever closed\n{INSIDE}", &[]),
        ] {
            assert_eq!(short(text).1, names, "{text:?}");
        }
        let long = "A".repeat(*NAME_BYTES.end());
        assert_eq!(short(&format!("{{{long}}} {{{long}A}}")).1, [format!("{{{long}}}")]);
        assert_eq!(found("\n {DATE}")[0], "line 2 has the open placeholder {DATE} (1 of 1)");
    }

    /// However much is found, little is listed; how much there was is told.
    #[test]
    fn what_is_told_is_bounded() {
        let many = "{AB} ".repeat(300_000);
        let list = found(&many);
        assert_eq!(list.len(), budget::DOCUMENT_FINDINGS);
        assert!(list[0].ends_with("(1 of 300000)"), "{}", list[0]);
        let limit = usize::try_from(budget::DOCUMENT_BYTES).unwrap();
        let list = found(&format!("{}{{BEYOND}}", " ".repeat(limit)));
        assert_eq!(list.len(), 1);
        assert!(list[0].contains("only the first"), "{}", list[0]);
        // Whatever the bytes are, and however they are meant to take long.
        for hostile in ["{", "$", "$ {AB} ", "\\a{", "`", "{A", ">", "~"] {
            found(&hostile.repeat(limit / hostile.len()));
        }
        assert!(check(&&b"\xff\xfe{DATE}\x00\n"[..], &mut Findings::default()).is_ok());
    }
}
