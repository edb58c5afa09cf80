//! Mean, spread and quantiles of a sample, and an exact bound on a rate.
//!
//! A value that is not defined (the spread of one number, a quantile of none) is `None`,
//! never 0 and never infinite.

/// A running mean and sum of squared deviations (Welford 1962).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut moments = Self::default();
        values.into_iter().for_each(|value| moments.push(value));
        moments
    }

    pub fn push(&mut self, value: f64) {
        self.n += 1;
        let before = value - self.mean;
        self.mean += before / self.n as f64;
        self.squares += before * (value - self.mean);
    }

    pub fn n(&self) -> u64 {
        self.n
    }

    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }

    /// Standard deviation with n - 1; undefined below two values.
    pub fn std(&self) -> Option<f64> {
        (self.n >= 2).then(|| (self.squares / (self.n as f64 - 1.0)).sqrt())
    }

    /// Standard error of the mean, `sqrt((mean of squares - mean^2) / (n - 1))`; the same as
    /// standard deviation by root of n. Undefined below two values.
    pub fn stderr(&self) -> Option<f64> {
        self.std().map(|std| std / (self.n as f64).sqrt())
    }
}

/// Standard error of the mean of all values when only groups of them are independent: with
/// group sums `S`, sizes `m`, `k` groups and `n` values of mean `f`,
/// `sqrt(k / (k - 1) * sum (S - m f)^2) / n` (Cochran 1977, eq. 11.30, without the correction
/// for a finite population). Undefined below two groups.
pub fn clustered_stderr(values: &[f64], groups: &[usize]) -> Option<f64> {
    let mean = Moments::of(values.iter().copied()).mean()?;
    let k = groups.len() as f64;
    let mut rest = values;
    let mut squares = 0.0;
    for &size in groups {
        let (group, after) = rest.split_at_checked(size)?;
        rest = after;
        let off: f64 = group.iter().map(|value| value - mean).sum();
        squares += off * off;
    }
    (rest.is_empty() && groups.len() >= 2).then(|| (k / (k - 1.0) * squares).sqrt() / values.len() as f64)
}

/// The `f` quantile of values in rising order: position `f (n - 1)`, with linear interpolation
/// (as llama.cpp's perplexity tool and numpy's default).
pub fn quantile(sorted: &[f64], f: f64) -> Option<f64> {
    let position = f.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let low = *sorted.get(position.floor() as usize)?;
    let high = *sorted.get(position.ceil() as usize)?;
    let part = position.fract();
    Some((1.0 - part) * low + part * high)
}

/// Standard error of the `f` quantile by Woodruff's method (JASA 1952): the 95 % interval
/// between the order statistics at `n f ± 1.96 sqrt(n f (1 - f))`, as half widths of 1.96.
/// Undefined where that interval leaves the sample, which then says nothing of that end.
pub fn quantile_stderr(sorted: &[f64], f: f64) -> Option<f64> {
    const Z: f64 = 1.959_963_984_540_054;
    let n = sorted.len() as f64;
    let half = Z * (n * f * (1.0 - f)).sqrt();
    let (low, high) = ((n * f - half).floor(), (n * f + half).ceil());
    if low < 0.0 || high >= n {
        return None;
    }
    let (low, high) = (sorted.get(low as usize)?, sorted.get(high as usize)?);
    Some((high - low) / (2.0 * Z))
}

/// The exact lower bound at confidence `1 - alpha` on a rate of which `passed` of `total`
/// independent trials passed (Clopper and Pearson 1934, one-sided): the rate at which so
/// many or more passes have probability `alpha`. 0 when none passed; undefined without trials.
pub fn rate_lower_bound(passed: u64, total: u64, alpha: f64) -> Option<f64> {
    if total == 0 || passed > total {
        return None;
    }
    if passed == 0 {
        return Some(0.0);
    }
    // P(X >= passed) rises with the rate, so the root is found by bisection.
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if upper_tail(passed, total, middle) > alpha { high = middle } else { low = middle }
    }
    Some(low)
}

