//! Streams of scores with a known mean, and how often a decider errs on them. Everything is
//! a function of a seed, so a rate that holds once holds always, on any number of threads.

use crate::{Decider, Decision, DecisionParams, Refusal, Result};

/// A small generator of uniform numbers (Steele, Lea and Flood's SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Different seeds give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn hit(&mut self, p: f64) -> f64 {
        f64::from(u8::from(self.uniform() < p))
    }
}

/// Where scores come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stream {
    /// One with this probability, else zero.
    Bernoulli(f64),
    /// Beta(k, n + 1 - k), made as the k-th smallest of n uniform numbers.
    Beta {
        /// Which order statistic.
        k: u8,
        /// Of how many.
        n: u8,
    },
    /// Hardly ever more than 0.01, but one time in a hundred 1.
    Skewed,
    /// Uniform between 0 and twice the mean.
    Smooth(f64),
    /// One half with twice the mean as probability, else zero.
    Spikes(f64),
    /// An adversary who keeps the conditional mean: constant while the past lies above
    /// it and at every third score, all or nothing otherwise.
    Alternating(f64),
    /// All or nothing with a probability that jumps from the first to the second value
    /// after 100 scores and back after every further 100.
    Drifting(f64, f64),
}

impl Stream {
    /// Mean of the conditional means of the first `n` scores.
    pub fn mean(self, n: u64) -> f64 {
        match self {
            Self::Bernoulli(mean) | Self::Smooth(mean) | Self::Spikes(mean) | Self::Alternating(mean) => mean,
            Self::Beta { k, n } => f64::from(k) / (f64::from(n) + 1.0),
            Self::Skewed => 0.01 + 0.99 * 0.005,
            Self::Drifting(one, other) => {
                let others = n / 200 * 100 + (n % 200).saturating_sub(100);
                (other * others as f64 + one * (n - others) as f64) / n as f64
            }
        }
    }

    /// Score number `n`, counted from one, after scores that sum to `sum`.
    pub fn draw(self, random: &mut Random, n: u64, sum: f64) -> f64 {
        match self {
            Self::Bernoulli(p) => random.hit(p),
            Self::Beta { k, n } => {
                let mut numbers: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
                numbers.sort_by(f64::total_cmp);
                numbers.get(usize::from(k).saturating_sub(1)).copied().unwrap_or(0.0)
            }
            Self::Skewed => {
                let small = random.uniform() * 0.01;
                if random.uniform() < 0.01 { 1.0 } else { small }
            }
            Self::Smooth(mean) => random.uniform() * 2.0 * mean,
            Self::Spikes(mean) => random.hit(2.0 * mean) / 2.0,
            Self::Alternating(mean) if n.is_multiple_of(3) || sum > mean * (n - 1) as f64 => mean,
            Self::Alternating(mean) => random.hit(mean),
            Self::Drifting(one, other) => {
                random.hit(if ((n - 1) / 100).is_multiple_of(2) { one } else { other })
            }
        }
    }
}

/// What happened over many runs, as shares of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// The interval left out the mean at some time.
    pub missed: f64,
    /// The run ended in SAME.
    pub same: f64,
    /// The run ended in DIFFERENT.
    pub different: f64,
    /// Scores to the verdict, or to `n_max`, on average.
    pub scores: f64,
}

/// What was counted in some runs.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    missed: u64,
    same: u64,
    different: u64,
    scores: u64,
}

