//! The example models: one recipe from the checked-in text to the checked-in files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use assayd::model::gguf::GgmlType;

use crate::{
    file::{self, Vocabulary},
    grammar::Grammar,
    net::{Config, Net},
    rng::Rng,
    say,
    tokenizer::{BOS, Tokenizer},
    train::{self, Corpus, Schedule},
};

/// Everything by chance comes from here.
const SEED: u64 = 20_260_728;

const CONFIG: Config = Config {
    vocab: 512,
    width: 128,
    layers: 3,
    heads: 4,
    kv_heads: 2,
    ffn: 256,
    context: 512,
    rope_base: 10_000.0,
    eps: 1e-5,
};

const REFERENCE: Schedule = Schedule { steps: 800, batch: 8, window: 256, rate: 3e-3, seed: SEED + 4 };
const FINETUNE: Schedule = Schedule { steps: 120, batch: 8, window: 128, rate: 1e-3, seed: SEED + 5 };

/// Documents of the reference text, of the fine-tuning text, and held out of each.
const DOCUMENTS: usize = 6_000;
const FINETUNE_DOCUMENTS: usize = 1_500;
const HELD_OUT: usize = 300;
/// The name in every file: the fine-tuned one does not betray itself by its own.
const NAME: &str = "assayd example";
/// Share of the reference that the truncated file keeps.
const KEPT_PERCENT: usize = 60;

/// What the demo judges must fit into this.
const TOTAL_BYTES: u64 = 12_000_000;

/// A source of documents: text to learn and text held out to measure on.
struct Text {
    learn: Vec<String>,
    held_out: Vec<String>,
}

impl Text {
    fn new(source: &str, seed: u64, count: usize) -> Result<Self> {
        let mut learn = Grammar::parse(source)?.documents(seed, count + HELD_OUT)?;
        ensure!(learn.len() > 2 * HELD_OUT, "the grammar has only {} documents", learn.len());
        let held_out = learn.split_off(learn.len() - HELD_OUT);
        Ok(Self { learn, held_out })
    }
}

/// The reference's text, the text for fine-tuning, and the vocabulary learned from both.
fn texts() -> Result<(Text, Text, Tokenizer)> {
    let text = Text::new(include_str!("../text/reference.txt"), SEED, DOCUMENTS)?;
    let other = Text::new(include_str!("../text/finetune.txt"), SEED + 1, FINETUNE_DOCUMENTS)?;
    let both: Vec<String> = text.learn.iter().chain(&other.learn).cloned().collect();
    let tokenizer = Tokenizer::train(&both, CONFIG.vocab)?;
    Ok((text, other, tokenizer))
}

/// Makes every example model in `folder`.
pub(crate) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (text, other, tokenizer) = texts()?;
    let vocabulary =
        Vocabulary { pieces: &tokenizer.pieces, scores: &tokenizer.scores, kinds: &tokenizer.kinds };
    let corpus = |documents: &[String]| Corpus::new(&tokenizer, documents);
    let (learn, held_out) = (corpus(&text.learn), corpus(&text.held_out));
    let (other_learn, other_held_out) = (corpus(&other.learn), corpus(&other.held_out));
    say(format!(
        "{} parameters, {} tokens of text ({} for fine-tuning), vocabulary {}",
        CONFIG.parameters(),
        learn.len(),
        other_learn.len(),
        tokenizer.len()
    ));

    let net = Net::random(CONFIG, &mut Rng::new(SEED + 2))?;
    let losses = |net: &Net| -> Result<(f64, f64)> {
        Ok((train::evaluate(net, &held_out, 60, 256)?, train::evaluate(net, &other_held_out, 60, 256)?))
    };
    train::train(&net, &learn, REFERENCE, |step, loss| say(format!("reference {step:4}: loss {loss:.3}")))?;
    let trained = losses(&net)?;
    say(format!(
        "reference: held-out loss {:.3} nats a token (single-token entropy {:.3}); on the other text {:.3} ({:.3})",
        trained.0,
        held_out.unigram_entropy(),
        trained.1,
        other_held_out.unigram_entropy()
    ));
    ensure!(trained.0 < 0.4 * held_out.unigram_entropy(), "the reference has not learned its text");
    for prompt in ["One morning,", "Question: What colour is snow?", "Dear Anna,", "How to mend"] {
        let mut tokens = vec![BOS];
        tokens.extend(tokenizer.encode(prompt));
        let answer = net.greedy(&tokens, 60)?;
        say(format!("  {prompt} >>>{}", tokenizer.decode(&answer).replace('\n', " / ")));
    }

    let path = |name: &str| folder.join(name);
    file::write_net(&path("reference.gguf"), NAME, &net, vocabulary, GgmlType::F32)?;
    file::write_net(&path("reference-f16.gguf"), NAME, &net, vocabulary, GgmlType::F16)?;
    file::write_net(&path("reference-q8_0.gguf"), NAME, &net, vocabulary, GgmlType::Q8_0)?;
    let whole = fs::read(path("reference.gguf"))?;
    fs::write(path("copy.gguf"), &whole)?;
    let kept = whole.get(..whole.len() * KEPT_PERCENT / 100).context("nothing to cut")?;
    fs::write(path("truncated.gguf"), kept)?;

    train::train(&net, &other_learn, FINETUNE, |step, loss| {
        say(format!("fine-tuned {step:4}: loss {loss:.3}"))
    })?;
    let tuned = losses(&net)?;
    say(format!(
        "fine-tuned: held-out loss {:.3} on its own text, {:.3} on the reference's",
        tuned.1, tuned.0
    ));
    ensure!(tuned.1 < 0.5 * trained.1, "fine-tuning has not taught the other text");
    file::write_net(&path("finetuned.gguf"), NAME, &net, vocabulary, GgmlType::F32)?;

    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        total += entry?.metadata()?.len();
    }
    say(format!("{} bytes in {}", total, folder.display()));
    ensure!(total <= TOTAL_BYTES, "the example models take {total} bytes, more than {TOTAL_BYTES}");
    Ok(())
}

