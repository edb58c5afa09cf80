//! Text from a grammar file: `[symbol]` sections with one alternative a line.
//!
//! `{symbol}` is a fresh choice, `{symbol:key}` is chosen once in a document and then
//! repeated; different keys of one symbol get different alternatives while there are
//! any left. `|` ends a line of the text.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::rng::Rng;

/// Symbols inside symbols deeper than this are a circle in the grammar.
const DEPTH: usize = 16;

/// A parsed grammar; its start symbol is `document`.
#[derive(Debug)]
pub(crate) struct Grammar {
    symbols: BTreeMap<String, Vec<String>>,
}

/// What one document has bound: key to alternative, and what is taken per symbol.
#[derive(Default)]
struct Bound {
    values: BTreeMap<String, String>,
    taken: BTreeSet<(String, usize)>,
}

impl Grammar {
    pub(crate) fn parse(source: &str) -> Result<Self> {
        let mut symbols: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = None;
        for line in source.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                current = Some(symbols.entry(name.to_owned()).or_default());
            } else {
                let section = current.as_mut().with_context(|| format!("before any section: {line}"))?;
                section.push(line.to_owned());
            }
        }
        Ok(Self { symbols })
    }

    /// One document of the language.
    pub(crate) fn document(&self, rng: &mut Rng) -> Result<String> {
        let mut out = String::new();
        self.expand("document", rng, &mut Bound::default(), &mut out, 0)?;
        Ok(out)
    }

    /// `count` documents of the seed, none twice.
    pub(crate) fn documents(&self, seed: u64, count: usize) -> Result<Vec<String>> {
        let mut rng = Rng::new(seed);
        let mut seen = BTreeSet::new();
        let mut out = Vec::with_capacity(count);
        for _ in 0..count * 20 {
            if out.len() == count {
                break;
            }
            let text = self.document(&mut rng)?;
            if seen.insert(text.clone()) {
                out.push(text);
            }
        }
        Ok(out)
    }

    fn expand(
        &self,
        slot: &str,
        rng: &mut Rng,
        bound: &mut Bound,
        out: &mut String,
        depth: usize,
    ) -> Result<()> {
        if depth > DEPTH {
            bail!("the grammar goes in a circle at {{{slot}}}");
        }
        if let Some(known) = bound.values.get(slot) {
            out.push_str(known);
            return Ok(());
        }
        let symbol = slot.split(':').next().unwrap_or(slot);
        let section = self.symbols.get(symbol).with_context(|| format!("no section [{symbol}]"))?;
        let keyed = symbol != slot;
        let mut at = rng.below(section.len());
        if keyed {
            // The next free alternative; when all are taken, the chosen one after all.
            let free = (0..section.len())
                .map(|step| (at + step) % section.len())
                .find(|&i| !bound.taken.contains(&(symbol.to_owned(), i)));
            at = free.unwrap_or(at);
            bound.taken.insert((symbol.to_owned(), at));
        }
        let template = section.get(at).with_context(|| format!("section [{symbol}] is empty"))?;
        let mut text = String::new();
        let mut rest = template.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            push_lines(&mut text, before);
            let (inner, tail) = after.split_once('}').with_context(|| format!("open brace: {template}"))?;
            // Code in the corpus has braces with spaces in them; those are text.
            if inner.contains([' ', '{']) || inner.is_empty() {
                text.push('{');
                rest = after;
            } else {
                self.expand(inner, rng, bound, &mut text, depth + 1)?;
                rest = tail;
            }
        }
        push_lines(&mut text, rest);
        if keyed {
            bound.values.insert(slot.to_owned(), text.clone());
        }
        out.push_str(&text);
        Ok(())
    }
}

fn push_lines(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c == '|' { '\n' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "# a remark\n[document]\n{who:a} met {who:b}|and {who:a} fn() { x {who:b} }\n[who]\nAnn\nBob\n";

    #[test]
    fn bound_keys_repeat_and_differ() {
        let grammar = Grammar::parse(SOURCE).unwrap();
        for seed in 0..20 {
            let text = grammar.document(&mut Rng::new(seed)).unwrap();
            assert!(
                ["Ann met Bob\nand Ann fn() { x Bob }", "Bob met Ann\nand Bob fn() { x Ann }"]
                    .contains(&text.as_str()),
                "{text}"
            );
        }
        assert_eq!(grammar.documents(3, 10).unwrap().len(), 2, "no document twice");
    }

    #[test]
    fn faults_are_named() {
        let circle = Grammar::parse("[document]\n{document}\n").unwrap();
        assert!(circle.document(&mut Rng::new(1)).unwrap_err().to_string().contains("circle"));
        let absent = Grammar::parse("[document]\n{nobody}\n").unwrap();
        assert!(absent.document(&mut Rng::new(1)).unwrap_err().to_string().contains("[nobody]"));
        assert!(Grammar::parse("text\n").is_err());
    }
}
