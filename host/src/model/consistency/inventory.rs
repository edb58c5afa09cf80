//! What llama.cpp demands of a file of an architecture: entries and tensors. The table is a text of
//! its own, `inventory.txt`.

const TABLE: &str = include_str!("inventory.txt");

/// What an architecture in the table needs.
pub(super) struct Inventory {
    /// Words of the table, with what their shorthands stand for.
    needs: String,
    layer: String,
}

/// Names of which one list must be there as a whole.
pub(super) type Alternatives<'a> = Vec<Vec<&'a str>>;

impl Inventory {
    pub fn of(architecture: &str) -> Option<Self> {
        let (head, blocks) = TABLE.split_once("\n\n")?;
        let named = |block: &&str| {
            block.lines().next().is_some_and(|line| line.split(' ').any(|name| name == architecture))
        };
        let (_, words) = blocks.split("\n\n").find(named)?.split_once('\n')?;
        let shorthands =
            head.lines().filter(|line| line.starts_with('$')).filter_map(|line| line.split_once(' '));
        let words = shorthands.fold(words.to_owned(), |text, (short, long)| text.replace(short, long));
        let (needs, layer) = words.split_once(" layer ")?;
        Some(Self { needs: needs.to_owned(), layer: layer.to_owned() })
    }

    /// Entries that must be there; one that begins with a dot has the architecture's name before it.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.needs.split_whitespace().filter(|word| is_entry(word))
    }

    /// Tensors of the model as a whole.
    pub fn tensors(&self) -> impl Iterator<Item = Alternatives<'_>> {
        self.needs.split_whitespace().filter(|word| !is_entry(word)).map(alternatives)
    }

    /// Tensors of every layer.
    pub fn layer(&self) -> impl Iterator<Item = Alternatives<'_>> {
        self.layer.split_whitespace().map(alternatives)
    }

    /// Is the tensor among those of a layer, needed or not?
    pub fn lists(&self, part: &str) -> bool {
        self.layer().flatten().flatten().any(|name| split_stack(&full(name)).1 == part)
    }

    /// May the last layers be for multi-token prediction?
    pub fn predicts(&self) -> bool {
        self.layer.contains("nextn.")
    }

    /// Does every layer have heads of attention?
    pub fn attends(&self) -> bool {
        self.every_layer_has(true, |part| part.starts_with("attn_") && !part.starts_with("attn_norm"))
    }

    /// Does every layer have a feed-forward of its own?
    pub fn feeds(&self, mixture: bool) -> bool {
        self.every_layer_has(mixture, |part| part == "ffn_up" || part == "ffn_down")
    }

    /// Whichever alternative a layer is of; one with experts is none where there are no experts.
    fn every_layer_has(&self, mixture: bool, is: impl Fn(&str) -> bool) -> bool {
        self.layer().any(|mut alternatives| {
            alternatives.retain(|names| mixture || !names.iter().any(|name| name.ends_with("_exps")));
            !alternatives.is_empty()
                && alternatives.iter().all(|names| names.iter().any(|name| is(split_stack(name).1)))
        })
    }
}

/// Encoder and decoder are stacks of layers of their own; most models have one stack without a name.
pub(super) const STACKS: [&str; 3] = ["", "enc.", "dec."];

/// The stack that a name begins with, and the rest.
pub(super) fn split_stack(name: &str) -> (&str, &str) {
    let named = STACKS.iter().skip(1).find_map(|stack| name.strip_prefix(stack).map(|rest| (*stack, rest)));
    named.unwrap_or(("", name))
}

fn is_entry(word: &str) -> bool {
    word.starts_with('.') || word.starts_with("xielu.")
}

fn alternatives(word: &str) -> Alternatives<'_> {
    word.split('|').map(|names| names.split('+').filter(|name| !name.is_empty()).collect()).collect()
}

/// The name in the file of one in the table.
pub(super) fn full(name: &str) -> String {
    match name.strip_prefix('=') {
        Some(exact) => exact.to_owned(),
        None if name.ends_with(".bias") || name.ends_with(".scale") => name.to_owned(),
        None => format!("{name}.weight"),
    }
}

/// What is missing for the alternative that comes closest: the one of which most is there, and of
/// several of these the one that lacks least. A tensor that two alternatives share thus does not hide
/// that the rest of the larger one is gone.
pub(super) fn lacking(alternatives: &Alternatives<'_>, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let split = alternatives.iter().map(|names| {
        let names = names.iter().map(|name| full(name));
        names.partition::<Vec<String>, _>(|name| is_there(name))
    });
    let closest = split.min_by_key(|(present, absent)| (std::cmp::Reverse(present.len()), absent.len()));
    closest.map(|(_, absent)| absent).unwrap_or_default()
}
