//! Looks for values that no weight should have. The common case, nothing wrong, is one
//! maximum over the bit patterns of a few kilobytes, which compilers turn into vector code.

use std::ops::BitAnd;

use multiversion::multiversion;
use serde::{Deserialize, Serialize};

use crate::model::gguf::GgmlType;

/// How often something occurred, and where first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub count: u64,
    pub first: Option<u64>,
}

impl Count {
    fn add(&mut self, offset: u64) {
        self.count += 1;
        self.first.get_or_insert(offset);
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub nan: Count,
    pub inf: Count,
    /// Finite, but beyond 1e6, or a block scale beyond 4096.
    pub absurd: Count,
}

/// Values compared at a time.
const GROUP: usize = 1024;

/// What weights are looked at as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ggml(GgmlType),
    Float8(Float8),
}

/// Floats of one byte, by what their patterns beyond the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float8 {
    /// One pattern of each sign is no number, none is infinite.
    E4M3,
    /// As IEEE 754 has it.
    E5M2,
    /// Powers of two without a sign: the last pattern is no number.
    E8M0,
    /// What would be a negative zero is no number (E4M3FNUZ, E5M2FNUZ).
    Fnuz,
}

impl Kind {
    /// Weights per block.
    pub fn block(self) -> u64 {
        self.ggml().map_or(1, GgmlType::block)
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> u64 {
        self.ggml().map_or(1, GgmlType::block_bytes)
    }

    pub fn ggml(self) -> Option<GgmlType> {
        match self {
            Self::Ggml(kind) => Some(kind),
            Self::Float8(_) => None,
        }
    }
}

/// Looks at whole blocks of a tensor that begin at `offset` of the file.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
pub fn look(kind: Kind, bytes: &[u8], offset: u64, counts: &mut Counts) {
    use GgmlType::*;
    let kind = match kind {
        Kind::Ggml(kind) => kind,
        Kind::Float8(Float8::E4M3) => return float8(bytes, offset, counts, |m| m & 0x7f == 0x7f, |_| false),
        Kind::Float8(Float8::E5M2) => {
            return float8(bytes, offset, counts, |m| m & 0x7f > 0x7c, |m| m & 0x7f == 0x7c);
        }
        Kind::Float8(Float8::E8M0) => return float8(bytes, offset, counts, |m| m == 0xff, |_| false),
        Kind::Float8(Float8::Fnuz) => return float8(bytes, offset, counts, |m| m == 0x80, |_| false),
    };
    match kind {
        F32 => floats(bytes, offset, counts, u32::from_le_bytes, &F32_BITS),
        F16 => floats(bytes, offset, counts, u16::from_le_bytes, &F16_BITS),
        BF16 => floats(bytes, offset, counts, u16::from_le_bytes, &BF16_BITS),
        F64 => floats(bytes, offset, counts, u64::from_le_bytes, &F64_BITS),
        I8 | I16 | I32 | I64 => {}
        Q8_K => scales(kind, bytes, offset, counts, &[0], u32::from_le_bytes, &F32_BITS),
        // Powers of two, of which that of code 127 is 1: absurd is what it is for the other scales.
        MXFP4 => bytes_scales(kind, bytes, offset, counts, 1, |scale| [scale == 0xff, scale > 127 + 12]),
        NVFP4 => bytes_scales(kind, bytes, offset, counts, 4, |scale| [scale & 0x7f == 0x7f, false]),
        IQ1_M => iq1_m(bytes, offset, counts),
        Q4_1 | Q5_1 | Q8_1 | Q4_K | Q5_K => half_scales(kind, bytes, offset, counts, &[0, 2]),
        Q2_K => half_scales(kind, bytes, offset, counts, &[80, 82]),
        Q3_K => half_scales(kind, bytes, offset, counts, &[108]),
        Q6_K => half_scales(kind, bytes, offset, counts, &[208]),
        TQ1_0 => half_scales(kind, bytes, offset, counts, &[52]),
        TQ2_0 => half_scales(kind, bytes, offset, counts, &[64]),
        Q4_0 | Q5_0 | Q8_0 | IQ2_XXS | IQ2_XS | IQ3_XXS | IQ1_S | IQ4_NL | IQ3_S | IQ2_S | IQ4_XS | Q1_0
        | Q2_0 => {
            half_scales(kind, bytes, offset, counts, &[0]);
        }
    }
}

/// Bit patterns of a float format, without the sign. Words of the format's own size: of these
/// processors compare many at a time.
struct Bits<W> {
    /// Everything but the sign.
    magnitude: W,
    infinity: W,
    /// The pattern of 1e6; infinity where that cannot be said.
    absurd: W,
}

const F16_BITS: Bits<u16> = Bits { magnitude: 0x7fff, infinity: 0x7c00, absurd: 0x7c00 };
/// A scale of 4096 means weights beyond tens of thousands; real ones are below 1.
const SCALE_BITS: Bits<u16> = Bits { magnitude: 0x7fff, infinity: 0x7c00, absurd: 0x6c00 };
const BF16_BITS: Bits<u16> = Bits { magnitude: 0x7fff, infinity: 0x7f80, absurd: 0x4974 };
const F32_BITS: Bits<u32> = Bits { magnitude: 0x7fff_ffff, infinity: 0x7f80_0000, absurd: 0x4974_2400 };
const F64_BITS: Bits<u64> =
    Bits { magnitude: 0x7fff_ffff_ffff_ffff, infinity: 0x7ff0_0000_0000_0000, absurd: 0x412e_8480_0000_0000 };

impl<W: Copy + Ord + BitAnd<Output = W>> Bits<W> {
    #[inline(always)]
    fn is_odd(&self, magnitude: W) -> bool {
        magnitude > self.absurd || magnitude >= self.infinity
    }

