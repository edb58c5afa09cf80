//! What clients are answered.

use super::*;

#[test]
fn the_governor_shows_memory_and_what_could_be_had() {
    let house = House::new();
    let daemon = house.start("");
    let answer = get(daemon.ready.address, "/api/governor");
    assert_eq!(answer.status, 200, "{answer:?}");
    let now = answer.json();
    assert!(now["memory"]["total_bytes"].as_u64().unwrap() > 0, "{now}");
    assert!(now["budget"]["limiting"].is_string() && now["levels"]["kill"] == 92, "{now}");
    assert!(now["workers"].is_array() && now["admission"]["promised_bytes"].is_u64(), "{now}");
}

#[test]
fn requests_that_are_wrong_say_what_is_wrong() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    let none = "00000000-0000-7000-8000-000000000000";
    let huge = format!("{{\"candidate\": \"{}\"}}", "x".repeat(2 << 20));
    let one = &format!("/api/assays/{none}");
    let report = &format!("/api/assays/{none}/report");
    for (method, target, body, status, says) in [
        ("GET", "/nothing", None, 404, "/nothing"),
        ("PUT", "/api/assays", None, 405, "does not take PUT"),
        ("GET", "/health?x=1", None, 400, "`x`"),
        ("GET", "/?x=1", None, 400, "`x`"),
        ("GET", "/v1/models?page=1", None, 400, "`page`"),
        ("GET", "/api/artifacts?stat=inspected", None, 400, "`stat`"),
        ("GET", "/api/artifacts?state=asleep", None, 400, "asleep"),
        ("GET", "/api/artifacts/no-id", None, 404, "no such id"),
        ("GET", "/api/assays?limit=0", None, 400, "limit"),
        ("GET", "/api/assays?page=2", None, 400, "`page`"),
        ("GET", "/api/events?since=1", None, 400, "`since`"),
        ("GET", "/api/assays/00000000-0000-7000-8000-000000000000/report?fmt=json", None, 400, "`fmt`"),
        ("GET", "/api/assays?limit=many", None, 400, "invalid digit"),
        ("GET", "/api/events?after=x", None, 400, "invalid digit"),
        ("GET", one, None, 404, "assay"),
        ("DELETE", one, None, 404, "assay"),
        ("GET", report, None, 404, "assay"),
        ("POST", "/api/assays", Some("{"), 400, "EOF"),
        ("POST", "/api/assays", Some("{}"), 400, "`candidate`"),
        ("POST", "/api/assays", Some("{\"candidate\": \"m.gguf\", \"temprature\": 1}"), 400, "`temprature`"),
        ("POST", "/api/assays", Some("{\"candidate\": \"m.gguf\", \"mode\": \"hasty\"}"), 400, "hasty"),
        ("POST", "/api/assays", Some("{\"candidate\": \"m.gguf\", \"load_bits\": 4}"), 400, "not in 4"),
        (
            "POST",
            "/api/assays",
            Some("{\"candidate\": \"m.gguf\", \"scorer\": \"nonsense\"}"),
            400,
            "nonsense",
        ),
        ("POST", "/api/assays", Some("{\"candidate\": \"missing.gguf\"}"), 400, "missing.gguf"),
        ("POST", "/api/assays", Some("{\"candidate\": \"../config.toml\"}"), 400, "config.toml"),
        ("POST", "/api/assays?x=1", Some("{\"candidate\": \"m.gguf\"}"), 400, "`x`"),
        ("POST", "/api/assays", Some(&huge), 413, "larger"),
    ] {
        let answer = send(address, method, target, &[], body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert!(answer.body.contains(says), "{method} {target}: {answer:?}");
        let problem = answer.json();
        if target.starts_with("/v1") {
            assert_eq!(problem["error"]["type"], "invalid_request_error", "{answer:?}");
            assert_eq!(problem["error"]["param"], "page");
        } else {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
            assert_eq!(problem["status"], status);
        }
    }
    let named = post(address, "/api/assays", &json!({"candidate": "m.gguf", "temprature": 1})).json();
    assert_eq!(named["param"], "temprature");
    let form = send(
        address,
        "POST",
        "/api/assays",
        &["Content-Type: text/plain"],
        Some("{\"candidate\": \"m.gguf\"}"),
    );
    assert_eq!(form.status, 415);
    for headers in [["Host: evil.example"], ["Origin: http://evil.example"], ["Origin: null"]] {
        assert_eq!(send(address, "GET", "/api/assays", &headers, None).status, 403, "{headers:?}");
    }
    assert!(assays(address).is_empty(), "nothing was queued by any of them");
    daemon.stop().unwrap();
}

