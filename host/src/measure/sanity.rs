//! Signs that generated text is no use, whatever its speed: nothing at all, a loop, an echo.
//!
//! Signs, not verdicts: a person is told what was seen and where. Deliberately absent: any
//! judgement of what a text says.

/// Fewest tokens that a loop spans...
const LOOP_TOKENS: usize = 24;
/// ...and how often its period is there.
const LOOP_TIMES: usize = 3;
/// Fewest tokens of an output of which few n-grams are distinct, and the n.
const DULL_TOKENS: usize = 48;
const GRAM: usize = 4;
/// Share of distinct n-grams below which an output repeats itself.
const DISTINCT: f64 = 0.5;
/// Fewest tokens of a prompt, without its first, that are an echo when they come back.
const ECHO_TOKENS: usize = 4;
/// Share of the prompt that comes back in one piece.
const ECHO_SHARE: f64 = 0.8;

/// What looks wrong with an output, in words; empty when nothing does.
pub fn flags(prompt: &[u32], output: &[u32], text: &str) -> Vec<String> {
    let mut flags = Vec::new();
    if output.is_empty() {
        flags.push("empty output: the model ended at once".to_owned());
        return flags;
    }
    if text.trim().is_empty() {
        flags.push(format!("empty output: {} tokens and nothing to read", output.len()));
    }
    if let Some((period, from)) = tail_loop(output) {
        flags.push(format!(
            "repetition loop: from token {from} on the same {period} token{} over and over",
            if period == 1 { "" } else { "s" }
        ));
    } else if let Some(distinct) = distinct_share(output).filter(|&share| share < DISTINCT) {
        flags.push(format!(
            "repetition: only {:.0} % of the runs of {GRAM} tokens are distinct",
            100.0 * distinct
        ));
    }
    if echoes(prompt, output) {
        flags.push("echo: the output repeats the prompt".to_owned());
    }
    flags
}

/// The shortest period in which an output ends, and the token from which on it repeats.
fn tail_loop(output: &[u32]) -> Option<(usize, usize)> {
    (1..=output.len() / LOOP_TIMES).find_map(|period| {
        let repeats = output.iter().rev().zip(output.iter().rev().skip(period)).take_while(|(a, b)| a == b);
        let length = repeats.count() + period;
        (length >= LOOP_TOKENS.max(LOOP_TIMES * period)).then(|| (period, output.len() - length))
    })
}

/// Share of distinct n-grams; `None` for an output too short to tell.
fn distinct_share(output: &[u32]) -> Option<f64> {
    let grams: std::collections::HashSet<&[u32]> = output.windows(GRAM).collect();
    (output.len() >= DULL_TOKENS).then(|| grams.len() as f64 / (output.len() + 1 - GRAM) as f64)
}

/// Whether most of the prompt, its first token (BOS) aside, stands in the output.
fn echoes(prompt: &[u32], output: &[u32]) -> bool {
    let said = prompt.get(1..).unwrap_or_default();
    let length = (said.len() as f64 * ECHO_SHARE).ceil() as usize;
    said.len() >= ECHO_TOKENS
        && said.windows(length).any(|part| output.windows(length).any(|window| window == part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(prompt: &[u32], output: &[u32]) -> String {
        flags(prompt, output, "some text").join("; ")
    }

    #[test]
    fn nothing_loops_and_echoes_are_seen() {
        let prompt = [1, 50, 51, 52, 53, 54];
        let fine: Vec<u32> = (0..200).map(|i| 100 + i * i % 997).collect();
        assert_eq!(seen(&prompt, &fine), "");
        assert!(seen(&prompt, &[]).contains("ended at once"));
        assert!(flags(&prompt, &[5, 6], " \n")[0].contains("nothing to read"));
        // A sentence of seven tokens, over and over after a good start; cut in the middle.
        let mut stuck = fine[..20].to_vec();
        stuck.extend((0..60).map(|i| 7 + i % 7));
        assert!(
            seen(&prompt, &stuck).contains("from token 20 on the same 7 tokens"),
            "{}",
            seen(&prompt, &stuck)
        );
        let one: Vec<u32> = [&fine[..10], &[9; 30]].concat();
        assert!(seen(&prompt, &one).contains("the same 1 token over"), "{}", seen(&prompt, &one));
        // Twice is no loop, and neither is a short word three times.
        assert_eq!(seen(&prompt, &[&fine[..30], &fine[..30]].concat()), "");
        assert_eq!(seen(&prompt, &[&fine[..40], &[3, 4, 3, 4, 3, 4]].concat()), "");
        // Repeats with a number that counts up: no period, few distinct runs.
        let counting: Vec<u32> = (0..80).map(|i| if i % 10 == 9 { 500 + i } else { i % 10 }).collect();
        assert!(seen(&prompt, &counting).contains("distinct"), "{}", seen(&prompt, &counting));
        let echo = [&[8, 9], &prompt[1..], &[70, 71]].concat();
        assert!(seen(&prompt, &echo).contains("echo"));
        assert_eq!(seen(&[1, 50, 51], &[50, 51, 9]), "", "too short to be an echo");
    }
}
