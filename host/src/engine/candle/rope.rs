//! Rotary positions: the frequencies, and how far they are stretched.
//!
//! Frequency `i` of `d` rotated values is `theta^(-2i/d)` (Su et al. 2021, section 3.4.3); two
//! values half a head apart form a pair, as Hugging Face stores them. Angles are computed in
//! f64 and rounded once. Stretching: `linear` divides every frequency by the factor (Chen et
//! al. 2023); `llama3` divides those with long waves and blends in between (the Llama 3.1
//! release, `rope_type` "llama3" in transformers). Other types are an error.

use candle_core::{Device, Result as Computed, Tensor};
use serde_json::Value;

use super::config::{Raw, real};

/// How frequencies are stretched for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

/// Rotary positions of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rope {
    /// Values of a head that are rotated; even.
    pub dims: usize,
    theta: f64,
    scaling: Scaling,
}

impl Rope {
    /// # Errors
    /// A rope type that is not supported, or a number out of range; both are named.
    pub fn parse(raw: &Raw, dims: usize) -> Result<Self, String> {
        let section = raw.rope_section()?;
        let entry = |key: &str| section.map_or(Ok(None), |section| real(section, key));
        let needed = |key: &str| {
            entry(key)?.filter(|&value| value > 0.0).ok_or(format!("rope scaling needs a positive {key}"))
        };
        let theta = entry("rope_theta")?.or(raw.real("rope_theta")?).unwrap_or(10_000.0);
        if theta < 1.0 {
            return Err(format!("rope_theta is {theta}, below 1"));
        }
        let kind = section
            .and_then(|section| section.get("rope_type").or_else(|| section.get("type")))
            .filter(|kind| !kind.is_null());
        let kind = match kind {
            None if entry("factor")?.is_some() => return Err("rope scaling has no rope_type".to_owned()),
            None => "default",
            Some(Value::String(kind)) => kind,
            Some(kind) => return Err(format!("rope_type is {kind}, not a name")),
        };
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: needed("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: needed("original_max_position_embeddings")?,
            },
            other => {
                return Err(format!(
                    "the rope type {other:?} is not supported; supported are default, linear and llama3"
                ));
            }
        };
        if let Scaling::Llama3 { low, high, .. } = scaling
            && low >= high
        {
            return Err(format!("low_freq_factor {low} is not below high_freq_factor {high}"));
        }
        Ok(Self { dims, theta, scaling })
    }

    /// Radians per position of each pair.
    fn frequencies(&self) -> Vec<f64> {
        let plain = (0..self.dims / 2).map(|pair| self.theta.powf(-2.0 * pair as f64 / self.dims as f64));
        plain
            .map(|frequency| match self.scaling {
                Scaling::None => frequency,
                Scaling::Linear { factor } => frequency / factor,
                Scaling::Llama3 { factor, low, high, original } => {
                    let wave = std::f64::consts::TAU / frequency;
                    if wave < original / high {
                        frequency
                    } else if wave > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wave - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            })
            .collect()
    }

    /// Cosines and sines, `positions` rows of one value per pair.
    pub fn tables(&self, positions: usize, device: &Device) -> Computed<(Tensor, Tensor)> {
        let frequencies = self.frequencies();
        let angles =
            || (0..positions).flat_map(|at| frequencies.iter().map(move |frequency| at as f64 * frequency));
        let shape = (positions, frequencies.len());
        let cos: Vec<f32> = angles().map(|angle| angle.cos() as f32).collect();
        let sin: Vec<f32> = angles().map(|angle| angle.sin() as f32).collect();
        Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        // Llama 3.1: theta 500000, heads of 128, factor 8, 1 and 4, original context 8192.
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let scaled = Rope { dims: 128, theta: 500_000.0, scaling }.frequencies();
        let plain = Rope { dims: 128, theta: 500_000.0, scaling: Scaling::None }.frequencies();
        assert_eq!(scaled[0], 1.0);
        // Waves below 2048 positions stay, those above 8192 are 8 times as long.
        for (pair, (&scaled, &plain)) in scaled.iter().zip(&plain).enumerate() {
            let wave = std::f64::consts::TAU / plain;
            if wave < 2048.0 {
                assert_eq!(scaled, plain, "{pair}");
            } else if wave > 8192.0 {
                assert_eq!(scaled, plain / 8.0, "{pair}");
            } else {
                assert!(scaled < plain && scaled > plain / 8.0, "{pair}");
            }
        }
        // Pair 30: wave 2951.3; smooth = (8192/2951.3 - 1)/3.
        let smooth = (8192.0 * plain[30] / std::f64::consts::TAU - 1.0) / 3.0;
        assert!((scaled[30] - plain[30] * ((1.0 - smooth) / 8.0 + smooth)).abs() < 1e-15);
        let linear =
            Rope { dims: 128, theta: 500_000.0, scaling: Scaling::Linear { factor: 2.0 } }.frequencies();
        assert!(linear.iter().zip(&plain).all(|(linear, plain)| *linear == plain / 2.0));
    }
}
