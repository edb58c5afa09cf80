//! Runs of zero bytes: where they are, and whether they can be innocent.
//!
//! Innocent are tensors that are zero as a whole, matrices of a stack of them (experts), and of
//! tensors with a row for each token the rows at the end (padding) and those of tokens that no
//! text becomes. Any other run is a hole that a download left, also where it happens to begin
//! and to end with a row.

use serde::{Deserialize, Serialize};

use super::{Tensors, Weights, tokens};
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

/// Runs of so many bytes are reported wherever they are,
pub const MIN_RUN_BYTES: u64 = 64 << 10;
/// and of so many (what memory, disks and networks lose at a time) where they are such a part of a
/// matrix. Vectors may have some zeros in a row.
const PAGE_BYTES: u64 = 4096;
const LARGE_PART: u64 = 16;
/// Runs are found by whole pieces of this size and then measured to the byte.
const PIECE_BYTES: usize = 4096;
/// Values beside a run may happen to begin or end with some zero bytes.
const CHANCE_BYTES: u64 = 16;
/// Runs kept; more are not needed to call a file damaged.
const MAX_RUNS: usize = 10_000;

/// Finds runs in bytes that come in order and without gaps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ZeroRuns {
    /// Start of the zeros that reach up to the current position.
    start: Option<u64>,
    end: u64,
    runs: Vec<(u64, u64)>,
}

impl ZeroRuns {
    /// Looks at the next bytes; true if all of them are zero.
    pub fn see(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if offset != self.end {
            self.close(self.end);
        }
        let mut all_zero = true;
        let mut at = offset;
        for piece in bytes.chunks(PIECE_BYTES) {
            let next = at + piece.len() as u64;
            if let Some(leading) = first_nonzero(piece) {
                all_zero = false;
                self.close(at + leading as u64);
                let trailing = piece.iter().rev().take_while(|&&byte| byte == 0).count() as u64;
                self.start = (trailing > 0).then_some(next - trailing);
            } else {
                self.start.get_or_insert(at);
            }
            at = next;
        }
        self.end = at;
        all_zero
    }

    fn close(&mut self, end: u64) {
        if let Some(start) = self.start.take()
            && end - start >= PAGE_BYTES
            && self.runs.len() < MAX_RUNS
        {
            self.runs.push((start, end));
        }
    }

    /// All runs as (start, end).
    pub fn finish(mut self) -> Vec<(u64, u64)> {
        self.close(self.end);
        self.runs
    }
}

fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<64>();
    for (i, word) in words.iter().enumerate() {
        if word.iter().fold(0, |sum, byte| sum | byte) != 0 {
            return word.iter().position(|&byte| byte != 0).map(|place| i * 64 + place);
        }
    }
    rest.iter().position(|&byte| byte != 0).map(|place| words.len() * 64 + place)
}