/// Runs a decider `runs` times on `n_max` scores each, looking after every score, on all
/// cores. A look without an interval has missed nothing.
///
/// # Errors
/// What the decider says.
pub fn rates<D: Decider>(params: &DecisionParams, stream: Stream, runs: u32, seed: u64) -> Result<Rates> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let all: Vec<u32> = (0..runs).collect();
    let parts: Vec<Result<Counts>> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(all.len().div_ceil(cores).max(1))
            .map(|runs| {
                scope.spawn(move || {
                    let run = |&run: &u32| one_run::<D>(params, stream, seed, run);
                    runs.iter().map(run).try_fold(Counts::default(), |sum, run| run.map(|run| add(sum, run)))
                })
            })
            .collect();
        let lost = || Err(Refusal::Other("a thread of the simulation ended early".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    });
    let mut sum = Counts::default();
    for part in parts {
        sum = add(sum, part?);
    }
    let [missed, same, different, scores] =
        [sum.missed, sum.same, sum.different, sum.scores].map(|count| count as f64 / f64::from(runs));
    Ok(Rates { missed, same, different, scores })
}

fn add(a: Counts, b: Counts) -> Counts {
    Counts {
        missed: a.missed + b.missed,
        same: a.same + b.same,
        different: a.different + b.different,
        scores: a.scores + b.scores,
    }
}

fn one_run<D: Decider>(params: &DecisionParams, stream: Stream, seed: u64, run: u32) -> Result<Counts> {
    // Far apart in the generator's period, whatever the seed.
    let mut random = Random::new(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ u64::from(run) << 32);
    let (mut decider, mut sum, mut missed) = (D::start(params)?, 0.0, false);
    let mut decided = (Decision::Undecided, params.n_max);
    for n in 1..=params.n_max {
        let score = stream.draw(&mut random, n, sum);
        sum += score;
        let step = decider.step(score)?;
        let mean = stream.mean(n);
        // The stream's mean and the interval are rounded apart.
        let outside = |(lower, upper)| mean < lower - 1e-9 || mean > upper + 1e-9;
        missed |= step.interval.is_some_and(outside);
        if decided.0 == Decision::Undecided && step.decision != Decision::Undecided {
            decided = (step.decision, n);
        }
        // Without an interval nothing more can happen.
        if step.interval.is_none() && decided.0 != Decision::Undecided {
            break;
        }
    }
    Ok(Counts {
        missed: u64::from(missed),
        same: u64::from(decided.0 == Decision::Same),
        different: u64::from(decided.0 == Decision::Different),
        scores: decided.1,
    })
}

/// The most that a rate of at most `alpha` shows in `runs` runs: three standard errors more.
pub fn allowed(alpha: f64, runs: u32) -> f64 {
    alpha + 3.0 * (alpha * (1.0 - alpha) / f64::from(runs)).sqrt()
}

/// The worst streams with mean `null`: smooth, all or nothing, and spikes of one half.
pub fn worst_nulls(null: f64) -> [Stream; 3] {
    [Stream::Smooth(null), Stream::Bernoulli(null), Stream::Spikes(null)]
}

/// The streams over which intervals must hold: rare ones, a smooth one, a heavily skewed
/// one and the adversary's.
pub const COVERED: [Stream; 4] =
    [Stream::Bernoulli(0.01), Stream::Beta { k: 2, n: 9 }, Stream::Skewed, Stream::Alternating(0.1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_the_mean_they_say() {
        let all = [Stream::Drifting(0.02, 0.6), Stream::Smooth(0.05), Stream::Spikes(0.2)];
        for stream in COVERED.into_iter().chain(all) {
            let (mut random, mut sum) = (Random::new(7), 0.0);
            for n in 1..=200_050 {
                let score = stream.draw(&mut random, n, sum);
                assert!((0.0..=1.0).contains(&score));
                sum += score;
            }
            let (mean, seen) = (stream.mean(200_050), sum / 200_050.0);
            assert!((mean - seen).abs() < 4.0 * 0.5 / 200_050.0_f64.sqrt(), "{stream:?}: {seen} for {mean}");
        }
        assert_eq!(Stream::Drifting(0.0, 1.0).mean(100), 0.0);
        assert_eq!(Stream::Drifting(0.0, 1.0).mean(150), 1.0 / 3.0);
        assert_eq!(Stream::Drifting(0.0, 1.0).mean(300), 1.0 / 3.0);
    }
}
