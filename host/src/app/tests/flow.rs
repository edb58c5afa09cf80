//! From a file to a verdict, and what starts, stops and deaths do to it.

use std::collections::BTreeSet;

use super::*;

#[test]
fn drop_a_model_in_and_get_a_verdict_once() {
    let house = House::new();
    house.drop_in("cand.gguf", "GOOD");
    house.drop_in("cand-bad.gguf", "BAD");
    house.drop_in("other.gguf", "GOOD");
    house.drop_in("notes.txt", "x");
    let daemon = house.start(RULE);
    let address = daemon.ready.address;
    // Its reference is not there yet: it waits and says so.
    let waiting = wait("its note", || {
        artifact(address, "cand.gguf").filter(|artifact| {
            artifact["note"].as_str().is_some_and(|n| n.contains("waits for its reference"))
        })
    });
    assert_eq!(waiting["status"], "accept");
    house.drop_in("ref.gguf", "GOOD");
    let done = wait("a verdict", || assays(address).into_iter().find(|assay| assay["state"] == "done"));
    assert_eq!(done["decision"], "SAME");
    assert_eq!(done["request"]["mode"], "quick");
    assert_eq!(done["artifact"], artifact(address, "cand.gguf").unwrap()["id"]);
    let report = get(address, done["report"].as_str().unwrap());
    assert_eq!(report.json()["final_decision"], "SAME");

    let bad = inspected(address, "cand-bad.gguf");
    assert_eq!(
        (bad["status"].as_str(), bad["inspection"]["findings"][0]["code"].as_str()),
        (Some("reject"), Some("truncated"))
    );
    assert!(bad["note"].as_str().unwrap().contains("rejected"));
    let other = wait("its note", || artifact(address, "other.gguf").filter(|a| a["note"].is_string()));
    assert!(other["note"].as_str().unwrap().contains("inspected only"));
    let ignored = artifact(address, "notes.txt").unwrap();
    assert_eq!((ignored["state"].as_str(), ignored["note"].as_str()), (Some("ignored"), Some("no model")));
    let models = get(address, "/v1/models").json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["cand", "other", "ref"], "the rejected one is none");

    // A restart repeats nothing; new bytes do.
    daemon.stop().unwrap();
    let daemon = house.start(RULE);
    let address = daemon.ready.address;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((assays(address).len(), house.runs.load(Ordering::SeqCst)), (1, 1));
    house.drop_in("cand.gguf", "GOOD and new");
    wait("the second assay", || Some(assays(address)).filter(|list| list.len() == 2));
    fs::remove_file(house.path("models/other.gguf")).unwrap();
    wait("it to go", || artifact(address, "other.gguf").is_none().then_some(()));
    daemon.stop().unwrap();
}

#[test]
fn a_sidecar_that_comes_later_starts_an_assay_and_a_broken_one_is_shown() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    fs::write(house.path("trusted.gguf"), "GOOD").unwrap();
    let daemon = house.start("");
    let address = daemon.ready.address;
    inspected(address, "m.gguf");
    house.drop_in("m.gguf.assay.toml", "refrence = \"../trusted.gguf\"");
    wait("the error", || {
        let note = artifact(address, "m.gguf")?["note"].as_str()?.to_owned();
        note.contains("m.gguf.assay.toml:1:1: unknown key `refrence`").then_some(())
    });
    house.drop_in("m.gguf.assay.toml", "reference = \"../trusted.gguf\"");
    let assay = wait("an assay", || assays(address).pop());
    assert_eq!(assay["reference"], house.path("trusted.gguf").to_str().unwrap());
    daemon.stop().unwrap();
}

#[test]
fn what_was_read_of_former_bytes_is_not_taken_for_the_present_ones() {
    let house = House::new();
    house.go.store(false, Ordering::SeqCst);
    house.drop_in("slow.gguf", "GOOD");
    let daemon = house.start("");
    let address = daemon.ready.address;
    let state = |state: &str| {
        wait(state, || artifact(address, "slow.gguf").filter(|artifact| artifact["state"] == state))
    };
    state("inspecting");
    house.drop_in("slow.gguf", "BAD, and longer");
    state("waiting");
    house.go.store(true, Ordering::SeqCst);
    // The result of the good bytes comes now, while the bad ones are there.
    assert_eq!(state("inspected")["status"], "reject");
    let told =
        events(address, &["Last-Event-ID: 0"], |list| list.last().unwrap().kind == "artifact.inspected");
    assert_eq!(told.last().unwrap().data["data"]["status"], "reject", "it was never said to be accepted");
    daemon.stop().unwrap();
}

