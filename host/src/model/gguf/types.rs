//! The ggml tensor types: file ids, names, and how many bytes a block of weights takes.
//!
//! A row of a quantised tensor is a whole number of blocks. Types that llama.cpp removed
//! from files (Q4_2, Q4_3, the Q4_0_x_y and IQ4_NL_x_y repackings) are deliberately absent:
//! no current runtime reads them.

/// Storage type of a tensor in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "these are the names the whole ecosystem uses")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

use GgmlType::*;

/// (type, id in the file, name, weights per block, bytes per block)
const TABLE: [(GgmlType, u32, &str, u64, u64); 35] = [
    (F32, 0, "F32", 1, 4),
    (F16, 1, "F16", 1, 2),
    (Q4_0, 2, "Q4_0", 32, 18),
    (Q4_1, 3, "Q4_1", 32, 20),
    (Q5_0, 6, "Q5_0", 32, 22),
    (Q5_1, 7, "Q5_1", 32, 24),
    (Q8_0, 8, "Q8_0", 32, 34),
    (Q8_1, 9, "Q8_1", 32, 36),
    (Q2_K, 10, "Q2_K", 256, 84),
    (Q3_K, 11, "Q3_K", 256, 110),
    (Q4_K, 12, "Q4_K", 256, 144),
    (Q5_K, 13, "Q5_K", 256, 176),
    (Q6_K, 14, "Q6_K", 256, 210),
    (Q8_K, 15, "Q8_K", 256, 292),
    (IQ2_XXS, 16, "IQ2_XXS", 256, 66),
    (IQ2_XS, 17, "IQ2_XS", 256, 74),
    (IQ3_XXS, 18, "IQ3_XXS", 256, 98),
    (IQ1_S, 19, "IQ1_S", 256, 50),
    (IQ4_NL, 20, "IQ4_NL", 32, 18),
    (IQ3_S, 21, "IQ3_S", 256, 110),
    (IQ2_S, 22, "IQ2_S", 256, 82),
    (IQ4_XS, 23, "IQ4_XS", 256, 136),
    (I8, 24, "I8", 1, 1),
    (I16, 25, "I16", 1, 2),
    (I32, 26, "I32", 1, 4),
    (I64, 27, "I64", 1, 8),
    (F64, 28, "F64", 1, 8),
    (IQ1_M, 29, "IQ1_M", 256, 56),
    (BF16, 30, "BF16", 1, 2),
    (TQ1_0, 34, "TQ1_0", 256, 54),
    (TQ2_0, 35, "TQ2_0", 256, 66),
    (MXFP4, 39, "MXFP4", 32, 17),
    (NVFP4, 40, "NVFP4", 64, 36),
    (Q1_0, 41, "Q1_0", 128, 18),
    (Q2_0, 42, "Q2_0", 64, 18),
];

impl GgmlType {
    /// The type with this id in a file; `None` for unknown and for removed types.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// The type with this name; `None` for unknown and for removed types.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    fn row(self) -> (u32, &'static str, u64, u64) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .map_or((u32::MAX, "?", 1, 0), |&(_, id, name, block, bytes)| (id, name, block, bytes))
    }

    /// The id written in files.
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// The name as people write it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Weights per block.
    pub fn block(self) -> u64 {
        self.row().2
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> u64 {
        self.row().3
    }

    /// Is there a quantiser for it in ggml? Not for floats, integers, and what intermediate results
    /// are held in.
    pub fn has_quantizer(self) -> bool {
        self.block() > 1 && !matches!(self, Q8_1 | Q8_K)
    }

    /// Does that quantiser do nothing without an importance matrix?
    pub fn needs_importance(self) -> bool {
        matches!(self, IQ2_XXS | IQ2_XS | IQ1_S)
    }

    /// Bytes of `elements` weights; `None` if they are not whole blocks or the size overflows.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block()) {
            return None;
        }
        (elements / self.block()).checked_mul(self.block_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_in_the_table_once() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(
                TABLE.iter().filter(|other| other.0 == row.0 || other.1 == row.1).count(),
                1,
                "row {i}"
            );
            assert_eq!(GgmlType::from_id(row.0.id()), Some(row.0));
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::from_id(removed), None);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(Q8_0.bytes(64), Some(68));
        assert_eq!(Q8_0.bytes(65), None);
        assert_eq!(F32.bytes(u64::MAX), None);
        assert_eq!(Q4_K.bytes(4096), Some(2304));
        assert_eq!(IQ4_XS.bytes(256), Some(136));
    }
}
