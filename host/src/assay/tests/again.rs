//! One retry after memory ran out: with less, before any score was seen, and never a second time.

use super::*;

/// The retry's verdict, bundle and all, is that of a run that had less from the start.
#[test]
fn memory_that_ran_out_before_a_score_is_tried_again_with_less() {
    let bench = Bench::new(r#", "noise": 0.2, "noise_seed": 3"#);
    bench.runner.no_memory.set(1);
    let path = bench.folder.path().join("b");
    let writer = BundleWriter::create(&path, 1 << 30).unwrap();
    let report = bench.run_into(Some(&writer));
    assert_eq!(report.final_decision, FinalDecision::Same, "{:?}", report.error);
    // The reference answers again: other settings, other traces.
    assert_eq!(
        bench.log(),
        ["commit", "load reference", "load candidate", "load reference", "load candidate"]
    );
    let given_up = &report.memory.given_up;
    assert_eq!(given_up.len(), 1);
    assert!(given_up[0].contains("256") && given_up[0].contains("512"), "{given_up:?}");
    assert!(report.remarks.iter().any(|r| r.contains("tried again") && r.contains("no memory")));
    let endings: Vec<Ending> = report.workers.iter().map(|worker| worker.ending).collect();
    assert_eq!(endings, [Ending::Ok, Ending::OomKilled, Ending::Ok, Ending::Ok]);
    writer.finish(&report, &PLUGINS, None).unwrap();
    let found = verify(&path, &Trust::default(), &PLUGINS, &mut |_| {});
    assert_eq!((found.outcome, found.n), (Outcome::Verified, Some(report.enhanced_diff.n_effective)));
}

#[test]
fn there_is_one_retry_and_none_after_a_score() {
    let twice = Bench::new("");
    twice.runner.no_memory.set(2);
    let report = twice.run();
    assert_eq!((report.final_decision, report.success), (FinalDecision::Error, false));
    assert_eq!(twice.log().iter().filter(|line| *line == "load candidate").count(), 2);

    // A look at scores and then a second try would be a second chance to err.
    for (rounds, loads, decision) in [(0, 2, FinalDecision::Same), (1, 1, FinalDecision::Error)] {
        let bench = Bench::new("");
        bench.runner.no_memory_after.set(Some(rounds));
        let report = bench.run();
        assert_eq!(report.final_decision, decision, "after {rounds} rounds: {:?}", report.error);
        assert_eq!(bench.log().iter().filter(|line| *line == "load candidate").count(), loads);
    }
}
