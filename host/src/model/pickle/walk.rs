//! Following the opcodes of one pickle.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::rc::Rc;

use super::storage;
use crate::domain::budget;
use crate::model::source::Cursor;

/// What a pickle does.
#[derive(Debug, Default)]
pub struct Seen {
    /// `module.name` of everything that is imported, with the place of the first time.
    pub imports: BTreeMap<String, u64>,
    /// The storages that its tensors are in, by key: bytes of each, unless its type is not known.
    pub storages: BTreeMap<Rc<str>, Option<u64>>,
    pub opcodes: u64,
    /// Why it could not be followed to its end.
    pub broken: Option<&'static str>,
    /// Position behind the last opcode.
    pub end: u64,
}

/// What is imported where no name says it.
const COMPUTED: &str = "a computed name";
const EXTENSION: &str = "a registered extension";
const GETATTR: [&str; 2] = ["builtins.getattr", "__builtin__.getattr"];

impl Seen {
    /// Does it import anything by a name? Random bytes that can be followed for a while do not.
    pub fn has_names(&self) -> bool {
        self.imports.keys().any(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}

/// All that is known about an object.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Mark,
    /// A short text, which may become the name of an import.
    Text(Rc<str>),
    /// A whole number that is not negative.
    Number(u64),
    /// A type of storages, by its name.
    Storage(Rc<str>),
    /// A few of the above, which may say where the numbers of a tensor are.
    Tuple(Rc<[Item]>),
    /// `getattr` by its name, imported at this place. Python 3.11 began by asking it for members of
    /// enumerations, which are constants; every other use of it counts as an import.
    Getattr(&'static str, u64),
    Other,
}

/// Longest text that is kept; names of functions are shorter.
const TEXT_BYTES: u64 = 256;
/// Distinct imports that are kept.
const IMPORTS: usize = 10_000;
/// Members of a tuple that is kept.
const MEMBERS: usize = 8;

/// How a walk ends.
enum Stop {
    Done,
    Broken(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

const CUT: Stop = Stop::Broken("it ends in the middle");
const EMPTY: Stop = Stop::Broken("it takes from an empty stack");

/// Follows the pickle at the cursor up to its STOP.
///
/// # Errors
/// The source cannot be read; anything wrong with the pickle is in the result.
pub fn walk(cursor: &mut Cursor<'_>) -> io::Result<Seen> {
    let mut machine = Machine { cursor, stack: Vec::new(), memo: HashMap::new(), seen: Seen::default() };
    let broken = loop {
        match machine.step() {
            Ok(()) => machine.seen.opcodes += 1,
            Err(Stop::Done) => break None,
            Err(Stop::Broken(why)) => break Some(why),
            Err(Stop::Io(error)) => return Err(error),
        }
    };
    // What is left on the stack is handed over, or would have been.
    let left = std::mem::take(&mut machine.stack);
    machine.used(&left);
    machine.seen.opcodes += 1;
    machine.seen.broken = broken;
    machine.seen.end = machine.cursor.position();
    Ok(machine.seen)
}

struct Machine<'c, 's> {
    cursor: &'c mut Cursor<'s>,
    stack: Vec<Item>,
    memo: HashMap<u64, Item>,
    seen: Seen,
}

impl Machine<'_, '_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.cursor.array()?.ok_or(CUT)
    }

    fn byte(&mut self) -> Result<u64, Stop> {
        self.take().map(|[byte]: [u8; 1]| byte.into())
    }

    fn word(&mut self) -> Result<u64, Stop> {
        self.take().map(|bytes| u32::from_le_bytes(bytes).into())
    }

    fn long(&mut self) -> Result<u64, Stop> {
        self.take().map(u64::from_le_bytes)
    }

    /// Skips `length` bytes.
    fn skip(&mut self, length: u64) -> Result<(), Stop> {
        if self.cursor.skip(length) { Ok(()) } else { Err(CUT) }
    }

    /// A text of `length` bytes, kept if it is short.
    fn text(&mut self, length: u64) -> Result<Item, Stop> {
        if length > TEXT_BYTES {
            self.skip(length)?;
            return Ok(Item::Other);
        }
        let bytes = self.cursor.bytes(length)?.ok_or(CUT)?;
        Ok(std::str::from_utf8(&bytes).map_or(Item::Other, |text| Item::Text(text.into())))
    }

    /// Up to and without the next line end.
    fn line(&mut self) -> Result<String, Stop> {
        let mut line = Vec::new();
        loop {
            match self.take::<1>()? {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
                [byte] if (line.len() as u64) < TEXT_BYTES => line.push(byte),
                _ => {}
            }
        }
    }

    fn push(&mut self, item: Item) -> Result<(), Stop> {
        if self.stack.len() >= budget::PICKLE_OBJECTS {
            return Err(Stop::Broken("it stacks up more objects than any checkpoint"));
        }
        self.stack.push(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, Stop> {
        let item = self.stack.pop().ok_or(EMPTY)?;
        self.used(std::slice::from_ref(&item));
        Ok(item)
    }

    /// What becomes of these cannot be followed any more.
    fn used(&mut self, items: &[Item]) {
        for item in items {
            if let Item::Getattr(name, at) = item {
                self.note((*name).to_owned(), *at);
            }
        }
    }

    /// Pops everything above the last mark, and the mark; the part above it.
    fn pop_mark(&mut self) -> Result<Vec<Item>, Stop> {
        let mark = self.stack.iter().rposition(|item| matches!(item, Item::Mark)).ok_or(EMPTY)?;
        let above = self.stack.split_off(mark + 1);
        self.used(&above);
        self.stack.pop();
        Ok(above)
    }

    fn replace(&mut self, taken: usize) -> Result<(), Stop> {
        for _ in 0..taken {
            self.pop()?;
        }
        self.push(Item::Other)
    }

    /// A tuple, kept if it is short and holds no other one.
    fn tuple(&mut self, members: Vec<Item>) -> Result<(), Stop> {
        let nested = members.iter().any(|member| matches!(member, Item::Tuple(_)));
        let kept = members.len() <= MEMBERS && !nested;
        self.push(if kept { Item::Tuple(members.into()) } else { Item::Other })
    }

    fn short_tuple(&mut self, length: usize) -> Result<(), Stop> {
        let at = self.stack.len().checked_sub(length).ok_or(EMPTY)?;
        let members = self.stack.split_off(at);
        self.used(&members);
        self.tuple(members)
    }

    /// An object that the loader is asked for by what identifies it.
    fn persistent(&mut self) -> Result<(), Stop> {
        if let Item::Tuple(members) = self.pop()?
            && let Some((key, bytes)) = storage::of(&members)
            && self.seen.storages.len() < budget::PICKLE_OBJECTS
        {
            let most = self.seen.storages.entry(key).or_insert(bytes);
            *most = (*most).max(bytes);
        }
        self.push(Item::Other)
    }

    /// A whole number of `length` bytes, the sign in the last.
    fn number(&mut self, length: u64, signed: bool) -> Result<(), Stop> {
        if length > 9 {
            return self.constant(length);
        }
        let bytes = self.cursor.bytes(length)?.ok_or(CUT)?;
        let negative = signed && bytes.last().is_some_and(|&last| last >= 0x80);
        let value = bytes.iter().rev().fold(0u128, |value, &byte| value << 8 | u128::from(byte));
        let known = u64::try_from(value).ok().filter(|_| !negative);
        self.push(known.map_or(Item::Other, Item::Number))
    }

    fn remember(&mut self, index: u64) -> Result<(), Stop> {
        if self.memo.len() >= budget::PICKLE_OBJECTS {
            return Err(Stop::Broken("it remembers more objects than any checkpoint"));
        }
        let top = self.stack.last().cloned().ok_or(EMPTY)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), Stop> {
        let item =
            self.memo.get(&index).cloned().ok_or(Stop::Broken("it recalls what it never remembered"))?;
        self.push(item)
    }

    fn note(&mut self, import: String, at: u64) {
        if self.seen.imports.len() < IMPORTS {
            self.seen.imports.entry(import).or_insert(at);
        }
    }

    /// Notes an import and puts what is imported onto the stack.
    fn import(&mut self, import: String, at: u64) -> Result<(), Stop> {
        if let Some(name) = GETATTR.into_iter().find(|name| *name == import) {
            return self.push(Item::Getattr(name, at));
        }
        let item =
            if import.ends_with("Storage") { Item::Storage(import.as_str().into()) } else { Item::Other };
        self.note(import, at);
        self.push(item)
    }

    /// Calls what is on the stack with the arguments above it.
    fn call(&mut self) -> Result<(), Stop> {
        if let [.., Item::Getattr(..), Item::Tuple(arguments)] = self.stack.as_slice()
            && let [_, Item::Text(name)] = &**arguments
            && name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
        {
            self.stack.truncate(self.stack.len() - 2);
            return self.push(Item::Other);
        }
        self.replace(2)
    }

    fn index(line: &str) -> Result<u64, Stop> {
        line.trim().parse().map_err(|_| Stop::Broken("an index is not a number"))
    }

    fn step(&mut self) -> Result<(), Stop> {
        let at = self.cursor.position();
        let [opcode] = self.take::<1>()?;
        match opcode {
            b'.' => return Err(Stop::Done),
            b'(' => self.push(Item::Mark)?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.stack.last().cloned().ok_or(EMPTY)?;
                self.push(top)?;
            }
            // Numbers and constants.
            b'I' | b'L' => {
                let line = self.line()?;
                let number = line.trim().trim_end_matches('L').parse().ok();
                self.push(number.map_or(Item::Other, Item::Number))?;
            }
            b'F' | b'P' => {
                self.line()?;
                self.push(Item::Other)?;
            }
            b'J' => self.number(4, true)?,
            b'K' => self.number(1, false)?,
            b'M' => self.number(2, false)?,
            b'G' => self.constant(8)?,
            b'N' | 0x88 | 0x89 | b'}' | b']' | b')' | 0x8f | 0x97 => self.push(Item::Other)?,
            0x8a => {
                let length = self.byte()?;
                self.number(length, true)?;
            }
            0x8b => {
                let length = self.word()?;
                self.constant(length)?;
            }
            // Texts and bytes.
            b'S' | b'V' => {
                let line = self.line()?;
                let text = line.trim_matches(['\'', '"']);
                self.push(Item::Text(text.into()))?;
            }
            b'U' | 0x8c => self.sized(Self::byte, true)?,
            b'T' | b'X' => self.sized(Self::word, true)?,
            0x8d => self.sized(Self::long, true)?,
            b'C' => self.sized(Self::byte, false)?,
            b'B' => self.sized(Self::word, false)?,
            0x8e | 0x96 => self.sized(Self::long, false)?,
            // Containers.
            b'a' | b's' | b'b' => {
                for _ in 0..if opcode == b's' { 2 } else { 1 } {
                    self.pop()?;
                }
            }
            b'e' | b'u' | 0x90 => drop(self.pop_mark()?),
            b'd' | b'l' | 0x91 => {
                self.pop_mark()?;
                self.push(Item::Other)?;
            }
            b't' => {
                let members = self.pop_mark()?;
                self.tuple(members)?;
            }
            0x85 => self.short_tuple(1)?,
            0x86 => self.short_tuple(2)?,
            0x87 => self.short_tuple(3)?,
            b'Q' => self.persistent()?,
            0x98 => self.replace(1)?,
            // The memo.
            b'g' => {
                let line = self.line()?;
                self.recall(Self::index(&line)?)?;
            }
            b'h' => {
                let index = self.byte()?;
                self.recall(index)?;
            }
            b'j' => {
                let index = self.word()?;
                self.recall(index)?;
            }
            b'p' => {
                let line = self.line()?;
                self.remember(Self::index(&line)?)?;
            }
            b'q' => {
                let index = self.byte()?;
                self.remember(index)?;
            }
            b'r' => {
                let index = self.word()?;
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            // Imports and calls.
            b'c' | b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let import = format!("{module}.{name}");
                if opcode == b'i' {
                    self.pop_mark()?;
                    self.note(import, at);
                    self.push(Item::Other)?;
                } else {
                    self.import(import, at)?;
                }
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let import = match (module, name) {
                    (Item::Text(module), Item::Text(name)) => format!("{module}.{name}"),
                    _ => COMPUTED.to_owned(),
                };
                self.import(import, at)?;
            }
            0x82..=0x84 => {
                self.skip(1 << (opcode - 0x82))?;
                self.import(EXTENSION.to_owned(), at)?;
            }
            b'R' => self.call()?,
            0x81 => self.replace(2)?,
            0x92 => self.replace(3)?,
            b'o' => {
                self.pop_mark()?;
                self.push(Item::Other)?;
            }
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            _ => return Err(Stop::Broken("it holds an opcode that does not exist")),
        }
        Ok(())
    }

    fn constant(&mut self, length: u64) -> Result<(), Stop> {
        self.skip(length)?;
        self.push(Item::Other)
    }

    fn sized(&mut self, length: fn(&mut Self) -> Result<u64, Stop>, text: bool) -> Result<(), Stop> {
        let length = length(self)?;
        if !text {
            return self.constant(length);
        }
        let item = self.text(length)?;
        self.push(item)
    }
}