/// P(X >= k) of a binomial with `n` trials at `rate` in (0, 1), term by term from the top.
fn upper_tail(k: u64, n: u64, rate: f64) -> f64 {
    let odds = (1.0 - rate) / rate;
    // The logarithm, because the power itself may be too small to be told from 0.
    let mut log_term = n as f64 * rate.ln();
    let mut tail = 0.0;
    for passed in (k..=n).rev() {
        tail += log_term.exp();
        log_term += (passed as f64 / (n - passed + 1) as f64 * odds).ln();
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_by_hand() {
        let m = Moments::of([0.1, 0.2, 0.6]);
        assert!((m.mean().unwrap() - 0.3).abs() < 1e-15);
        assert!((m.std().unwrap() - 0.07_f64.sqrt()).abs() < 1e-15);
        assert!((m.stderr().unwrap() - (0.07_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Moments::of([0.5]).std(), None);
        assert_eq!(Moments::default().mean(), None);
    }

    #[test]
    fn groups_that_move_together_count_once() {
        // Two groups of two: 0, 0 and 1, 1. As four values: sd sqrt(1/3), error sqrt(1/12).
        // As two groups of mean 1/2: sums off by -1 and 1, so sqrt(2/1 * 2) / 4 = 1/2.
        let values = [0.0, 0.0, 1.0, 1.0];
        assert!((Moments::of(values).stderr().unwrap() - (1.0_f64 / 12.0).sqrt()).abs() < 1e-15);
        assert!((clustered_stderr(&values, &[2, 2]).unwrap() - 0.5).abs() < 1e-15);
        assert_eq!(clustered_stderr(&values, &[4]), None);
        assert_eq!(clustered_stderr(&values, &[2, 1]), None, "sizes that do not fit");
    }

    #[test]
    fn quantiles_by_hand() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        // Position f * 3.
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert!((quantile(&sorted, 0.99).unwrap() - (0.03 * 4.0 + 0.97 * 8.0)).abs() < 1e-12);
        assert_eq!(quantile(&sorted, 1.0), Some(8.0));
        assert_eq!(quantile(&[], 0.5), None);
        // 0 to 99: the median's interval is 50 ± 9.8, so the order statistics 40 and 60.
        let many: Vec<f64> = (0..100).map(f64::from).collect();
        assert!((quantile_stderr(&many, 0.5).unwrap() - 20.0 / (2.0 * 1.959_963_984_540_054)).abs() < 1e-12);
        assert_eq!(quantile_stderr(&many, 0.999), None, "a hundred values say nothing of one in a thousand");
    }

    #[test]
    fn the_exact_bound_on_a_rate() {
        // n of n: alpha^(1/n).
        for n in [1u64, 5, 20, 200] {
            let want = 0.05_f64.powf(1.0 / n as f64);
            assert!((rate_lower_bound(n, n, 0.05).unwrap() - want).abs() < 1e-12, "{n}");
        }
        assert!((rate_lower_bound(5, 5, 0.05).unwrap() - 0.549).abs() < 5e-4, "5 of 5 is 54.9 %");
        // 1 of n: 1 - (1 - alpha)^(1/n).
        let want = 1.0 - 0.95_f64.powf(0.1);
        assert!((rate_lower_bound(1, 10, 0.05).unwrap() - want).abs() < 1e-12);
        // A table's value: 9 of 10 gives 0.6058.
        assert!((rate_lower_bound(9, 10, 0.05).unwrap() - 0.6058).abs() < 5e-5);
        assert_eq!(rate_lower_bound(0, 10, 0.05), Some(0.0));
        assert_eq!(rate_lower_bound(0, 0, 0.05), None);
        assert_eq!(rate_lower_bound(3, 2, 0.05), None);
        assert!(rate_lower_bound(100_000, 100_000, 0.05).unwrap() > 0.999_9);
    }
}
