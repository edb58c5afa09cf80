//! Are two matrices the same up to the order of rows, or of columns?
//!
//! Hidden units of a feed-forward layer can be renumbered without changing what the model
//! computes: rows of gate and up move, and columns of down with them. Rows are found again
//! by SHA-256; columns by a sum of mixed values, and then checked one by one.

use super::side::{Entry, Side};
use crate::digest::sha256;
use crate::domain::Problem;

/// Matrices with more rows or columns are not looked at.
const MOST: u64 = 1 << 20;

/// For every row or column of the candidate, where it is in the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Rows(Vec<usize>),
    Columns(Vec<usize>),
}

/// Weights of matrices that are looked at whatever they seem to be.
const FEW: u64 = 1 << 16;

/// May these matrices be the same but for an order, although most of their weights are alike? A few
/// columns in other places leave those of the first row what they are.
pub(super) fn is_likely(sides: (&Side, &Side), (ours, theirs): (&Entry, &Entry)) -> Result<bool, Problem> {
    let [rows, columns] = *ours.shape.as_slice() else { return Ok(false) };
    let width = usize::try_from(ours.bytes.checked_div(rows).unwrap_or(0)).unwrap_or(0);
    let cell = usize::try_from((width as u64).checked_div(columns).unwrap_or(0)).unwrap_or(0);
    if ours.dtype != theirs.dtype || columns > MOST || cell == 0 || ours.elements() <= FEW {
        return Ok(ours.elements() <= FEW);
    }
    let first = |side: &Side, entry: &Entry| -> Result<Vec<u8>, Problem> {
        let mut row = vec![0; width];
        side.read(entry, 0, &mut row)?;
        Ok(row)
    };
    let (ours, theirs) = (first(sides.0, ours)?, first(sides.1, theirs)?);
    let mut cells = [&ours, &theirs].map(|row| row.chunks(cell).collect::<Vec<_>>());
    cells.iter_mut().for_each(|cells| cells.sort_unstable());
    Ok(cells[0] == cells[1])
}

/// The order that makes the candidate of the reference, if there is one.
pub(super) fn find(sides: (&Side, &Side), entries: (&Entry, &Entry)) -> Result<Option<Order>, Problem> {
    let (candidate, reference) = entries;
    let ([rows, columns], true) = (candidate.shape.as_slice(), candidate.dtype == reference.dtype) else {
        return Ok(None);
    };
    let width = candidate.bytes / rows.max(&1);
    let (Ok(width), true) = (usize::try_from(width), *rows <= MOST && *columns <= MOST) else {
        return Ok(None);
    };
    let cell = width / usize::try_from(*columns).unwrap_or(1).max(1);
    let mut digests = [Vec::new(), Vec::new()];
    let mut sums = [Vec::new(), Vec::new()];
    for ((side, entry), (digests, sums)) in
        [(sides.0, candidate), (sides.1, reference)].into_iter().zip(digests.iter_mut().zip(&mut sums))
    {
        sums.resize(width.checked_div(cell).unwrap_or(0), 0u64);
        each_row(side, entry, width, &mut |number, row| {
            digests.push(sha256(row).0);
            if cell > 0 {
                for (sum, value) in sums.iter_mut().zip(row.chunks_exact(cell)) {
                    *sum = sum.wrapping_add(mix(number, value));
                }
            }
        })?;
    }
    let [ours, theirs] = &digests;
    if let Some(order) = matched(ours, theirs) {
        return Ok(Some(Order::Rows(order)));
    }
    let [ours, theirs] = &sums;
    match matched(ours, theirs) {
        Some(order) if cell > 0 && columns_equal(sides, entries, width, cell, &order)? => {
            Ok(Some(Order::Columns(order)))
        }
        _ => Ok(None),
    }
}

fn each_row(
    side: &Side,
    entry: &Entry,
    width: usize,
    see: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), Problem> {
    let mut row = vec![0; width];
    for number in 0..entry.bytes.checked_div(width as u64).unwrap_or(0) {
        side.read(entry, number * width as u64, &mut row)?;
        see(number, &row);
    }
    Ok(())
}

/// A value at a row, spread over 64 bits.
fn mix(row: u64, value: &[u8]) -> u64 {
    let mut bits = [0; 8];
    bits.iter_mut().zip(value).for_each(|(bit, byte)| *bit = *byte);
    let mut x = u64::from_le_bytes(bits) ^ row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Where each of `ours` is in `theirs`, if they are the same in another order.
fn matched<T: Ord>(ours: &[T], theirs: &[T]) -> Option<Vec<usize>> {
    let sorted = |list: &[T]| {
        let mut order: Vec<usize> = (0..list.len()).collect();
        order.sort_by_key(|&place| list.get(place));
        order
    };
    let mut order = vec![0; ours.len()];
    let pairs = sorted(ours).into_iter().zip(sorted(theirs));
    for (our, their) in pairs {
        if ours.len() != theirs.len() || ours.get(our) != theirs.get(their) {
            return None;
        }
        *order.get_mut(our)? = their;
    }
    Some(order)
}

fn columns_equal(
    sides: (&Side, &Side),
    entries: (&Entry, &Entry),
    width: usize,
    cell: usize,
    order: &[usize],
) -> Result<bool, Problem> {
    let mut equal = true;
    let mut other = vec![0; width];
    let mut failed = None;
    each_row(sides.0, entries.0, width, &mut |number, row| {
        if let Err(problem) = sides.1.read(entries.1, number * width as u64, &mut other) {
            failed = Some(problem);
        }
        equal &= row.chunks_exact(cell).zip(order).all(|(ours, &place)| {
            other.get(place * cell..(place + 1) * cell).is_some_and(|theirs| theirs == ours)
        });
    })?;
    failed.map_or(Ok(equal), Err)
}
