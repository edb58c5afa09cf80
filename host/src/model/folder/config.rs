//! `config.json` and `adapter_config.json`: typed access to the few entries that matter.

use serde_json::Value;

use crate::domain::Sha256;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};
use crate::model::likeness;

/// Keys that do not change what a model computes, wherever they stand.
pub const COSMETIC: [&str; 22] = [
    "_from_model_config",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "_attn_implementation",
    "attn_implementation",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "initializer_range",
    "pretraining_tp",
    "attention_dropout",
    "hidden_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "router_aux_loss_coef",
    "output_router_logits",
];

/// Python's JSON has numbers that JSON does not have, and loaders read them. They are taken for texts,
/// which no entry that must be a number may have.
fn of_python(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Between quotes, and is this an escape there?
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let words = ["-Infinity", "Infinity", "NaN"];
        let found = words.into_iter().find_map(|word| Some((word, rest.strip_prefix(word)?)));
        if let Some((word, after)) = found.filter(|_| !quoted) {
            out.extend(["\"", word, "\""]);
            rest = after;
            continue;
        }
        quoted ^= next == '"' && !escaped;
        escaped = quoted && next == '\\' && !escaped;
        out.push(next);
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
    }
    out
}

/// A parsed configuration.
#[derive(Debug)]
pub struct Config(serde_json::Map<String, Value>);

impl Config {
    /// # Errors
    /// The text is not a JSON object.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let parsed = serde_json::from_str(text);
        parsed.or_else(|error| serde_json::from_str(&of_python(text)).map_err(|_| error)).map(Self)
    }

    /// SHA-256 over what shapes the computation, however it is spelt.
    pub fn hash(&self) -> Option<Sha256> {
        likeness::config_hash(&self.0)
    }

    /// The entry, or that of the language model in a multi-modal configuration.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let inner = || self.0.get("text_config")?.as_object()?.get(key);
        self.0.get(key).or_else(inner).filter(|value| !value.is_null())
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.as_str().map(str::to_owned)
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// Does it say how MLX packed the weights?
    pub fn is_mlx(&self) -> bool {
        let section = self.get("quantization").and_then(Value::as_object);
        section.is_some_and(|section| section.contains_key("group_size") && section.contains_key("bits"))
    }

    /// How the weights are packed, if they are: the method and the bits.
    pub fn packed(&self) -> Option<String> {
        let section = self.get("quantization_config").or_else(|| self.get("quantization"))?.as_object()?;
        let method = section.get("quant_method").and_then(Value::as_str).unwrap_or("mlx");
        let bits = section.get("bits").and_then(Value::as_u64);
        Some(bits.map_or_else(|| method.to_owned(), |bits| format!("{method} {bits}-bit")))
    }

    /// Values that no model can have, and code that wants to be run.
    pub fn check(&self, name: &str, findings: &mut Findings) {
        let mut push = |code: Code, message: String| {
            findings.push(Finding { part: Some(name.to_owned()), ..code.finding(message) });
        };
        for (key, most) in [
            ("num_hidden_layers", 4096),
            ("hidden_size", 1 << 24),
            ("vocab_size", 1 << 24),
            ("num_attention_heads", 1 << 16),
            ("num_key_value_heads", 1 << 16),
            ("head_dim", 1 << 16),
            ("intermediate_size", 1 << 24),
            ("max_position_embeddings", 1 << 32),
        ] {
            match self.get(key) {
                Some(value) if value.as_u64().is_some_and(|value| (1..=most).contains(&value)) => {}
                Some(value) if value.is_number() => push(Code::MetadataAbsurd, format!("{key} is {value}")),
                // A list has a number for each layer.
                Some(value) if value.is_string() || value.is_boolean() => {
                    push(Code::MetadataWrongType, format!("{key} is {value}; it must be a number"));
                }
                _ => {}
            }
        }
        for key in ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "lora_alpha"] {
            match self.get(key) {
                Some(value) if value.is_string() => {
                    push(Code::MetadataWrongType, format!("{key} is {value}; it must be a number"));
                }
                // Angles cannot be worked out from a base of zero.
                Some(value)
                    if value
                        .as_f64()
                        .is_some_and(|value| value < 0.0 || key == "rope_theta" && value == 0.0) =>
                {
                    push(Code::MetadataAbsurd, format!("{key} is {value}"));
                }
                _ => {}
            }
        }
        if self.get("auto_map").is_some() {
            push(Code::RemoteCode, "auto_map asks the loader to run Python code of the model".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_python() {
        let text = r#"{"a": [0.0, Infinity, -Infinity], "NaN\"": NaN, "b\\": "NaN \" -Infinity", "c": 7}"#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.get("a"), Some(&serde_json::json!([0.0, "Infinity", "-Infinity"])));
        assert_eq!(config.text("NaN\"").as_deref(), Some("NaN"));
        assert_eq!(config.text("b\\").as_deref(), Some("NaN \" -Infinity"));
        assert_eq!(config.number("c"), Some(7));
        assert!(Config::parse("NaN").is_err());
        assert!(Config::parse(r#"{"a": Inf}"#).is_err());
        for key in ["rms_norm_eps", "rope_theta", "lora_alpha", "hidden_size", "max_position_embeddings"] {
            let mut findings = Findings::default();
            Config::parse(&format!("{{\"{key}\": NaN}}")).unwrap().check("config.json", &mut findings);
            assert_eq!(findings.finish()[0].code, "metadata-wrong-type", "{key}");
        }
    }
}
