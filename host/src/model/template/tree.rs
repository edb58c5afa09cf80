//! The tree of a template: one kind of node for statements and expressions alike.

/// Nesting beyond this is refused; every walk over a tree may recurse as deep.
pub(super) const DEPTH: u16 = 200;

/// What a node is; `text` and `children` of [`Node`] mean what is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The whole template, or a body: children in order.
    Body,
    /// Literal output: text.
    Text,
    /// `{{ … }}`: one expression.
    Output,
    /// Children: branches.
    If,
    /// Children: a body; before it a condition, unless it is the `else`.
    Branch,
    /// Text: names of the loop variables, with commas. Children: what is gone through, the
    /// condition (`true` if none), the body.
    For,
    /// Text: what is set. Children: a value or a body.
    Set,
    /// Text: name and parameters, with commas. Children: defaults, then a body.
    Macro,
    /// A body with expressions before it (`with`, `generation`, `block`, `autoescape`, `do`).
    Block,
    /// `{% call %}`. Text: parameters, with commas. Children: the call, the body.
    CallBlock,
    /// `import`, `from`, `include`, `extends`. Text: the statement.
    Load,
    /// `break`, `continue`.
    Jump,
    /// Text: the string.
    Str,
    /// Text: the digits.
    Int,
    /// Any other constant. Text: as written.
    Const,
    /// Text: the name.
    Name,
    /// Text: the attribute. Children: what it is of.
    Attr,
    /// Text: `:` if it is a slice. Children: what is indexed, the index or the parts of a slice.
    Item,
    /// Children: what is called, then arguments.
    Call,
    /// A named argument. Text: the name. Children: its value.
    Named,
    /// Arguments from a list or a mapping. Text: `*` or `**`. Children: it.
    Many,
    /// Text: the filter. Children: what is filtered (in `{% filter %}` a body), then arguments.
    Filter,
    /// Text: the test. Children: what is tested, then arguments.
    Test,
    /// Text: `not`, `-` or `+`.
    Unary,
    /// Text: the operator; `in` and `not in`, `and` and `or` are operators.
    Binary,
    /// Children: condition, value if true, value if false.
    Choice,
    /// Children: elements.
    List,
    /// Children: key, value, key, value.
    Dict,
}

/// A node of the tree.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: Kind,
    pub text: String,
    pub children: Vec<Node>,
    depth: u16,
}

impl Node {
    /// # Errors
    /// The tree would be nested too deep.
    pub fn new(kind: Kind, text: impl Into<String>, children: Vec<Node>) -> Result<Self, String> {
        let depth = children.iter().map(|child| child.depth).max().unwrap_or(0) + 1;
        if depth > DEPTH {
            return Err(format!("it is nested more than {DEPTH} levels deep"));
        }
        Ok(Self { kind, text: text.into(), children, depth })
    }

    pub fn leaf(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), children: Vec::new(), depth: 1 }
    }

    pub fn child(&self, place: usize) -> Option<&Node> {
        self.children.get(place)
    }

    pub fn is(&self, kind: Kind, text: &str) -> bool {
        self.kind == kind && self.text == text
    }

    /// Calls `see` for this node and everything below it.
    pub fn each<'a>(&'a self, see: &mut dyn FnMut(&'a Node)) {
        see(self);
        self.children.iter().for_each(|child| child.each(see));
    }
}
