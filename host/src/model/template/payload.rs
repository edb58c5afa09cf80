//! Texts that do something however few words they have: addresses, commands, scripts, hidden
//! characters, and what is disguised as no text at all.

use super::text::{PROSE_WORDS, words_added};
use crate::domain::text::is_plain;

/// Ends of domain names in common use, those of free and short addresses among them.
const DOMAINS: &str = "com net org biz edu gov io ai co dev app sh me ly gl gd xyz top site online shop store club live link \
     click icu tk ml cf ru su cn de uk eu fr br tv onion";
/// Beginnings of commands, a comma between two.
const COMMANDS: &str = "rm -rf,curl ,wget ,sudo ,chmod ,powershell,bash -c,| sh,|sh,| bash,|bash,/bin/sh,/bin/bash,/dev/tcp,pip install,\
     npm install,os.system,subprocess.,eval(,exec(,base64 -d,/etc/passwd";
/// What a browser runs or loads.
const SCRIPTS: &str = "<script,<iframe,<svg,<img ,javascript:,onerror=,onload=";
/// Words between spaces that say something, an article among them.
const PHRASE_WORDS: usize = 3;
/// Whose words the model is to take a text for.
const ROLES: &str = "system user assistant developer";
/// Roles that messages of users do not have.
const TRUSTED: &str = "system developer";

/// Does a text lead somewhere, run something or hide something? No marker does.
pub(super) fn is_payload(text: &str) -> bool {
    let lower = text.to_lowercase();
    let names = |list: &str| list.split(',').any(|name| lower.contains(name));
    lower.contains("://") || has_domain(&lower) || names(COMMANDS) || names(SCRIPTS) || hides(text)
}

/// Is it more than it looks like: a role with words of its own, markers that make a sentence, a
/// line of a program, a short sentence, something encoded?
pub(super) fn is_disguised(text: &str) -> bool {
    let words = || text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let has_role = words().any(|word| ROLES.split(' ').any(|role| role == word));
    let speaks = has_role && text.contains(['<', '[']) && words_added(text) > 1;
    let imports = text.lines().any(|line| line.trim_start().starts_with("import "));
    let ended = text.trim_end().ends_with(['.', '!', '?', '。', '！']) && words_added(text) > 1;
    let letters = |word: &&str| word.chars().all(char::is_alphabetic);
    let phrase = text.split_whitespace().filter(letters).count() >= PHRASE_WORDS;
    speaks || imports || ended || phrase || marked_words(text) >= PROSE_WORDS || words().any(is_encoded)
}

/// Is it the name of a role that the template gives to a message?
pub(super) fn is_trusted_role(text: &str) -> bool {
    TRUSTED.split(' ').any(|role| role == text.trim())
}

/// A name or a number of a computer in the internet.
fn has_domain(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-')).any(|name| {
        let name = name.trim_matches('.');
        let numbers = name.split('.').filter(|part| part.parse::<u8>().is_ok()).count();
        let ends = |(of, end): (&str, &str)| !of.is_empty() && DOMAINS.split(' ').any(|known| known == end);
        name.rsplit_once('.').is_some_and(ends) || numbers == 4 && name.split('.').count() == 4
    })
}

/// Are there characters that nobody sees? Emoji and some scripts are joined with others.
fn hides(text: &str) -> bool {
    let joins =
        |c: &char| matches!(c, '\t' | '\n' | '\r' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}');
    !is_plain(&text.chars().filter(|c| !joins(c)).collect::<String>())
}

/// Different words that stand in markers, one each.
fn marked_words(text: &str) -> usize {
    let marked = text.split('<').skip(1).filter_map(|marker| Some(marker.split_once('>')?.0));
    let words = marked.filter(|word| word.len() > 1 && word.chars().all(char::is_alphabetic));
    words.collect::<std::collections::BTreeSet<_>>().len()
}

/// A long word of small letters, capitals and digits, or of hexadecimal digits.
fn is_encoded(word: &str) -> bool {
    const LONG: usize = 20;
    let has = |is: fn(&u8) -> bool| word.bytes().any(|c| is(&c));
    let mixed = || has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    word.len() >= LONG
        && word.is_ascii()
        && has(u8::is_ascii_digit)
        && (mixed() || word.bytes().all(|c| c.is_ascii_hexdigit()))
}
