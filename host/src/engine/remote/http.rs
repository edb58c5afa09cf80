//! Talking to the endpoint: bounded, with a few tries, over the one address that was looked up,
//! and over TLS only with who can show to be its host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::endpoint::{Endpoint, Secret, certificates};
use super::tick;
use crate::domain::{budget, text};
use crate::engine::EngineError;

/// Tries of one request, and the pause before the second; it doubles.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that an endpoint may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Characters of an endpoint's complaint that are told.
const COMPLAINT: usize = 300;

/// The endpoint, as it is asked.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    /// Where the API is, and the server's own root.
    api: String,
    root: String,
    pub(super) model: String,
    key: Option<Secret>,
}

/// An answer that came: its status, and its body.
struct Answer {
    status: u16,
    body: String,
}

impl Client {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, EngineError> {
        let roots = match &endpoint.authorities {
            Some(text) => RootCerts::Specific(Arc::new(certificates(text).map_err(EngineError::Request)?)),
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .timeout_global(Some(budget::REMOTE_ANSWER))
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(budget::HTTP_HEAD_BYTES)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let at = endpoint.origin();
        Ok(Self {
            agent: Agent::with_parts(config, DefaultConnector::new(), LookedUp(endpoint.address)),
            endpoint: endpoint.to_string(),
            root: format!("{at}{}", endpoint.path.strip_suffix("/v1").unwrap_or(&endpoint.path)),
            api: format!("{at}{}", endpoint.path),
            model: endpoint.model.clone(),
            key: endpoint.key.clone(),
        })
    }

    /// Whether the endpoint has the model; what it says of it besides.
    pub(super) fn find_model(&self) -> Result<String, EngineError> {
        let answer = self.send(&format!("{}/models", self.api), None)?;
        let list: Value = self.json(&answer, "its list of models")?;
        let models = list.get("data").and_then(Value::as_array);
        let named = |model: &&Value| model.get("id").and_then(Value::as_str) == Some(self.model.as_str());
        match models.and_then(|models| models.iter().find(named)) {
            Some(model) => {
                Ok(model.get("owned_by").and_then(Value::as_str).unwrap_or("").chars().take(100).collect())
            }
            None => Err(EngineError::Load {
                path: self.endpoint.clone(),
                reason: format!("the endpoint does not list a model `{}`", self.model),
            }),
        }
    }

    /// A completion; `Err` inside if the endpoint does not take such a request.
    pub(super) fn completions(&self, request: &Value) -> Result<Result<Value, String>, EngineError> {
        let answer = self.send(&format!("{}/completions", self.api), Some(request))?;
        if matches!(answer.status, 400 | 422 | 501) {
            return Ok(Err(answer.complaint()));
        }
        self.json(&answer, "its completion").map(Ok)
    }

    pub(super) fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        let request = json!({"model": self.model, "prompt": text, "add_special_tokens": add_special});
        let answer = self.send(&format!("{}/tokenize", self.root), Some(&request))?;
        let body: Value = self.json(&answer, "its /tokenize, without which its tokens cannot be checked,")?;
        let tokens = body.get("tokens").and_then(Value::as_array);
        let ids =
            tokens.map(|tokens| tokens.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())));
        ids.and_then(Iterator::collect::<Option<Vec<u32>>>)
            .ok_or_else(|| EngineError::Request("the endpoint's /tokenize gave no token ids".to_owned()))
    }

    pub(super) fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        let request = json!({"model": self.model, "tokens": tokens});
        let answer = self.send(&format!("{}/detokenize", self.root), Some(&request))?;
        let body: Value = self.json(&answer, "its /detokenize")?;
        let text = body.get("prompt").and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| EngineError::Request("the endpoint's /detokenize gave no text".to_owned()))
    }

    /// The JSON of a good answer.
    fn json(&self, answer: &Answer, what: &str) -> Result<Value, EngineError> {
        let refused = |why: String| EngineError::Load { path: self.endpoint.clone(), reason: why };
        match answer.status {
            200..=299 => serde_json::from_str(&answer.body)
                .map_err(|error| EngineError::Compute(format!("{what} is no JSON: {error}"))),
            401 | 403 => Err(refused(format!(
                "the endpoint wants another key ({}); set ASSAYD_REMOTE_KEY or ASSAYD_REMOTE_KEY_FILE",
                answer.status
            ))),
            status => {
                Err(refused(format!("for {what} the endpoint answered {status}: {}", answer.complaint())))
            }
        }
    }

    /// Sends a request until there is an answer that is not only for now.
    fn send(&self, url: &str, body: Option<&Value>) -> Result<Answer, EngineError> {
        let mut pause = PAUSE;
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            tick();
            match self.once(url, body) {
                Ok((answer, wait)) if answer.status == 429 || answer.status >= 500 => {
                    last = format!("it answered {}: {}", answer.status, answer.complaint());
                    if let Some(wait) = wait {
                        pause = pause.max(wait.min(PAUSE_MAX));
                    }
                }
                Ok((answer, _)) => {
                    tick();
                    return Ok(answer);
                }
                // More than may come: the next try would bring as much.
                Err(ureq::Error::BodyExceedsLimit(most)) => {
                    return Err(EngineError::Compute(format!(
                        "the endpoint's answer is larger than {most} bytes"
                    )));
                }
                // Nor does who it is change by asking again.
                Err(error) if is_distrust(&error) => {
                    return Err(EngineError::Load {
                        path: self.endpoint.clone(),
                        reason: format!(
                            "there is no trusted connection to it: {error}; ASSAYD_REMOTE_CA_FILE names the \
                             certificates of authorities of your own"
                        ),
                    });
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(EngineError::Lost(format!("{}: {last}, {TRIES} times", self.endpoint)))
    }

    /// One try; with the answer the time that the endpoint asks to be left alone.
    fn once(&self, url: &str, body: Option<&Value>) -> Result<(Answer, Option<Duration>), ureq::Error> {
        let key = self.key.as_ref().map(|key| format!("Bearer {}", key.reveal()));
        let mut response = match body {
            Some(body) => {
                let mut request = self.agent.post(url);
                if let Some(key) = &key {
                    request = request.header("Authorization", key);
                }
                request.header("Content-Type", "application/json").send(body.to_string())?
            }
            None => {
                let mut request = self.agent.get(url);
                if let Some(key) = &key {
                    request = request.header("Authorization", key);
                }
                request.call()?
            }
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(budget::REMOTE_BODY_BYTES).read_to_string()?;
        Ok((Answer { status, body }, wait))
    }
}

/// The one address that the worker may connect to, whatever a name would be looked up as now.
#[derive(Debug)]
struct LookedUp(SocketAddr);

impl Resolver for LookedUp {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

/// Whether TLS failed for what the other side is or shows, and not for the line to it.
fn is_distrust(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => true,
        // As a stream it tells what went wrong in its handshake.
        ureq::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

impl Answer {
    /// What an endpoint says is wrong, cut and without what nobody sees: others wrote it.
    fn complaint(&self) -> String {
        let parsed: Option<Value> = serde_json::from_str(&self.body).ok();
        let told = parsed.as_ref().and_then(|body| {
            let places = ["/error/message", "/message", "/detail"];
            places.iter().find_map(|place| body.pointer(place)).and_then(Value::as_str)
        });
        let words: String = told.unwrap_or(&self.body).chars().take(COMPLAINT).collect();
        text::plain(&words)
    }
}