/// Turns runs and zero tensors into findings.
pub fn judge(
    runs: &[(u64, u64)],
    Tensors { weights, idle, .. }: Tensors<'_>,
    zero_tensors: &[&Weights],
    findings: &mut Findings,
) {
    let spare = |start, end, tensor| spare(start, end, tensor, idle);
    let data_end = weights.iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap_or(0);
    let mut explained: Vec<(u64, u64)> = Vec::new();
    let mut in_order: Vec<&Weights> = weights.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    for &(start, end) in runs {
        // Tensors that overlap, so that their ends have another order, are an error of their own.
        let before = in_order.partition_point(|tensor| tensor.offset + tensor.bytes <= start);
        let near = in_order.iter().skip(before).take_while(|tensor| tensor.offset < end).copied();
        let touched: Vec<&Weights> = near
            .filter(|tensor| covers(start, end, tensor) || overlap(start, end, tensor) > CHANCE_BYTES)
            .collect();
        let length = end - start;
        let large = |tensor: &&&Weights| {
            tensor.shape.len() > 1 && overlap(start, end, tensor) * LARGE_PART >= tensor.bytes
        };
        if length < MIN_RUN_BYTES && !touched.iter().any(|tensor| large(&tensor)) {
            continue;
        }
        let whole = touched.iter().filter(|tensor| covers(start, end, tensor)).count();
        let first = touched.first().map(|tensor| tensor.name.clone());
        let place = |code: Code, message: String| Finding {
            tensor: first.clone(),
            offset: Some(start),
            ..code.finding(message)
        };
        let innocent =
            touched.iter().all(|tensor| covers(start, end, tensor) || spare(start, end, tensor).is_some());
        if end >= data_end && (whole > 1 || !innocent) {
            let message =
                format!("the last {length} bytes of the weights are zero, from byte {start} to the end");
            findings.push(place(Code::ZeroedTail, message));
            explained.push((start, end));
        } else if !innocent {
            let message = format!("{length} bytes of the weights are zero, from byte {start} to byte {end}");
            findings.push(place(Code::ZeroRun, message));
            explained.push((start, end));
        } else {
            for tensor in touched.iter().filter(|tensor| !covers(start, end, tensor)) {
                let what = spare(start, end, tensor).unwrap_or_default();
                findings.push(Finding {
                    tensor: Some(tensor.name.clone()),
                    offset: Some(tensor.offset.max(start)),
                    ..Code::ZeroRows.finding(format!("{what} of {} are zero", tensor.name))
                });
            }
        }
    }
    for tensor in zero_tensors.iter().filter(|tensor| holds_weights(tensor)) {
        if !explained.iter().any(|&(start, end)| covers(start, end, tensor)) {
            findings.push(Finding {
                tensor: Some(tensor.name.clone()),
                offset: Some(tensor.offset),
                ..Code::ZeroTensor.finding(format!("all weights of {} are zero", tensor.name))
            });
        }
    }
}

/// Integers are often helpers of which all are zero: the order of groups, zero points, counters, masks.
/// Weights that are packed into integers are called what they are.
fn holds_weights(tensor: &Weights) -> bool {
    const INTEGERS: [&str; 9] = ["BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"];
    !INTEGERS.contains(&tensor.dtype)
        || ["weight", "packed", "blocks"].iter().any(|end| tensor.name.ends_with(end))
}

/// Bytes that a run and a tensor have in common.
fn overlap(start: u64, end: u64, tensor: &Weights) -> u64 {
    (tensor.offset + tensor.bytes).min(end).saturating_sub(tensor.offset.max(start))
}

fn covers(start: u64, end: u64, tensor: &Weights) -> bool {
    start <= tensor.offset && tensor.offset + tensor.bytes <= end
}

/// What of the tensor the run makes zero, if that can be innocent.
fn spare(start: u64, end: u64, tensor: &Weights, idle: &[(u64, u64)]) -> Option<String> {
    if tokens::is_table(&tensor.name)
        && let Some((first, behind)) = pieces(start, end, tensor, tensor.row_bytes)
    {
        let padding = behind == tensor.bytes / tensor.row_bytes;
        let unused = idle.iter().any(|&(from, to)| from <= first && behind <= to);
        return (padding || unused).then(|| format!("{} rows, from {first} on,", behind - first));
    }
    let [matrices, _, _, ..] = tensor.shape.as_slice() else { return None };
    let bytes = tensor.bytes.checked_div(*matrices).filter(|&bytes| bytes >= MIN_RUN_BYTES)?;
    let (first, behind) = pieces(start, end, tensor, bytes)?;
    Some(format!("{} of {matrices} matrices, from {first} on,", behind - first))
}

