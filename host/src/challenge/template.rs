//! Templates of the prompt families, and how choices fill them.
//!
//! A template is text with slots: `{name}` draws from the word list of that name, `{2..99}`
//! draws an integer of that range, both ends included. Each slot is an independent draw
//! named by its position.
//! Deliberately absent: chat formats. Prompts are plain text, so that a base model and an
//! instruction-tuned one are asked the same thing.

use serde::{Deserialize, Serialize};

use super::kdf::Choices;
use super::words;

/// What kind of text a challenge is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    Factual,
    Instruction,
    Reasoning,
    Code,
    FreeText,
    /// Token ids without text, for models without a usable tokenizer.
    RawTokens,
    /// A prompt that the user brought.
    Probe,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Factual => "factual",
            Self::Instruction => "instruction",
            Self::Reasoning => "reasoning",
            Self::Code => "code",
            Self::FreeText => "free-text",
            Self::RawTokens => "raw-tokens",
            Self::Probe => "probe",
        }
    }

    /// The templates of the family; none for raw tokens and for probes.
    pub fn templates(self) -> &'static [&'static str] {
        match self {
            Self::Factual => FACTUAL,
            Self::Instruction => INSTRUCTION,
            Self::Reasoning => REASONING,
            Self::Code => CODE,
            Self::FreeText => FREE_TEXT,
            Self::RawTokens | Self::Probe => &[],
        }
    }
}

/// The families of text challenges; one is drawn for every challenge.
pub const TEXT_FAMILIES: [Family; 5] =
    [Family::Factual, Family::Instruction, Family::Reasoning, Family::Code, Family::FreeText];

const FACTUAL: &[&str] = &[
    "The city of {place} is known for its {adj} {things}, its {adj} {things} and a long history of {trade}. In {1400..1999}, it was",
    "In {field}, {topic} is often compared with {topic}. The most important fact about it, first described in {place} in {1400..1999}, is that",
    "Encyclopedia entry. {place}: a town with {2..990} thousand people, {adj} {things} and one {adj} {scene}. It became rich through {trade} and",
];

const INSTRUCTION: &[&str] = &[
    "Instruction: Write one {style} {form} about the {adj} {animal} and the {role} who find one {adj} {object} near the {scene}.\nResponse:",
    "Instruction: Explain {topic} to a {role} from {place} in {2..20} {style} sentences. Use the {adj} {object} and some {food} as examples.\nResponse:",
    "Instruction: List {2..20} reasons why the {role} would trade the {adj} {object} for {food} at the {scene}. Keep the tone {style}.\nResponse:",
];

const REASONING: &[&str] = &[
    "Question: {name} the {role} has {11..99} {items}, gives away {2..10} of them and then buys {2..99} more in {place}. How many are left?\nAnswer: First,",
    "Question: The {role} walks {2..99} miles from {place} to the {scene}, rests {2..50} minutes and walks {2..99} miles back. How long is the whole way?\nAnswer: Step one:",
    "If every {adj} {animal} likes {food}, and the {animal} of {name} is {adj}, does it like {food}? Let us think about it carefully. We know that",
];

const CODE: &[&str] = &[
    "def {verb}_{noun}({arg}, {arg}_2={2..999}):\n    \"\"\"{verb} the {adj} {noun} and return them.\"\"\"\n    result = []\n    for",
    "// {verb} all {adj} {noun}, at most {2..999} of them\nfunction {verb}{noun}({arg}, {arg}2) {\n  const out = [];\n  if (",
    "/* {verb} the {noun}, then {verb} the {noun} ({adj} case) */\nint {verb}_{noun}(int *{arg}, int n) {\n    int limit = {2..999};\n    for (",
];

const FREE_TEXT: &[&str] = &[
    "Once upon a time, {time}, the {adj} {animal} met the {role} {name} by the {scene}. They had only one {adj} {object} and some {food}. Then",
    "Dear {name}, I arrived in {place} {time}. The {scene} is {adj}, and the {role} sold me one {adj} {object} for {2..990} dollars. You will",
    "{de.who} {de.did} {de.where}. {de.who} {de.did} {de.where}. Am nächsten Tag um {1..12} Uhr",
    "{fr.who} {fr.did} {fr.where}. {fr.who} {fr.did} {fr.where}. Le lendemain, à {1..12} heures,",
    "{es.who} {es.did} {es.where}. {es.who} {es.did} {es.where}. Al día siguiente, a las {1..12},",
    "{ru.who} {ru.did} {ru.where}. {ru.who} {ru.did} {ru.where}. На следующий день в {1..12} часов",
    "{zh.who}{zh.where}{zh.did}。{zh.who}{zh.where}{zh.did}。第二天{1..12}点,他们一起去了",
];

