//! The K types of ggml: 256 weights in sub-blocks, whose small integer scales share one
//! or two binary16 ones. Decoding only: finding the scales is a search that differs from
//! version to version, but codes are always the nearest ones under the scales stored.

use super::decode::{Clamp, Weight, clamped, place, split};
use super::half::f16_to_f32;
use crate::model::gguf::GgmlType;

const SUPER: usize = 256;

/// Appends the weights of whole super-blocks.
pub(super) fn decode(kind: GgmlType, bytes: &[u8], out: &mut Vec<Weight>) {
    match kind {
        GgmlType::Q2_K => bytes.as_chunks::<84>().0.iter().for_each(|block| q2(block, out)),
        GgmlType::Q3_K => bytes.as_chunks::<110>().0.iter().for_each(|block| q3(block, out)),
        GgmlType::Q4_K => bytes.as_chunks::<144>().0.iter().for_each(|block| q4_q5(block, false, out)),
        GgmlType::Q5_K => bytes.as_chunks::<176>().0.iter().for_each(|block| q4_q5(block, true, out)),
        GgmlType::Q6_K => bytes.as_chunks::<210>().0.iter().for_each(|block| q6(block, out)),
        _ => {}
    }
}

fn half(raw: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(raw))
}

#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q2(block: &[u8; 84], out: &mut Vec<Weight>) {
    let (scale, least) = (half([block[80], block[81]]), half([block[82], block[83]]));
    for i in 0..SUPER {
        // 128 weights share 32 bytes, two bits at a time; a scale serves 16 weights.
        let (part, within) = (i / 128, i % 128);
        let code = block[16 + part * 32 + within % 32] >> (2 * (within / 32)) & 3;
        let scales = block[i / 16];
        let step = scale * f32::from(scales & 15);
        let value = step * f32::from(code) - least * f32::from(scales >> 4);
        out.push(clamped(value, step, place(code, 3), 3.0));
    }
}

#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q3(block: &[u8; 110], out: &mut Vec<Weight>) {
    let scale = half([block[108], block[109]]);
    let scales: &[u8; 12] = block[96..108].first_chunk().unwrap_or(&[0; 12]);
    for i in 0..SUPER {
        let (part, within) = (i / 128, i % 128);
        let low = block[32 + part * 32 + within % 32] >> (2 * (within / 32)) & 3;
        let high = block[within % 32] >> (part * 4 + within / 32) & 1;
        let code = low | high << 2;
        // Low four bits of scales 0 to 7 and 8 to 15 share bytes; two bits each follow.
        let sub = i / 16;
        let low = if sub < 8 { scales[sub] & 15 } else { scales[sub - 8] >> 4 };
        let high = scales[8 + sub % 4] >> (2 * (sub / 4)) & 3;
        let step = scale * (f32::from(low | high << 4) - 32.0);
        out.push(clamped(step * (f32::from(code) - 4.0), step, place(code, 7), 7.0));
    }
}

/// Scale and minimum of sub-block `sub` from 12 bytes of 6-bit numbers.
#[expect(clippy::indexing_slicing, reason = "sub is below 8")]
fn six_bits(scales: &[u8; 12], sub: usize) -> (f32, f32) {
    let (scale, least) = if sub < 4 {
        (scales[sub] & 63, scales[sub + 4] & 63)
    } else {
        (scales[sub + 4] & 15 | scales[sub - 4] >> 6 << 4, scales[sub + 4] >> 4 | scales[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

#[expect(clippy::indexing_slicing, reason = "every index is below the length of a checked slice")]
fn q4_q5(block: &[u8], five: bool, out: &mut Vec<Weight>) {
    let (scale, rest) = split::<2>(block);
    let (least, rest) = split::<2>(rest);
    let (scales, rest) = split::<12>(rest);
    let (fifth, codes) = if five { rest.split_at(32) } else { (&[][..], rest) };
    let (scale, least) = (half(*scale), half(*least));
    let most = if five { 31 } else { 15 };
    for i in 0..SUPER {
        // 64 weights share 32 bytes: low halves first.
        let (sub, byte) = (i / 32, i / 64 * 32 + i % 32);
        let mut code = codes[byte] >> (4 * (sub % 2)) & 15;
        if five {
            code |= (fifth[i % 32] >> sub & 1) << 4;
        }
        let (factor, offset) = six_bits(scales, sub);
        let step = scale * factor;
        out.push(clamped(step * f32::from(code) - least * offset, step, place(code, most), f32::from(most)));
    }
}

#[expect(clippy::indexing_slicing, reason = "every index is below the length of a fixed array")]
fn q6(block: &[u8; 210], out: &mut Vec<Weight>) {
    let scale = half([block[208], block[209]]);
    for i in 0..SUPER {
        let (part, within) = (i / 128, i % 128);
        let low = block[part * 64 + within % 64] >> (4 * (within / 64)) & 15;
        let high = block[128 + part * 32 + within % 32] >> (2 * (within / 32)) & 3;
        let code = low | high << 4;
        let step = scale * f32::from(block[192 + i / 16].cast_signed());
        let place: Clamp = place(code, 63);
        out.push(clamped(step * (f32::from(code) - 32.0), step, place, 63.0));
    }
}
