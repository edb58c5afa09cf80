//! A matrix of weights as it is held: in F32, or in blocks of eight bits.
//!
//! Eight bits are ggml's Q8_0: 32 values of a row and one scale. What is multiplied with such a
//! matrix is rounded to the same blocks, row by row, so a row's result does not depend on the
//! rows beside it. Candle's own `QTensor` is not used: on processors with VNNI it keeps a second,
//! repacked copy of the weights from the first product on, twice the memory.

use std::sync::Arc;

use candle_core::quantized::k_quants::{BlockQ8_0, GgmlType as _, QK8_0, matmul};
use candle_core::{Device, Result as Computed, Tensor, bail};

/// Values that are read and rounded at once while loading.
pub(super) const SLAB: usize = 1 << 18;

/// The largest magnitude that a block's scale of 16 bits can hold.
const LARGEST: f32 = 65_504.0 * 127.0;

/// The output dimension is first.
#[derive(Debug, Clone)]
pub(super) enum Matrix {
    Wide(Tensor),
    Eight(Eight),
}

/// Rows of blocks.
#[derive(Debug, Clone)]
pub(super) struct Eight {
    rows: usize,
    columns: usize,
    /// Shared where the output matrix is the embedding.
    blocks: Arc<Vec<BlockQ8_0>>,
}

/// Bytes that a matrix of this shape takes in eight bits.
pub(super) fn eight_bytes(rows: usize, columns: usize) -> u64 {
    (rows as u64).saturating_mul((columns / QK8_0) as u64).saturating_mul(size_of::<BlockQ8_0>() as u64)
}

impl Matrix {
    /// Eight bits of the rows that `read` gives: it is called with the first of some rows and
    /// their number, in order, `step` rows at a time, so that only those are ever wide.
    ///
    /// # Errors
    /// Rows are not made of whole blocks, a value is not finite or too large, or `read` failed.
    pub fn eight(
        [rows, columns]: [usize; 2],
        step: usize,
        read: &mut dyn FnMut(usize, usize) -> Result<Tensor, String>,
    ) -> Result<Self, String> {
        if columns == 0 || columns % QK8_0 != 0 {
            return Err(format!("its rows of {columns} values are no multiple of {QK8_0}, as 8 bits need"));
        }
        let mut blocks = vec![BlockQ8_0::zeros(); rows * (columns / QK8_0)];
        let step = step.clamp(1, rows.max(1));
        let mut first = 0;
        for part in blocks.chunks_mut(step * (columns / QK8_0)) {
            let count = step.min(rows - first);
            let wide = read(first, count)?.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            let wide = wide.map_err(|error| error.to_string())?;
            // Rounding would hide what is not a number, and a scale must be one.
            if !wide.iter().all(|value| value.abs() <= LARGEST) {
                return Err("it has values that are not finite, or too large for 8 bits".to_owned());
            }
            if wide.len() != part.len() * QK8_0 {
                return Err(format!("{} values were read for {count} rows", wide.len()));
            }
            BlockQ8_0::from_float(&wide, part);
            first += count;
        }
        Ok(Self::Eight(Eight { rows, columns, blocks: Arc::new(blocks) }))
    }

    /// `x` times this matrix, transposed: a row for each row of `x`.
    pub fn times(&self, x: &Tensor) -> Computed<Tensor> {
        match self {
            Self::Wide(weight) => x.matmul(&weight.t()?),
            Self::Eight(eight) => eight.times(x),
        }
    }

    /// The rows with these numbers.
    pub fn look_up(&self, numbers: &[u32]) -> Computed<Tensor> {
        match self {
            Self::Wide(weight) => {
                weight.index_select(&Tensor::from_slice(numbers, numbers.len(), weight.device())?, 0)
            }
            Self::Eight(eight) => eight.look_up(numbers),
        }
    }

    /// Some rows that follow one another, as a matrix of their own.
    pub fn part(&self, first: usize, count: usize) -> Computed<Self> {
        match self {
            Self::Wide(weight) => Ok(Self::Wide(weight.narrow(0, first, count)?.contiguous()?)),
            Self::Eight(Eight { columns, blocks, .. }) => {
                let row = columns / QK8_0;
                match blocks.get(first * row..(first + count) * row) {
                    Some(part) => {
                        let blocks = Arc::new(part.to_vec());
                        Ok(Self::Eight(Eight { rows: count, columns: *columns, blocks }))
                    }
                    None => bail!("there are no {count} rows from {first} on"),
                }
            }
        }
    }
}