/// The checked-in files are what this program makes, and stand to each other as
/// `demo.toml` says.
#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder() -> PathBuf {
        std::env::var_os("ASSAYD_EXAMPLE_MODELS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), PathBuf::from)
    }

    fn read(name: &str) -> Net {
        file::read_net(&folder().join(name)).unwrap()
    }

    #[test]
    fn the_reference_has_learned_its_text() {
        let (text, other, tokenizer) = texts().unwrap();
        let loss = |net: &Net, documents: &[String]| {
            let corpus = Corpus::new(&tokenizer, documents);
            (train::evaluate(net, &corpus, 20, 128).unwrap(), corpus.unigram_entropy())
        };
        let reference = read("reference.gguf");
        let (loss_text, entropy) = loss(&reference, &text.held_out);
        assert!(loss_text < 0.2 * entropy, "{loss_text} of {entropy}");
        let (loss_before, _) = loss(&reference, &other.held_out);
        let (loss_after, entropy) = loss(&read("finetuned.gguf"), &other.held_out);
        assert!(loss_after < 0.3 * entropy, "{loss_after} of {entropy}");
        assert!(loss_after < 0.3 * loss_before, "{loss_before} {loss_after}");
    }

    #[test]
    fn derived_files_follow_from_the_reference() {
        let bytes = |name: &str| fs::read(folder().join(name)).unwrap();
        let reference = bytes("reference.gguf");
        assert!(bytes("copy.gguf") == reference, "copy.gguf differs");
        let cut = bytes("truncated.gguf");
        assert!(cut.len() < reference.len() && reference.starts_with(&cut), "truncated.gguf is no beginning");

        let net = read("reference.gguf");
        let (_, _, tokenizer) = texts().unwrap();
        let vocabulary =
            Vocabulary { pieces: &tokenizer.pieces, scores: &tokenizer.scores, kinds: &tokenizer.kinds };
        let scratch = std::env::temp_dir().join(format!("assayd-examples-{}", std::process::id()));
        for (name, kind) in [
            ("reference.gguf", GgmlType::F32),
            ("reference-f16.gguf", GgmlType::F16),
            ("reference-q8_0.gguf", GgmlType::Q8_0),
        ] {
            file::write_net(&scratch, NAME, &net, vocabulary, kind).unwrap();
            let again = fs::read(&scratch).unwrap();
            fs::remove_file(&scratch).unwrap();
            assert!(again == bytes(name), "{name} is not what this program makes of the reference");
        }
    }

    /// Mean KL(reference, candidate) in nats over the reference's own continuations.
    fn divergence(reference: &Net, candidate: &Net, tokenizer: &Tokenizer) -> f64 {
        let prompts =
            ["The", "In the", "What is", "x = 3;", "Yesterday at noon", "I do not", "Paris, 1920", "9 8 7"];
        let (mut sum, mut count) = (0.0, 0.0);
        for prompt in prompts {
            let mut tokens = vec![BOS];
            tokens.extend(tokenizer.encode(prompt));
            let first = tokens.len();
            tokens.extend(reference.greedy(&tokens, 48).unwrap());
            let (p, q) =
                (reference.distributions(&tokens).unwrap(), candidate.distributions(&tokens).unwrap());
            for (p, q) in p.iter().zip(&q).skip(first) {
                sum += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
                count += 1.0;
            }
        }
        sum / count
    }

    #[test]
    fn candidates_are_as_near_and_as_far_as_the_demo_expects() {
        let (_, _, tokenizer) = texts().unwrap();
        let reference = read("reference.gguf");
        let of = |name: &str| divergence(&reference, &read(name), &tokenizer);
        let (f16, q8_0, finetuned) =
            (of("reference-f16.gguf"), of("reference-q8_0.gguf"), of("finetuned.gguf"));
        println!("mean KL in nats: f16 {f16:.2e}, q8_0 {q8_0:.2e}, finetuned {finetuned:.2e}");
        assert!(f16 < 1e-4, "{f16}");
        assert!(q8_0 < 2e-3, "{q8_0}");
        assert!(finetuned > 0.5, "{finetuned}");
    }
}