    fn note(&self, value: W, offset: u64, counts: &mut Counts) {
        let magnitude = value & self.magnitude;
        if magnitude > self.infinity {
            counts.nan.add(offset);
        } else if magnitude == self.infinity {
            counts.inf.add(offset);
        } else if magnitude > self.absurd {
            counts.absurd.add(offset);
        }
    }
}

#[inline(always)]
fn floats<const N: usize, W: Copy + Ord + Default + BitAnd<Output = W>>(
    bytes: &[u8],
    offset: u64,
    counts: &mut Counts,
    read: impl Fn([u8; N]) -> W,
    bits: &Bits<W>,
) {
    let (values, _) = bytes.as_chunks::<N>();
    let mut place = offset;
    for group in values.chunks(GROUP) {
        let largest = group.iter().fold(W::default(), |most, &raw| most.max(read(raw) & bits.magnitude));
        if bits.is_odd(largest) {
            for (i, &raw) in group.iter().enumerate() {
                bits.note(read(raw), place + (i * N) as u64, counts);
            }
        }
        place += (group.len() * N) as u64;
    }
}

/// Floats of one byte: which patterns are no numbers, and which are infinite.
#[inline(always)]
fn float8(
    bytes: &[u8],
    offset: u64,
    counts: &mut Counts,
    nan: impl Fn(u8) -> bool,
    infinite: impl Fn(u8) -> bool,
) {
    for (group, start) in bytes.chunks(GROUP).zip((offset..).step_by(GROUP)) {
        if group.iter().fold(0, |odd, &byte| odd | u8::from(nan(byte) | infinite(byte))) == 0 {
            continue;
        }
        for (&byte, place) in group.iter().zip(start..) {
            if nan(byte) {
                counts.nan.add(place);
            } else if infinite(byte) {
                counts.inf.add(place);
            }
        }
    }
}

#[inline(always)]
fn half_scales(kind: GgmlType, bytes: &[u8], offset: u64, counts: &mut Counts, places: &[usize]) {
    scales(kind, bytes, offset, counts, places, u16::from_le_bytes, &SCALE_BITS);
}

/// Scales at fixed places of each block.
#[inline(always)]
fn scales<const N: usize, W: Copy + Ord + BitAnd<Output = W>>(
    kind: GgmlType,
    bytes: &[u8],
    offset: u64,
    counts: &mut Counts,
    places: &[usize],
    read: impl Fn([u8; N]) -> W,
    bits: &Bits<W>,
) {
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    for (i, block) in bytes.chunks_exact(size).enumerate() {
        for &place in places {
            let Some(raw) = block.get(place..).and_then(|rest| rest.first_chunk::<N>()) else { continue };
            let value = read(*raw);
            if bits.is_odd(value & bits.magnitude) {
                bits.note(value, offset + (i * size + place) as u64, counts);
            }
        }
    }
}

/// Scales of one byte, of which some patterns are not numbers.
/// Scales of one byte at the start of a block; `judge` says whether one is no number, or absurd.
fn bytes_scales(
    kind: GgmlType,
    bytes: &[u8],
    offset: u64,
    counts: &mut Counts,
    scales: usize,
    judge: impl Fn(u8) -> [bool; 2],
) {
    let size = usize::try_from(kind.block_bytes()).unwrap_or(1);
    for (i, block) in bytes.chunks_exact(size).enumerate() {
        for (place, &scale) in block.iter().take(scales).enumerate() {
            let at = offset + (i * size + place) as u64;
            match judge(scale) {
                [true, _] => counts.nan.add(at),
                [_, true] => counts.absurd.add(at),
                _ => {}
            }
        }
    }
}

/// The f16 scale of IQ1_M is spread over the top four bits of four words at byte 48.
fn iq1_m(bytes: &[u8], offset: u64, counts: &mut Counts) {
    for (i, block) in bytes.chunks_exact(56).enumerate() {
        let (words, _) = block.get(48..).unwrap_or_default().as_chunks::<2>();
        let scale = words
            .iter()
            .enumerate()
            .fold(0, |scale, (nibble, &word)| scale | (u16::from_le_bytes(word) >> 12) << (4 * nibble));
        SCALE_BITS.note(scale, offset + (i * 56 + 48) as u64, counts);
    }
}
