//! What a verdict about a mean does not see: rare differences, and single challenges that
//! stand out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claim::number;
use super::report::Record;
use crate::challenge::{Family, Prompt};
use crate::domain::budget;

/// A challenge whose score lies far above the others'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outlier {
    /// Place of the challenge in its set, from 0.
    pub index: u64,
    pub family: Family,
    /// What was asked.
    pub prompt: Prompt,
    /// In [0, 1].
    pub score: f64,
    /// The scorer's value before clipping; null for scorers without one.
    pub nats: Option<f64>,
}

/// The challenges that stand out, the farthest first: at or above gamma by themselves, and
/// beyond the upper quartile by more than 1.5 times the distance between the quartiles
/// (Tukey's fence). None when most challenges differ alike.
pub fn outliers(records: &[Record], gamma: f64) -> Vec<Outlier> {
    let mut scores: Vec<f64> = records.iter().filter_map(|record| record.score).collect();
    scores.sort_by(f64::total_cmp);
    let quartile = |part: usize| scores.get((scores.len() * part / 4).min(scores.len().saturating_sub(1)));
    let (Some(low), Some(high)) = (quartile(1), quartile(3)) else { return Vec::new() };
    let fence = high + 1.5 * (high - low);
    let beyond = |record: &Record| {
        let score = record.score.filter(|&score| score >= gamma && score > fence)?;
        Some(Outlier {
            index: record.challenge.index,
            family: record.challenge.family,
            prompt: record.challenge.prompt.clone(),
            score,
            nats: record.nats(),
        })
    };
    let mut list: Vec<Outlier> = records.iter().filter_map(beyond).collect();
    list.sort_by(|a, b| b.score.total_cmp(&a.score).then(nats(b).total_cmp(&nats(a))));
    list.truncate(budget::REPORT_OUTLIERS);
    list
}

fn nats(outlier: &Outlier) -> f64 {
    outlier.nats.unwrap_or(f64::INFINITY)
}

/// How rare a difference could still hide. A model that differs grossly (score 1) on a share
/// of the prompts and agrees on the rest has that share as its mean, so a certified bound on
/// the mean is a bound on the share, with the same error probability.
pub fn rare_difference(certified: Option<f64>, confidence: f64) -> String {
    let percent = |share: f64| number(100.0 * share);
    match certified {
        Some(share) => format!(
            "a difference on less than {} % of prompts is not excluded, however large it is; one on more is, at {} % \
             confidence. Prompts unlike the challenges, such as a secret trigger, are not covered (--probe asks your own)",
            percent(share),
            percent(confidence)
        ),
        None => "no share of differing prompts is excluded: the scores certify no bound".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::Challenge;

    fn record(index: u64, score: Option<f64>) -> Record {
        let prompt = Prompt::Text(format!("prompt {index}"));
        let challenge = Challenge { index, family: Family::Factual, prompt };
        Record { score, ..Record::blank(&challenge, None) }
    }

    fn found(scores: &[f64]) -> Vec<u64> {
        let records: Vec<Record> = (0..).zip(scores).map(|(i, &score)| record(i, Some(score))).collect();
        outliers(&records, 0.05).iter().map(|outlier| outlier.index).collect()
    }

    #[test]
    fn what_stands_out_is_named_and_noise_is_not() {
        let mut scores = vec![0.0; 20];
        assert!(found(&scores).is_empty());
        scores[7] = 1.0;
        scores[3] = 0.4;
        assert_eq!(found(&scores), [7, 3]);
        scores[5] = 0.04;
        assert_eq!(found(&scores), [7, 3], "below gamma by itself");
        assert!(found(&[1.0; 12]).is_empty(), "all alike");
        let mut many = vec![0.0; 100];
        many[..20].fill(1.0);
        assert_eq!(found(&many).len(), budget::REPORT_OUTLIERS);
        assert!(found(&[]).is_empty());
        let mut with_failure: Vec<Record> = (0..10).map(|i| record(i, Some(0.0))).collect();
        with_failure.push(record(10, None));
        with_failure.push(record(11, Some(0.9)));
        let found = outliers(&with_failure, 0.05);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].prompt, Prompt::Text("prompt 11".to_owned()));
    }

    #[test]
    fn the_share_that_can_hide_is_the_certified_bound() {
        let text = rare_difference(Some(0.1816), 0.99);
        assert!(
            text.contains("less than 18.16 % of prompts is not excluded") && text.contains("99 %"),
            "{text}"
        );
        assert!(rare_difference(None, 0.99).contains("no share"));
    }
}
