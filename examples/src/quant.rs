//! f32 weights to the bytes of a GGUF tensor, by ggml's own rounding rules.

use assayd::model::gguf::GgmlType;
use half::f16;

/// Weights in a block of the quantised types here.
const BLOCK: usize = 32;

/// `values` as bytes of `kind`; nothing for a type that this program does not write.
/// Rows must be whole blocks, which holds for every shape made here.
pub(crate) fn encode(values: &[f32], kind: GgmlType) -> Option<Vec<u8>> {
    let blocks = || values.as_chunks::<BLOCK>().0.iter();
    Some(match kind {
        GgmlType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        GgmlType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        GgmlType::Q8_0 => blocks().flat_map(q8_0).collect(),
        GgmlType::Q4_0 => blocks().flat_map(q4_0).collect(),
        _ => return None,
    })
}

/// Scale max|x| / 127 as f16, then 32 signed bytes x / scale, rounded half away from zero.
/// The scale that divides is the f32 one, before it is rounded to f16.
fn q8_0(block: &[f32; BLOCK]) -> [u8; 34] {
    let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    let mut out = [0; 34];
    let quants = block.iter().map(|x| (x * inverse).round() as i8 as u8);
    let bytes = f16::from_f32(scale).to_le_bytes().into_iter().chain(quants);
    out.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    out
}

/// Scale x / -8 as f16 where x is the weight of the largest magnitude, then 16 bytes: the
/// low half holds weight i, the high half weight i + 16, each x / scale + 8, cut at 15.
fn q4_0(block: &[f32; BLOCK]) -> [u8; 18] {
    let largest = block.iter().fold(0.0_f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
    let quant = |x: &f32| ((x * inverse + 8.5) as i8).min(15) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    let mut out = [0; 18];
    let quants = low.iter().zip(high).map(|(l, h)| quant(l) | quant(h) << 4);
    let bytes = f16::from_f32(scale).to_le_bytes().into_iter().chain(quants);
    out.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> [f32; BLOCK] {
        std::array::from_fn(|i| (i as f32 - 20.0) / 16.0)
    }

    #[test]
    fn q8_0_comes_back_within_half_a_step() {
        let block = ramp();
        let bytes = encode(&block, GgmlType::Q8_0).unwrap();
        assert_eq!(bytes.len(), 34);
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        for (x, &q) in block.iter().zip(&bytes[2..]) {
            let back = f32::from(q as i8) * scale;
            // Half a step, and the rounding of the scale itself to f16.
            assert!((x - back).abs() <= scale * 0.5 + x.abs() / 1024.0, "{x} {back}");
        }
        assert_eq!(bytes[2] as i8, -127, "the largest weight takes the whole range");
        assert_eq!(encode(&[0.0; BLOCK], GgmlType::Q8_0).unwrap(), vec![0; 34]);
    }

    #[test]
    fn q4_0_comes_back_within_one_step() {
        let block = ramp();
        let bytes = encode(&block, GgmlType::Q4_0).unwrap();
        assert_eq!(bytes.len(), 18);
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        for (i, x) in block.iter().enumerate() {
            let byte = bytes[2 + i % 16];
            let q = if i < 16 { byte & 15 } else { byte >> 4 };
            let back = (f32::from(q) - 8.0) * scale;
            assert!((x - back).abs() <= scale.abs() * 1.01, "{x} {back}");
        }
        assert_eq!(bytes[2] & 15, 0, "the weight of the largest magnitude becomes -8");
    }

    #[test]
    fn plain_types_keep_their_width() {
        assert_eq!(encode(&[1.0, -2.0], GgmlType::F32).unwrap(), [0, 0, 128, 63, 0, 0, 0, 192]);
        assert_eq!(encode(&[1.0, -2.0], GgmlType::F16).unwrap(), [0, 60, 0, 192]);
        assert!(encode(&[1.0], GgmlType::Q6_K).is_none());
    }
}
