//! Who may ask: the daemon's own names only (against DNS rebinding), no foreign web page,
//! the API key where there is one. Also what every answer carries.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::reply::{ApiError, shape};
use super::{Api, chat, completions, events, health};
use crate::domain::budget;

/// Nothing may be loaded, framed or sent by an answer unless its handler says so.
const STRICT: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Stands before every handler.
pub async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let allowed = check_source(request.headers(), api.address).and_then(|()| match &api.key {
        Some(key) if path != health::PATH => check_key(request.headers(), key),
        _ => Ok(()),
    });
    let mut response = match allowed {
        Err(refused) => refused.into_response(),
        Ok(()) if path == events::PATH => next.run(request).await,
        Ok(()) => match tokio::time::timeout(patience(&path), next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the answer took too long").into_response(),
        },
    };
    response = shape(response, &path);
    let wants_key = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    let mut add = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    add(header::CONTENT_SECURITY_POLICY, STRICT);
    add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    add(header::REFERRER_POLICY, "no-referrer");
    add(header::CACHE_CONTROL, "no-store");
    if wants_key {
        // Basic lets a browser ask for the key: any user name, the key as the password.
        add(header::WWW_AUTHENTICATE, "Basic realm=\"assayd\", charset=\"UTF-8\"");
    }
    response
}

/// Time for an answer to be made; a model may have to be loaded first.
fn patience(path: &str) -> std::time::Duration {
    let works = [completions::PATH, chat::PATH, "/tokenize", "/detokenize", "/tokenizer_info"];
    if works.contains(&path) { budget::HTTP_COMPLETION } else { budget::HTTP_ANSWER }
}

/// On loopback, only loopback names may be in `Host`: a page on the net can make its own
/// name point here, but cannot make the browser send another. `Origin`, where there is
/// one, must be that very host.
fn check_source(headers: &HeaderMap, address: SocketAddr) -> Result<(), ApiError> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "the request has no Host header"))?;
    if address.ip().is_loopback() && !is_loopback_name(host) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("the Host header says `{host}`, which is not a name of this machine"),
        )
        .hint("use http://127.0.0.1 or http://localhost"));
    }
    match headers.get(header::ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.as_bytes() == format!("http://{host}").as_bytes() => Ok(()),
        Some(origin) if origin.as_bytes() == format!("https://{host}").as_bytes() => Ok(()),
        Some(_) => {
            Err(ApiError::new(StatusCode::FORBIDDEN, "the request was made by a page of another origin"))
        }
    }
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_key(headers: &HeaderMap, key: &str) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let right = given.and_then(|given| given.split_once(' ')).is_some_and(|(scheme, value)| {
        if scheme.eq_ignore_ascii_case("bearer") {
            return same(value.trim(), key);
        }
        // Basic: base64 of "user:key".
        scheme.eq_ignore_ascii_case("basic")
            && from_base64(value.trim())
                .and_then(|text| String::from_utf8(text).ok())
                .and_then(|text| text.split_once(':').map(|(_, given)| same(given, key)))
                .unwrap_or(false)
    });
    if right {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong")
        .hint("send it as Authorization: Bearer KEY"))
}

/// Compares in a time that does not tell where the first difference is.
fn same(a: &str, b: &str) -> bool {
    let difference = a.bytes().zip(b.bytes()).fold(0, |sum, (x, y)| sum | (x ^ y));
    std::hint::black_box(difference) == 0 && a.len() == b.len()
}

/// Standard base64 with or without padding; None on any other character.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bits: u32 = 0;
    let mut held = 0;
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_own_names_and_own_pages() {
        let local: SocketAddr = "127.0.0.1:7478".parse().unwrap();
        let open: SocketAddr = "0.0.0.0:7478".parse().unwrap();
        for (address, pairs, allowed) in [
            (local, vec![("host", "127.0.0.1:7478")], true),
            (local, vec![("host", "LOCALHOST")], true),
            (local, vec![("host", "[::1]:7478")], true),
            (local, vec![("host", "127.9.9.9:1")], true),
            (local, vec![("host", "evil.example:7478")], false),
            (local, vec![("host", "localhost.evil.example")], false),
            (local, vec![("host", "192.168.0.5")], false),
            (local, vec![], false),
            (local, vec![("host", "localhost:1"), ("origin", "http://localhost:1")], true),
            (local, vec![("host", "localhost:1"), ("origin", "http://localhost:2")], false),
            (local, vec![("host", "localhost:1"), ("origin", "http://evil.example")], false),
            (local, vec![("host", "localhost:1"), ("origin", "null")], false),
            (open, vec![("host", "models.example:7478")], true),
            (open, vec![("host", "models.example"), ("origin", "https://models.example")], true),
            (open, vec![("host", "models.example"), ("origin", "https://evil.example")], false),
        ] {
            assert_eq!(check_source(&headers(&pairs), address).is_ok(), allowed, "{address} {pairs:?}");
        }
    }

    #[test]
    fn the_key_by_bearer_or_as_a_browser_password() {
        let key = "0123456789abcdef";
        for (value, allowed) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer 0123456789abcdef", true),
            ("Bearer 0123456789abcdeF", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("0123456789abcdef", false),
            // "me:0123456789abcdef" and "me:wrong"
            ("Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==", true),
            ("Basic bWU6d3Jvbmc=", false),
            ("Basic ???", false),
        ] {
            assert_eq!(check_key(&headers(&[("authorization", value)]), key).is_ok(), allowed, "{value}");
        }
        assert!(check_key(&HeaderMap::new(), key).is_err());
    }
}
