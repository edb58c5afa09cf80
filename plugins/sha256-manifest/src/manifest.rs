//! Manifest lines: coreutils `sha256sum`, BSD `shasum --tag`, and a bare digest.

/// One claim of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Without a leading `./`.
    pub(crate) name: String,
    pub(crate) digest: [u8; 32],
}

/// What a manifest says.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Parsed {
    pub(crate) entries: Vec<Entry>,
    /// Numbers, from one, of lines that are no claims about SHA-256.
    pub(crate) unreadable: Vec<usize>,
}

/// Reads `text`; a bare digest speaks about `manifest_name` without `.sha256`.
pub(crate) fn parse(manifest_name: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bare = || {
            let name = manifest_name.strip_suffix(".sha256")?;
            Some(Entry { name: name.into(), digest: digest(line)? })
        };
        match coreutils(line).or_else(|| bsd(line)).or_else(bare) {
            Some(entry) => parsed.entries.push(entry),
            None => parsed.unreadable.push(number),
        }
    }
    parsed
}

/// `DIGEST  NAME`, `DIGEST *NAME`; a leading backslash says that NAME is escaped.
fn coreutils(line: &str) -> Option<Entry> {
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
    let (hex, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest).trim_start();
    Some(Entry { name: clean(name, escaped)?, digest: digest(hex)? })
}

/// `SHA256 (NAME) = DIGEST`.
fn bsd(line: &str) -> Option<Entry> {
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
    let (name, hex) = line.strip_prefix("SHA256 (")?.rsplit_once(") = ")?;
    Some(Entry { name: clean(name, escaped)?, digest: digest(hex)? })
}

fn clean(name: &str, escaped: bool) -> Option<String> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = if escaped {
        let mut out = String::with_capacity(name.len());
        let mut chars = name.chars();
        while let Some(c) = chars.next() {
            out.push(match (c, c == '\\') {
                (_, true) => match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    '\\' => '\\',
                    _ => return None,
                },
                (c, false) => c,
            });
        }
        out
    } else {
        name.into()
    };
    (!name.is_empty()).then_some(name)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let nibble = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line() {
        let hex = "0123456789abcdefABCDEF0123456789abcdefabcdef0123456789abcdef0123";
        for (line, name) in [
            (format!("{hex}  a b.gguf"), Some("a b.gguf")),
            (format!("{hex} *a.gguf"), Some("a.gguf")),
            (format!("{hex}  ./sub/a.gguf"), Some("sub/a.gguf")),
            (format!("\\{hex}  a\\nb\\\\c"), Some("a\nb\\c")),
            (format!("SHA256 (a (1).gguf) = {hex}"), Some("a (1).gguf")),
            (hex.to_owned(), Some("own.gguf")),
            (format!("{hex}0  a"), None),
            (hex.replace('0', "g"), None),
            (format!("MD5 (a) = {hex}"), None),
            (format!("{hex}  "), Some("own.gguf")),
        ] {
            let parsed = parse("own.gguf.sha256", &line);
            let names: Vec<_> = parsed.entries.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, name.into_iter().collect::<Vec<_>>(), "{line}");
            assert_eq!(parsed.unreadable.is_empty(), name.is_some(), "{line}");
        }
        assert_eq!(parse("SHA256SUMS", hex).entries, [], "a bare digest needs a name");
        assert_eq!(parse("x.sha256", "# comment\n\n"), Parsed::default());
    }
}