impl Eight {
    fn times(&self, x: &Tensor) -> Computed<Tensor> {
        let Self { rows, columns, blocks } = self;
        let (count, width) = x.dims2()?;
        if width != *columns {
            bail!("rows of {width} values for a matrix of {columns} columns");
        }
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let mut out = vec![0f32; count * rows];
        matmul((count, *columns, *rows), &values, blocks, &mut out)?;
        // Rounded, what is not a number would look like one.
        for (values, out) in values.chunks_exact(*columns).zip(out.chunks_exact_mut((*rows).max(1))) {
            if !values.iter().all(|value| value.is_finite()) {
                out.fill(f32::NAN);
            }
        }
        Tensor::from_vec(out, (count, *rows), &Device::Cpu)
    }

    fn look_up(&self, numbers: &[u32]) -> Computed<Tensor> {
        let row = self.columns / QK8_0;
        let mut out = vec![0f32; numbers.len() * self.columns];
        for (&number, out) in numbers.iter().zip(out.chunks_exact_mut(self.columns)) {
            let first = number as usize * row;
            match self.blocks.get(first..first + row) {
                Some(blocks) => BlockQ8_0::to_float(blocks, out),
                None => bail!("row {number} of {}", self.rows),
            }
        }
        Tensor::from_vec(out, (numbers.len(), self.columns), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values in blocks whose largest is a power of two times 127, so that rounding is exact by hand.
    fn tensor(rows: usize, columns: usize) -> Tensor {
        let value = |at: usize| (((at * 37) % 255) as f32 - 127.0) / 64.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn eight(wide: &Tensor, step: usize) -> Matrix {
        let (rows, columns) = wide.dims2().unwrap();
        Matrix::eight([rows, columns], step, &mut |first, count| Ok(wide.narrow(0, first, count).unwrap()))
            .unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Every value within half a step of its block, whatever was read at once.
    #[test]
    fn rounding_is_within_half_a_step_and_the_same_in_any_slabs() {
        let wide = tensor(7, 96);
        let whole = values(&eight(&wide, 7).look_up(&[0, 1, 2, 3, 4, 5, 6]).unwrap());
        for (stored, rounded) in values(&wide).chunks(32).zip(whole.chunks(32)) {
            let largest = stored.iter().fold(0f32, |most, value| most.max(value.abs()));
            // Half a step of the block, and the scale's own rounding to 11 bits.
            let allowed = largest / 127.0 / 2.0 + largest / 2048.0;
            assert!(stored.iter().zip(rounded).all(|(a, b)| (a - b).abs() <= allowed));
        }
        for step in [1, 2, 3, 100] {
            assert_eq!(values(&eight(&wide, step).look_up(&[0, 1, 2, 3, 4, 5, 6]).unwrap()), whole);
        }
        let part = eight(&wide, 2).part(2, 3).unwrap();
        assert_eq!(values(&part.look_up(&[0, 2]).unwrap()), [&whole[192..288], &whole[384..480]].concat());
        assert!(eight(&wide, 2).part(5, 3).is_err() && part.look_up(&[3]).is_err());
    }

    #[test]
    fn products_are_near_and_a_row_does_not_know_of_others() {
        let wide = tensor(67, 96);
        let x = tensor(5, 96);
        let exact = values(&Matrix::Wide(wide.clone()).times(&x).unwrap());
        let near = values(&eight(&wide, 10).times(&x).unwrap());
        let worst = exact.iter().zip(&near).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < 0.5, "{worst}");
        for row in 0..5 {
            let alone = values(&eight(&wide, 10).times(&x.narrow(0, row, 1).unwrap()).unwrap());
            assert_eq!(alone, near[row * 67..(row + 1) * 67]);
        }
    }

    #[test]
    fn nothing_that_is_no_number_is_rounded_to_one() {
        for bad in [f32::NAN, f32::INFINITY, 1e9] {
            let mut stored = values(&tensor(2, 32));
            stored[40] = bad;
            let stored = Tensor::from_vec(stored, (2, 32), &Device::Cpu).unwrap();
            let refused =
                Matrix::eight([2, 32], 1, &mut |first, count| Ok(stored.narrow(0, first, count).unwrap()));
            assert!(refused.unwrap_err().contains("not finite"), "{bad}");
        }
        let mut x = values(&tensor(2, 32));
        x[3] = f32::NAN;
        let out = values(
            &eight(&tensor(4, 32), 4).times(&Tensor::from_vec(x, (2, 32), &Device::Cpu).unwrap()).unwrap(),
        );
        assert!(
            out[..4].iter().all(|value| value.is_nan()) && out[4..].iter().all(|value| value.is_finite())
        );
        let odd = Matrix::eight([1, 48], 1, &mut |_, _| Err(String::new()));
        assert!(odd.unwrap_err().contains("48 values"));
    }
}