#[test]
fn assays_are_run_one_by_one_and_can_be_cancelled() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    house.drop_in("panics.gguf", "GOOD");
    house.go.store(false, Ordering::SeqCst);
    let daemon = house.start("");
    let address = daemon.ready.address;
    let key = "00".repeat(32);
    let first =
        post(address, "/api/assays", &json!({"candidate": "m.gguf", "reference": "m.gguf", "key": key}));
    assert_eq!(first.status, 202);
    let place = first.header("location").to_owned();
    assert_eq!(place, format!("/api/assays/{}", id(&first)));
    assert!(!first.body.contains(&key), "the key is no one's business yet");
    let second = id(&post(address, "/api/assays", &json!({"candidate": "m.gguf"})));
    let third = id(&post(address, "/api/assays", &json!({"candidate": "panics.gguf"})));
    in_state(address, &id(&first), "running");
    wait("progress", || {
        let progress = get(address, &place).json()["progress"].clone();
        (progress == json!({"stage": "candidate", "done": 1, "total": 2, "message": "half <way>"}))
            .then_some(())
    });
    assert_eq!(get(address, &format!("/api/assays/{second}")).json()["state"], "queued");
    assert_eq!(get(address, &format!("{place}/report")).status, 409);
    assert!(get(address, "/").body.contains("<progress value=\"1\" max=\"2\">"));
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("\nassayd_queue_depth 2\n"), "{metrics}");

    let cancelled = send(address, "DELETE", &format!("/api/assays/{second}"), &[], None);
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")));
    assert_eq!(send(address, "DELETE", &format!("/api/assays/{second}"), &[], None).status, 409);
    assert_eq!(send(address, "DELETE", &place, &[], None).status, 202);
    in_state(address, &id(&first), "cancelled");
    assert_eq!(get(address, &format!("{place}/report")).status, 404);
    house.go.store(true, Ordering::SeqCst);
    let failed = in_state(address, &third, "failed");
    assert!(failed["error"].as_str().unwrap().contains("broke off"), "{failed}");
    let fourth = id(&post(address, "/api/assays", &json!({"candidate": house.path("models/m.gguf")})));
    in_state(address, &fourth, "done");
    let metrics = get(address, "/metrics").body;
    for line in [
        "assayd_job_total{kind=\"assay\",outcome=\"same\"} 1",
        "assayd_job_total{kind=\"assay\",outcome=\"cancelled\"} 1",
        "assayd_job_total{kind=\"assay\",outcome=\"failed\"} 1",
        "assayd_queue_depth 0",
        "assayd_http_requests_total{method=\"DELETE\",route=\"/api/assays/{id}\",status=\"202\"} 1",
        "assayd_assay_seconds_count 3",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    daemon.stop().unwrap();
}

#[test]
fn a_graceful_stop_puts_the_running_assay_back() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    house.go.store(false, Ordering::SeqCst);
    let daemon = house.start("");
    let running = id(&post(daemon.ready.address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(daemon.ready.address, &running, "running");
    daemon.stop().unwrap();
    house.go.store(true, Ordering::SeqCst);
    let daemon = house.start("");
    assert_eq!(daemon.ready.unfinished, 1);
    let done = in_state(daemon.ready.address, &running, "done");
    assert_eq!(done["attempts"], 1, "the first start was no failed one");
    assert_eq!(house.runs.load(Ordering::SeqCst), 2);
    daemon.stop().unwrap();
}

#[test]
fn an_assay_that_kills_the_daemon_is_not_started_for_ever() {
    let house = House::new();
    house.drop_in("m.gguf", "GOOD");
    let daemon = house.start("");
    let made = id(&post(daemon.ready.address, "/api/assays", &json!({"candidate": "m.gguf"})));
    in_state(daemon.ready.address, &made, "done");
    daemon.stop().unwrap();
    // What three deaths in a row leave behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = Store::open(&house.path("state")).await.unwrap();
        let mut assay = store.reader.assay(made.parse().unwrap()).await.unwrap().unwrap();
        assay.state = crate::store::AssayState::Running;
        assay.attempts = 3;
        store.writer.put(&[Change::Assay(&assay, None)]).await.unwrap();
    });
    let daemon = house.start("");
    let failed = in_state(daemon.ready.address, &made, "failed");
    assert!(failed["error"].as_str().unwrap().contains("ended 3 times"), "{failed}");
    assert_eq!(house.runs.load(Ordering::SeqCst), 1);
    daemon.stop().unwrap();
}

