use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::domain::ProblemKind;

fn artifact(path: &str) -> Artifact {
    Artifact {
        id: Uuid::now_v7(),
        path: PathBuf::from(path),
        state: ArtifactState::Waiting,
        note: Some("still growing".to_owned()),
        stamps: vec![Stamp { path: path.into(), bytes: 7, modified_ns: -1, inode: u64::MAX }],
        inspection: None,
        reference: None,
        assayed_for: None,
        found_at: Timestamp::now(),
        updated_at: Timestamp::now(),
    }
}

fn assay(candidate: &str) -> Assay {
    Assay {
        id: Uuid::now_v7(),
        state: AssayState::Queued,
        artifact: None,
        candidate: candidate.into(),
        reference: Some("ref.gguf".into()),
        request: serde_json::json!({"candidate": candidate, "confidence": 0.99}),
        decision: None,
        error: None,
        attempts: 0,
        created_at: Timestamp::now(),
        started_at: None,
        finished_at: None,
    }
}

async fn open(dir: &Path) -> Store {
    Store::open(dir).await.unwrap()
}

#[tokio::test]
async fn what_was_told_is_there_after_a_sudden_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let mut heard = store.reader.listen();
    let found = artifact("/m/a.gguf");
    let mut job = assay("/m/a.gguf");
    store.writer.put(&[Change::Artifact(&found)]).await.unwrap();
    store.writer.put(&[Change::Assay(&job, None)]).await.unwrap();
    job.state = AssayState::Done;
    job.decision = Some("SAME".to_owned());
    store.writer.put(&[Change::Assay(&job, Some("{\"final_decision\":\"SAME\"}"))]).await.unwrap();
    // No close: the same as a kill.
    drop(store);

    let store = open(dir.path()).await;
    assert_eq!(store.reader.artifacts().await.unwrap(), std::slice::from_ref(&found));
    assert_eq!(store.reader.artifact(found.id).await.unwrap(), Some(found));
    assert_eq!(store.reader.assay(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(store.reader.report(job.id).await.unwrap().as_deref(), Some("{\"final_decision\":\"SAME\"}"));
    assert!(store.reader.unfinished().await.unwrap().is_empty());
    let stored = store.reader.events_after(0).await.unwrap();
    let kinds: Vec<&str> = stored.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["artifact.waiting", "assay.queued", "assay.done"]);
    for event in &stored {
        assert_eq!(&heard.recv().await.unwrap(), event, "told what was stored, in its order");
    }
    let second = stored[1].seq.unwrap();
    assert_eq!(store.reader.events_after(second).await.unwrap(), stored[2..]);
    assert_eq!(store.reader.last_event().await.unwrap(), stored[2].seq.unwrap());
}

#[tokio::test]
async fn a_key_is_kept_until_its_assay_has_ended_and_is_told_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let (mut job, other) = (assay("/m/a.gguf"), assay("/m/b.gguf"));
    job.state = AssayState::Running;
    store.writer.put(&[Change::Assay(&job, None), Change::Key(&job, "secret")]).await.unwrap();
    store.writer.put(&[Change::Assay(&other, None), Change::Key(&other, "another")]).await.unwrap();
    drop(store);
    let mut store = open(dir.path()).await;
    let kept: Vec<String> = store.reader.keys().await.unwrap().into_iter().map(|(_, key)| key).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let told = store.reader.events_after(0).await.unwrap();
    assert!(told.len() == 2 && !format!("{told:?}").contains("secret"), "{told:?}");
    job.state = AssayState::Cancelled;
    store.writer.put(&[Change::Assay(&job, None)]).await.unwrap();
    assert_eq!(store.reader.keys().await.unwrap(), [(other.id, "another".to_owned())]);
}

#[tokio::test]
async fn a_second_daemon_is_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    let problem = Store::open(dir.path()).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Conflict);
    assert!(problem.message.contains(&format!("process {}", std::process::id())), "{problem}");
    assert!(problem.hint.unwrap().contains("--state"));
    drop(first);
    open(dir.path()).await;
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let kept = assay("/m/kept.gguf");
    store.writer.put(&[Change::Assay(&kept, None)]).await.unwrap();
    store.writer.pragma("PRAGMA max_page_count = 16").await;
    let mut heard = store.reader.listen();
    let mut lost = assay("/m/lost.gguf");
    lost.error = Some("x".repeat(200_000));
    let error = store.writer.put(&[Change::Assay(&lost, None)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert!(error.at(Path::new("f.db")).hint.unwrap().contains("free some disk space"));
    assert!(heard.try_recv().is_err(), "nothing is told that did not happen");
    assert_eq!(store.reader.assays(10, None, None).await.unwrap(), [kept]);
    // Room again (the limit went with the connection that failed): the same write goes through.
    store.writer.put(&[Change::Assay(&lost, None)]).await.unwrap();
    assert_eq!(heard.try_recv().unwrap().subject, lost.id);
    drop(store);
    let store = open(dir.path()).await;
    assert_eq!(store.reader.assay(lost.id).await.unwrap(), Some(lost), "what was told is on disk");
}

#[tokio::test]
async fn listing_goes_from_new_to_old_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let mut jobs = Vec::new();
    for i in 0..5 {
        let mut job = assay(&format!("/m/{i}.gguf"));
        if i % 2 == 0 {
            job.state = AssayState::Failed;
        }
        store.writer.put(&[Change::Assay(&job, None)]).await.unwrap();
        jobs.insert(0, job);
    }
    assert_eq!(store.reader.assays(2, None, None).await.unwrap(), jobs[..2]);
    assert_eq!(store.reader.assays(9, Some(jobs[1].id), None).await.unwrap(), jobs[2..]);
    let failed = store.reader.assays(9, None, Some(AssayState::Failed)).await.unwrap();
    assert_eq!(failed.len(), 3);
    assert_eq!(
        store.reader.assay_counts().await.unwrap(),
        [("failed".to_owned(), 3), ("queued".to_owned(), 2)]
    );
}

#[tokio::test]
async fn foreign_damaged_and_newer_files_are_named() {
    for (bytes, expected) in [(b"not a database, but long enough to have a header".repeat(30), "damaged")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("assayd.db"), bytes).unwrap();
        let problem = Store::open(dir.path()).await.unwrap_err();
        assert!(problem.message.contains(expected), "{problem}");
        assert!(problem.message.contains("assayd.db"), "{problem}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    store.writer.pragma("PRAGMA user_version = 99").await;
    drop(store);
    let problem = Store::open(dir.path()).await.unwrap_err();
    assert!(problem.message.contains("schema 99"), "{problem}");
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let problem = Store::open(&file.join("state")).await.unwrap_err();
    assert!(problem.message.contains("file/state"), "{problem}");
    assert!(problem.hint.unwrap().contains("--state"));
}
