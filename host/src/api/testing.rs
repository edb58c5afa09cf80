//! A small HTTP client over a plain socket, for tests: every byte that is sent is theirs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends a request; `headers` are whole lines. `Host` is added unless given.
pub fn send(address: SocketAddr, method: &str, target: &str, headers: &[&str], body: Option<&str>) -> Answer {
    let mut stream = connect(address);
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|line| line.to_lowercase().starts_with("host:")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for line in headers {
        head.push_str(&format!("{line}\r\n"));
    }
    if let Some(body) = body {
        if !headers.iter().any(|line| line.to_lowercase().starts_with("content-type:")) {
            head.push_str("Content-Type: application/json\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{head}\r\n{}", body.unwrap_or("")).as_bytes()).unwrap();
    let mut text = Vec::new();
    // A connection that is reset after its answer still answered.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

pub fn get(address: SocketAddr, target: &str) -> Answer {
    send(address, "GET", target, &[], None)
}

pub fn post(address: SocketAddr, target: &str, body: &Value) -> Answer {
    send(address, "POST", target, &[], Some(&body.to_string()))
}

/// One server-sent event; `id` is empty where there was none.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// Reads events until `enough` says so of those read.
pub fn events(address: SocketAddr, headers: &[&str], enough: impl Fn(&[Sent]) -> bool) -> Vec<Sent> {
    let mut stream = connect(address);
    let mut head = format!("GET /api/events HTTP/1.1\r\nHost: {address}\r\n");
    for line in headers {
        head.push_str(&format!("{line}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let mut list = Vec::new();
    let mut sent = Sent { id: String::new(), kind: String::new(), data: Value::Null };
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        // Lines of chunk sizes have no colon and pass unnoticed.
        match line.split_once(':') {
            Some(("id", value)) => value.trim().clone_into(&mut sent.id),
            Some(("event", value)) => value.trim().clone_into(&mut sent.kind),
            Some(("data", value)) => sent.data = serde_json::from_str(value.trim()).unwrap(),
            _ if line.is_empty() && !sent.kind.is_empty() => {
                list.push(std::mem::replace(
                    &mut sent,
                    Sent { id: String::new(), kind: String::new(), data: Value::Null },
                ));
                if enough(&list) {
                    return list;
                }
            }
            _ => {}
        }
    }
    panic!("the stream ended after {list:?}");
}

/// Calls until there is a value.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