/// Which pieces of this size make up the part of the run within the tensor (the first, and the
/// one behind the last), give or take zeros that values beside them happen to have; `None` if
/// the run begins or ends inside one.
fn pieces(start: u64, end: u64, tensor: &Weights, bytes: u64) -> Option<(u64, u64)> {
    if bytes == 0 || bytes >= tensor.bytes {
        return None;
    }
    let inner_start = start.max(tensor.offset) - tensor.offset;
    let inner_end = end.min(tensor.offset + tensor.bytes) - tensor.offset;
    let (first, behind) = (inner_start.div_ceil(bytes), inner_end / bytes);
    let exact = first * bytes - inner_start <= CHANCE_BYTES && inner_end - behind * bytes <= CHANCE_BYTES;
    (first < behind && exact).then_some((first, behind))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::model::gguf::GgmlType;

    const ROW: u64 = 8 << 10;
    const AT: u64 = 4096;

    /// The code for rows of a tensor that are zero, and what it says; `extra` bytes around them are, too.
    fn code((name, shape): (&str, &[u64]), (from, to): (u64, u64), extra: u64) -> (String, String) {
        let bytes = ROW * shape.iter().rev().skip(1).product::<u64>();
        let tensor = |name: &str, offset, bytes| Weights {
            name: name.to_owned(),
            kind: Kind::Ggml(GgmlType::F16),
            dtype: "F16",
            shape: shape.to_vec(),
            row_bytes: ROW,
            offset,
            bytes,
        };
        let weights = [tensor(name, AT, bytes), tensor("last.weight", AT + bytes, ROW)];
        let tensors = Tensors { weights: &weights, data_offset: AT, idle: &[(3, 40)], members: &[] };
        let mut findings = Findings::default();
        judge(&[(AT + from * ROW - extra, AT + to * ROW + extra)], tensors, &[], &mut findings);
        let [finding] = findings.finish().try_into().unwrap();
        assert_eq!(finding.offset, Some(AT + from * ROW - extra));
        (finding.code, finding.message)
    }

    #[test]
    fn rows_of_zeros_are_judged_by_their_place() {
        let table = |name: &'static str| (name, [100, 4096].as_slice());
        for name in ["token_embd.weight", "output.weight", "model.embed_tokens.weight", "lm_head.weight"] {
            assert_eq!(code(table(name), (90, 100), 0).0, "zero-rows", "{name}: padding");
            assert_eq!(code(table(name), (90, 100), 9).0, "zero-rows", "{name}: padding, chance zeros");
            assert_eq!(code(table(name), (5, 30), 0).0, "zero-rows", "{name}: unused tokens");
            assert_eq!(code(table(name), (5, 41), 0).0, "zero-run", "{name}: a used token among them");
            assert_eq!(code(table(name), (50, 70), 0).0, "zero-run", "{name}: in the middle");
            assert_eq!(code(table(name), (0, 20), 0).0, "zero-run", "{name}: at the start");
            assert_eq!(code(table(name), (90, 100), 99).0, "zero-run", "{name}: no whole rows");
        }
        for name in ["blk.0.ffn_up.weight", "blk.0.attn_output.weight", "model.layers.0.mlp.up_proj.weight"] {
            for rows in [(0, 20), (50, 70), (90, 100)] {
                assert_eq!(code(table(name), rows, 0).0, "zero-run", "{name}: {rows:?}");
            }
        }
    }

    #[test]
    fn zeros_of_helpers_are_no_weights() {
        for (name, dtype, expected) in [
            ("x.bias", "F32", 1),
            ("x.weight", "I8", 1),
            ("x.qweight", "I32", 1),
            ("x.weight_packed", "I32", 1),
            ("x.gate_up_proj_blocks", "U8", 1),
            ("x.weight_format", "U8", 0),
            ("x.g_idx", "I32", 0),
            ("x.weight_zero_point", "I8", 0),
            ("x.num_batches_tracked", "I64", 0),
            ("x.mask", "BOOL", 0),
        ] {
            let tensor = Weights {
                name: name.to_owned(),
                kind: Kind::Ggml(GgmlType::I8),
                dtype,
                shape: vec![8],
                row_bytes: 8,
                offset: AT,
                bytes: 8,
            };
            let mut findings = Findings::default();
            judge(&[], Tensors::default(), &[&tensor], &mut findings);
            let codes: Vec<_> = findings.finish().into_iter().map(|finding| finding.code).collect();
            assert_eq!(codes, vec!["zero-tensor"; expected], "{name}");
        }
    }

    #[test]
    fn an_expert_of_zeros_is_like_a_tensor_of_zeros() {
        let experts = ("blk.0.ffn_up_exps.weight", [8, 16, 4096].as_slice());
        let (code_of_two, message) = code(experts, (32, 64), 0);
        assert_eq!(code_of_two, "zero-rows");
        assert!(message.starts_with("2 of 8 matrices, from 2 on,"), "{message}");
        assert_eq!(code(experts, (32, 56), 0).0, "zero-run");
        // Rows in a stack of small ones are no matrices.
        assert_eq!(code(("conv.weight", &[100, 4, 4096]), (32, 64), 0).0, "zero-run");
    }
}
