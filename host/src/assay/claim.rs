//! The claim of a decision, in words a reader can hold it to.

use crate::domain::score::{Decision, DecisionParams};
use crate::engine::LoadBits;

/// What the scorer's value measures, and whether it is in nats.
fn measure(scorer: &str) -> (&'static str, bool) {
    match scorer {
        "kl" => ("clipped KL divergence", true),
        "delta-ce" => ("clipped cross-entropy difference", true),
        "symmetric-kl" => ("clipped symmetric KL divergence", true),
        "js" => ("Jensen-Shannon divergence in bits", false),
        "tv" => ("total variation distance", false),
        "top1" => ("share of positions with another top token", false),
        "exact-text" => ("share of challenges with another greedy text", false),
        _ => ("score", false),
    }
}

/// One or two sentences: what is claimed, of what, with which error probability.
/// `clip_nats` is what a share of 1 means, for scorers whose value is in nats.
pub fn claim(decision: Decision, params: &DecisionParams, scorer: &str, clip_nats: f64, n: u64) -> String {
    let (what, nats) = measure(scorer);
    let amount = |share: f64| {
        if nats {
            format!("{} of the clip ({} nats)", number(share), number(share * clip_nats))
        } else {
            number(share)
        }
    };
    let (alpha, gamma, delta) = (number(params.alpha), amount(params.gamma), amount(params.delta));
    match decision {
        Decision::Same => format!(
            "the mean {what} over all challenges is below {delta}; this claim is wrong with probability at most \
             {alpha}, whenever the assay stopped"
        ),
        Decision::Different => format!(
            "the mean {what} over all challenges is above {gamma}; this claim is wrong with probability at most \
             {alpha}, whenever the assay stopped"
        ),
        Decision::Undecided => format!(
            "after {n} challenges neither is shown: that the mean {what} is below {delta}, nor that it is above \
             {gamma}, each at error probability {alpha}"
        ),
    }
}

/// What a claim about a candidate with other weights than its files' is about.
pub fn quantised(bits: LoadBits) -> String {
    format!("this is a quantised comparison: the candidate's weights were {}", bits.words())
}

/// A number with at most four significant digits and no trailing zeros.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.25 * 0.1, "0.025"),
            (12345.0, "12345"),
            (0.000_123_456, "0.0001235"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_claim_names_its_bound_and_its_error() {
        let params = DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.2, n_max: 200 };
        let same = claim(Decision::Same, &params, "kl", 0.1, 24);
        assert!(
            same.contains("below 0.2 of the clip (0.02 nats)") && same.contains("at most 0.01"),
            "{same}"
        );
        let different = claim(Decision::Different, &params, "tv", 0.1, 4);
        assert!(different.contains("above 0.05;") && !different.contains("nats"), "{different}");
        assert!(claim(Decision::Undecided, &params, "kl", 0.1, 200).contains("after 200 challenges neither"));
    }
}
