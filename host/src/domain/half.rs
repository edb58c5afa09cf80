//! The two 16-bit float formats, bit by bit (IEEE 754 binary16, and bfloat16), rounded to
//! nearest with ties to even as ggml, numpy and PyTorch do.

/// The value of a binary16 pattern. Without branches, so that many are converted at once.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    // Sign and magnitude in their places; the exponents of binary32 begin 112 lower. A product
    // with a power of two is exact, and normal where the pattern was not.
    let placed = (i32::from(bits.cast_signed()) << 13).cast_unsigned() & 0x8fff_e000;
    let finite = f32::from_bits(placed) * f32::from_bits((127 + 112) << 23);
    // The greatest exponent is for what is infinite or no number.
    let all = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | all)
}

/// The binary16 pattern nearest to a value. Without branches, so that many are converted at once.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "every choice leaves 15 bits or fewer")]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // Beside one half the spacing of f32 is that of subnormal binary16.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = ((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13).wrapping_sub(112 << 10);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    // From 65,520 on the nearest is infinity.
    let number = if magnitude < 0x477f_f000 { finite } else { 0x7c00 };
    sign | if magnitude > 0x7f80_0000 { 0x7e00 } else { number as u16 }
}

/// The value of a bfloat16 pattern.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bfloat16 pattern nearest to a value.
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // Only what is not a number comes near the largest pattern.
    let number = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if value.is_nan() { (bits >> 16) as u16 | 64 } else { number }
}

/// Half the distance between the binary16 numbers around `value`.
#[inline]
pub fn f16_half_step(value: f32) -> f32 {
    // The exponent alone, times 2^-11; subnormal numbers are 2^-24 apart.
    let power = f32::from_bits(value.to_bits() & 0x7f80_0000);
    (power * f32::from_bits(0x3a00_0000)).max(f32::from_bits(0x3300_0000))
}

/// Half the distance between the bfloat16 numbers around `value`.
#[inline]
pub fn bf16_half_step(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & 0x7f80_0000) * f32::from_bits(0x3b80_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_survives_a_round_trip() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if !value.is_nan() {
                assert_eq!(f32_to_f16(value), bits, "{bits:#x}");
                assert!(value.is_infinite() || f16_half_step(value) > 0.0);
            }
            let value = bf16_to_f32(bits);
            if !value.is_nan() {
                assert_eq!(f32_to_bf16(value), bits, "{bits:#x}");
            }
        }
    }

    #[test]
    fn between_two_numbers_the_nearest_and_then_the_even_one() {
        for low in (0..0x7bffu16).chain(0x8000..0xfbff) {
            let (a, b) = (f64::from(f16_to_f32(low)), f64::from(f16_to_f32(low + 1)));
            let at = |part: f64| f32_to_f16((a + (b - a) * part) as f32);
            let even = low + (low & 1);
            assert_eq!((at(0.25), at(0.5), at(0.75)), (low, even, low + 1), "{low:#x}");
            let half = f64::from(f16_half_step(a as f32));
            assert!((half - (b - a).abs() / 2.0).abs() < 1e-12, "{low:#x}");
        }
        for (value, bits) in [(65519.0, 0x7bff), (65520.0, 0x7c00), (1e9, 0x7c00), (-1e9, 0xfc00), (1e-9, 0)]
        {
            assert_eq!(f32_to_f16(value), bits, "{value}");
        }
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80, "a tie goes to the even one");
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8001)), 0x3f81);
    }
}