#[test]
fn a_taken_port_and_a_taken_folder_are_told_apart() {
    let house = House::new();
    let daemon = house.start("");
    let again = house.try_start("").unwrap_err();
    assert!(again.message.contains("in use by another assayd"), "{again}");
    let other = House::new();
    let config = format!("listen = \"{}\"\n", daemon.ready.address);
    let taken = other.try_start(&config).unwrap_err();
    assert!(taken.message.contains(&daemon.ready.address.to_string()), "{taken}");
    assert!(taken.hint.unwrap().contains("--listen"));
    daemon.stop().unwrap();
    house.start("").stop().unwrap();
}

#[test]
fn what_is_compared_with_nothing_is_measured_once_and_says_so() {
    let house = House::new();
    house.drop_in("alone.gguf", "GOOD");
    house.drop_in("broken.gguf", "BAD");
    let daemon = house.start("measure = true\n");
    let address = daemon.ready.address;
    let done = wait("a report", || assays(address).into_iter().find(|assay| assay["state"] == "done"));
    assert_eq!((&done["reference"], &done["request"]["reference"]), (&Value::Null, &Value::Null));
    let note = artifact(address, "alone.gguf").unwrap()["note"].as_str().unwrap().to_owned();
    assert!(note.contains("measured only"), "{note}");
    assert!(inspected(address, "broken.gguf")["note"].as_str().unwrap().contains("rejected"));
    daemon.stop().unwrap();
    let daemon = house.start("measure = true\n");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!((assays(daemon.ready.address).len(), house.runs.load(Ordering::SeqCst)), (1, 1));
    daemon.stop().unwrap();
}

#[test]
fn assays_that_wait_together_share_a_key_and_later_ones_get_another() {
    let house = House::new();
    house.go.store(false, Ordering::SeqCst);
    for name in ["a.gguf", "b.gguf", "c.gguf", "ref.gguf"] {
        house.drop_in(name, name);
    }
    let daemon = house.start("");
    let address = daemon.ready.address;
    for name in ["a.gguf", "b.gguf", "c.gguf", "ref.gguf"] {
        inspected(address, name);
    }
    let ask = |candidate: &str, mode: &str| {
        let body = json!({"candidate": candidate, "reference": "ref.gguf", "mode": mode});
        id(&post(address, "/api/assays", &body))
    };
    // The first runs alone; the others wait behind it.
    let first = ask("a.gguf", "audit");
    in_state(address, &first, "running");
    let together = [ask("a.gguf", "audit"), ask("b.gguf", "audit"), ask("c.gguf", "audit")];
    let other_mode = ask("b.gguf", "quick");
    house.go.store(true, Ordering::SeqCst);
    let ran = |id: &str| {
        in_state(address, id, "done");
        get(address, &format!("/api/assays/{id}/report")).json()["request"].clone()
    };
    let requests = together.each_ref().map(|id| ran(id));
    let key = requests[0]["key"].as_str().unwrap();
    assert_eq!(key.len(), 64);
    assert!(requests.iter().all(|request| request["key"] == key), "{requests:?}");
    let roots: BTreeSet<&str> = requests.iter().map(|r| r["candidate_root"].as_str().unwrap()).collect();
    assert_eq!(roots.len(), 3, "each for its own bytes");
    for alone in [&first, &other_mode] {
        assert_ne!(ran(alone).get("key").and_then(Value::as_str), Some(key), "another question");
    }
    // The key is out by now: what comes later must not get it.
    let late = ask("b.gguf", "audit");
    assert_ne!(ran(&late).get("key").and_then(Value::as_str), Some(key));
    // Clients do not see it before the report.
    let listed = get(address, "/api/assays").body;
    assert!(!listed.contains(key), "{listed}");
    daemon.stop().unwrap();
}