/// A piece of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Text(&'static str),
    Words(&'static str),
    Number(u64, u64),
}

/// Cuts a template into pieces. A brace that opens no known slot is text, as in code.
fn pieces(template: &'static str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let slot = after.split_once('}').and_then(|(name, tail)| Some((slot(name)?, tail)));
        if let Some((piece, tail)) = slot {
            out.push(Piece::Text(before));
            out.push(piece);
            rest = tail;
        } else {
            out.push(Piece::Text(before));
            out.push(Piece::Text("{"));
            rest = after;
        }
    }
    out.push(Piece::Text(rest));
    out
}

fn slot(name: &'static str) -> Option<Piece> {
    if let Some((low, high)) = name.split_once("..") {
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        return (low < high).then_some(Piece::Number(low, high));
    }
    words::list(name).map(Piece::Words)
}

impl Piece {
    /// How many values the piece can take.
    fn space(self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::Words(list) => list.split('|').count() as u64,
            Self::Number(low, high) => high - low + 1,
        }
    }
}

/// The template with every slot drawn from `choices`.
pub fn fill(template: &'static str, choices: &Choices) -> String {
    let mut text = String::with_capacity(256);
    for (position, piece) in pieces(template).into_iter().enumerate() {
        let draw = || choices.below(&format!("slot/{position}"), piece.space());
        match piece {
            Piece::Text(fixed) => text.push_str(fixed),
            Piece::Words(list) => {
                let nth = usize::try_from(draw()).unwrap_or(usize::MAX);
                text.push_str(list.split('|').nth(nth).unwrap_or_default());
            }
            Piece::Number(low, _) => text.push_str(&(low + draw()).to_string()),
        }
    }
    text
}

/// Number of ways to fill a template.
pub fn template_space(template: &'static str) -> u64 {
    pieces(template).into_iter().fold(1, |space, piece| space.saturating_mul(piece.space()))
}

/// Number of ways to fill the templates of a family.
pub fn family_space(family: Family) -> u64 {
    family.templates().iter().fold(0, |sum, template| sum.saturating_add(template_space(template)))
}

/// Number of ways to make a text challenge: every template of every family.
pub fn text_space() -> u64 {
    TEXT_FAMILIES.iter().fold(0, |sum, &family| sum.saturating_add(family_space(family)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_known() {
        for family in TEXT_FAMILIES {
            for template in family.templates() {
                for piece in pieces(template) {
                    if let Piece::Text(text) = piece {
                        // What is left of braces is code, never a misspelt slot.
                        assert!(!text.contains('}') || family == Family::Code, "{template}");
                    }
                }
                assert!(pieces(template).iter().any(|piece| piece.space() > 1), "{template}");
            }
        }
    }

    /// Every family alone is large enough, so is every template of a language.
    #[test]
    fn spaces() {
        for family in TEXT_FAMILIES {
            assert!(family_space(family) >= 1_000_000_000, "{family:?}: {}", family_space(family));
            for template in family.templates() {
                assert!(template_space(template) >= 100_000_000, "{template}: {}", template_space(template));
            }
        }
        assert_eq!(template_space("{1..12} and {time}, { not a slot }"), 12 * 16);
    }

    /// Even the longest filling leaves room for the continuation in a window of 512 tokens
    /// when every byte is a token of its own; the shortest is still a real prompt.
    #[test]
    fn lengths() {
        for family in TEXT_FAMILIES {
            for template in family.templates() {
                let (mut shortest, mut longest) = (0, 0);
                for piece in pieces(template) {
                    let (low, high) = match piece {
                        Piece::Text(text) => (text.len(), text.len()),
                        Piece::Words(list) => (
                            list.split('|').map(str::len).min().unwrap(),
                            list.split('|').map(str::len).max().unwrap(),
                        ),
                        Piece::Number(low, high) => (low.to_string().len(), high.to_string().len()),
                    };
                    shortest += low;
                    longest += high;
                }
                assert!(shortest >= 70, "{shortest}: {template}");
                assert!(longest <= super::super::MAX_PROMPT_BYTES, "{longest}: {template}");
            }
        }
    }
}