#[test]
fn events_are_resumed_without_loss() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "m.gguf");
    let made = id(&post(address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(address, &made, "done");
    let is_done =
        |list: &[crate::api::testing::Sent]| list.last().is_some_and(|last| last.kind == "assay.done");
    let all = events(address, &["Last-Event-ID: 0"], is_done);
    let kinds: Vec<&str> = all.iter().map(|sent| sent.kind.as_str()).collect();
    let expected = [
        "artifact.waiting",
        "artifact.inspecting",
        "artifact.inspected",
        "assay.queued",
        "assay.running",
        "assay.done",
    ];
    assert_eq!(kinds, expected);
    let numbers: Vec<i64> = all.iter().map(|sent| sent.id.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=6).collect::<Vec<i64>>());
    let rest = events(address, &["Last-Event-ID: 4"], is_done);
    assert_eq!(rest, all[4..]);
    // A number from another life: start anew.
    let reset = events(address, &["Last-Event-ID: 999"], |list| !list.is_empty());
    assert_eq!((reset[0].kind.as_str(), reset[0].id.as_str()), ("reset", "6"));
    // So do numbers whose events are no more on record.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(crate::store::forget_events(&house.path("state"), 3));
    let reset = events(address, &["Last-Event-ID: 2"], |list| !list.is_empty());
    assert_eq!(reset.first().unwrap().kind, "reset");
    let rest = events(address, &["Last-Event-ID: 3"], is_done);
    assert_eq!(rest, all[3..]);
    // And live.
    let live = std::thread::spawn(move || events(address, &[], is_done));
    std::thread::sleep(Duration::from_millis(300));
    post(address, "/api/assays", &json!({"candidate": "m.gguf"}));
    let live = live.join().unwrap();
    assert_eq!(live[0].id, "7");
    assert!(live.iter().filter(|sent| sent.kind == "assay.progress").all(|sent| sent.id.is_empty()));
    // A stop ends open streams at once.
    let open = std::thread::spawn(move || std::panic::catch_unwind(|| events(address, &[], |_| false)));
    std::thread::sleep(Duration::from_millis(200));
    let began = std::time::Instant::now();
    daemon.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(open.join().unwrap().is_err(), "the stream ended");
}

#[test]
fn the_page_shows_names_as_text_and_allows_nothing_else() {
    let house = House::new();
    house.drop_in("<img src=x onerror=alert(1)>.gguf", "BAD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "<img src=x onerror=alert(1)>.gguf");
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    for hostile in ["<img", "<script>alert", "<b>llama"] {
        assert!(!page.body.contains(hostile), "{hostile}");
    }
    for shown in ["&#60;img src=x", "rejected", "truncated", "7.24 B"] {
        assert!(page.body.contains(shown), "{shown} in {}", page.body);
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(
        !page.body.contains("style=") && !page.body.contains("http://"),
        "nothing inline, nothing from elsewhere"
    );
    for (path, media) in
        [("/assets/page.css", "text/css"), ("/assets/page.js", "text/javascript"), ("/docs", "text/html")]
    {
        let answer = get(address, path);
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with(media));
    }
    // A rendered report is a plugin's: it may show itself and nothing more.
    let made = id(&post(address, "/api/assays", &json!({"candidate": house.path("models")})));
    in_state(address, &made, "done");
    let report = get(address, &format!("/api/assays/{made}/report?format=html"));
    assert!(report.header("content-security-policy").contains("sandbox"), "{report:?}");
    assert_eq!(get(address, &format!("/api/assays/{made}/report?format=pdf")).status, 400);
    daemon.stop().unwrap();
}

#[test]
fn an_open_address_wants_the_key_for_everything_but_health() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    fs::write(house.path("key"), "0123456789abcdef\n").unwrap();
    let daemon = house.start("listen = \"0.0.0.0:0\"\napi_key_file = \"key\"\n");
    let address: SocketAddr = ([127, 0, 0, 1], daemon.ready.address.port()).into();
    assert_eq!(get(address, "/health").status, 200);
    for path in ["/", "/metrics", "/api/artifacts", "/openapi.json", "/nothing"] {
        let refused = get(address, path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").starts_with("Basic"));
        let key = "Authorization: Bearer 0123456789abcdef";
        assert_ne!(send(address, "GET", path, &[key], None).status, 401, "{path}");
    }
    assert_eq!(get(address, "/v1/models").json()["error"]["code"], "invalid_api_key");
    // Others may not have just any file of this machine looked at.
    let key = "Authorization: Bearer 0123456789abcdef";
    let body = json!({"candidate": house.path("key")}).to_string();
    assert_eq!(send(address, "POST", "/api/assays", &[key], Some(&body)).status, 400);
    let body = json!({"candidate": house.path("models/m.gguf")}).to_string();
    assert_eq!(send(address, "POST", "/api/assays", &[key], Some(&body)).status, 202);
    daemon.stop().unwrap();
}
