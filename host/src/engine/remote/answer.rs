//! What an endpoint is asked for tokens, and its answer, checked.

use serde_json::{Value, json};

/// A log-probability may exceed zero by this much through rounding.
const ROUNDING: f64 = 1e-6;

/// The two ways to ask for log-probabilities of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// vLLM's: by token ids, so that the answer shows which tokens it is about.
    PromptLogprobs,
    /// OpenAI's: by texts.
    Echo,
}

impl Asked {
    pub(super) fn request(self, model: &str, sequences: &[&[u32]]) -> Value {
        let mut request = json!({"model": model, "prompt": sequences, "max_tokens": 1, "temperature": 0});
        let extra = match self {
            Self::PromptLogprobs => json!({"prompt_logprobs": 1}),
            Self::Echo => json!({"echo": true, "logprobs": 1, "max_tokens": 0}),
        };
        if let (Some(request), Value::Object(extra)) = (request.as_object_mut(), extra) {
            request.extend(extra);
        }
        request
    }
}

/// What is known of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    /// 0 for the first token, which nothing predicts.
    pub(super) logprob: f64,
    /// The most likely token, if it was told.
    pub(super) best: Option<u32>,
}

/// The answers to so many prompts, in their order.
pub(super) fn choices(answer: &Value, count: usize) -> Result<Vec<&Value>, String> {
    let all = answer.get("choices").and_then(Value::as_array).ok_or("it has no choices")?;
    if all.len() != count {
        return Err(format!("{} choices for {count} prompts", all.len()));
    }
    let mut ordered: Vec<Option<&Value>> = vec![None; count];
    for choice in all {
        let index = choice.get("index").and_then(Value::as_u64).and_then(|i| usize::try_from(i).ok());
        match index.and_then(|index| ordered.get_mut(index)) {
            Some(place @ None) => *place = Some(choice),
            _ => return Err("its choices are not numbered".to_owned()),
        }
    }
    ordered.into_iter().collect::<Option<_>>().ok_or_else(|| "a choice is missing".to_owned())
}

/// One row per token of the prompt.
pub(super) fn rows(asked: Asked, choice: &Value, tokens: &[u32]) -> Result<Vec<Row>, String> {
    let list = match asked {
        Asked::PromptLogprobs => choice.get("prompt_logprobs"),
        Asked::Echo => choice.pointer("/logprobs/token_logprobs"),
    };
    let list = list.and_then(Value::as_array).ok_or("it has no log-probabilities of the prompt")?;
    if list.len() != tokens.len() {
        return Err(format!("{} log-probabilities for {} tokens", list.len(), tokens.len()));
    }
    let row = |(at, (entry, token)): (usize, (&Value, &u32))| {
        if at == 0 {
            // Nothing comes before it; some servers give a number all the same.
            return Ok(Row { logprob: 0.0, best: None });
        }
        let (logprob, best) = match asked {
            Asked::Echo => (entry.as_f64(), None),
            Asked::PromptLogprobs => {
                let own = entry.get(token.to_string()).ok_or_else(|| {
                    format!("position {at} is about other tokens than {token}, which was sent")
                })?;
                (own.get("logprob").and_then(Value::as_f64), first_ranked(entry))
            }
        };
        match logprob {
            Some(logprob) if logprob.is_finite() && logprob <= ROUNDING => Ok(Row { logprob, best }),
            Some(logprob) => Err(format!("position {at} has a log-probability of {logprob}")),
            None => Err(format!("position {at} has no log-probability")),
        }
    };
    list.iter().zip(tokens).enumerate().map(row).collect()
}

/// The token whose rank is 1.
fn first_ranked(entry: &Value) -> Option<u32> {
    let first = |about: &Value| about.get("rank").and_then(Value::as_u64) == Some(1);
    let mut ranked = entry.as_object()?.iter().filter(|(_, about)| first(about));
    ranked.next().and_then(|(id, _)| id.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_answer_gives_one_row_per_token() {
        let choice = json!({"prompt_logprobs": [null,
            {"7": {"logprob": -2.5, "rank": 9}, "3": {"logprob": -0.1, "rank": 1}},
            {"3": {"logprob": -0.1, "rank": 1}}]});
        let found = rows(Asked::PromptLogprobs, &choice, &[1, 7, 3]).unwrap();
        let shown: Vec<(f64, Option<u32>)> = found.iter().map(|row| (row.logprob, row.best)).collect();
        assert_eq!(shown, [(0.0, None), (-2.5, Some(3)), (-0.1, Some(3))]);
        let echoed = json!({"logprobs": {"token_logprobs": [null, -1.0]}});
        let found = rows(Asked::Echo, &echoed, &[1, 7]).unwrap();
        assert_eq!(found[1], Row { logprob: -1.0, best: None });
    }

    #[test]
    fn a_bad_answer_is_a_reason_and_never_a_number() {
        for (what, entries) in [
            ("for 2 tokens", json!([null])),
            ("for 2 tokens", json!([null, {"7": {"logprob": -1.0}}, {"7": {"logprob": -1.0}}])),
            ("other tokens", json!([null, {"8": {"logprob": -1.0}}])),
            ("log-probability of 0.5", json!([null, {"7": {"logprob": 0.5}}])),
            ("no log-probability", json!([null, {"7": {"logprob": "NaN"}}])),
            ("no log-probability", json!([null, {"7": {}}])),
            ("other tokens", json!([null, null])),
            ("no log-probabilities", json!("?")),
        ] {
            let why = rows(Asked::PromptLogprobs, &json!({"prompt_logprobs": entries}), &[1, 7]).unwrap_err();
            assert!(why.contains(what), "{why} instead of {what}");
        }
        for (answer, part) in [
            (json!({}), "no choices"),
            (json!({"choices": []}), "0 choices for 2"),
            (json!({"choices": [{"index": 0}, {"index": 0}]}), "not numbered"),
            (json!({"choices": [{"index": 0}, {"index": 7}]}), "not numbered"),
            (json!({"choices": [{}, {}]}), "not numbered"),
        ] {
            assert!(choices(&answer, 2).unwrap_err().contains(part), "{answer}");
        }
        let turned = json!({"choices": [{"index": 1, "x": 1}, {"index": 0, "x": 0}]});
        let ordered: Vec<i64> =
            choices(&turned, 2).unwrap().iter().map(|c| c["x"].as_i64().unwrap()).collect();
        assert_eq!(ordered, [0, 1]);
    }
}
