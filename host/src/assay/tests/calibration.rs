//! A measured band over scripts: what an honest copy of the reference scores, and what it may not.

use super::*;
use crate::assay::band::BandChoice;

fn bench(honest: &str, candidate: &str) -> Bench {
    let mut bench = Bench::new(candidate);
    bench.request.band = BandChoice::Auto;
    bench.runner.honest = honest.to_owned();
    bench.tensors = vec![TensorDigest {
        name: "token_embd.weight".to_owned(),
        dtype: "Q8_0".to_owned(),
        shape: vec![64, 64],
        bytes: 64,
        root: Sha256([1; 32]),
        others: Default::default(),
    }];
    bench
}

/// The band follows from the honest copy alone, before the candidate is loaded.
#[test]
fn the_band_is_that_of_the_honest_copy_and_comes_first() {
    const ROUNDING: &str = r#", "noise": 0.3, "noise_seed": 3"#;
    let honest = bench(ROUNDING, r#", "noise": 0.3, "noise_seed": 9"#);
    let path = honest.folder.path().join("b");
    let writer = BundleWriter::create(&path, 1 << 30).unwrap();
    let report = honest.run_into(Some(&writer));
    assert_eq!(report.final_decision, FinalDecision::Same, "{:?}", report.error);
    let band = report.band.clone().unwrap();
    assert_eq!((band.pilot, band.n, band.distinct), (8, 64, 72));
    assert_eq!((report.enhanced_diff.gamma, report.enhanced_diff.delta), (band.gamma, band.delta));
    assert!(0.0 < band.mean && band.mean < band.gamma, "{band:?}");
    let log = honest.log();
    let at = |what: &str| log.iter().position(|line| line == what).unwrap();
    assert!(at("commit") < at("quantize") && at("quantize") < at("load honest"), "{log:?}");
    assert!(log.iter().rposition(|line| line == "load honest") < Some(at("load candidate")), "{log:?}");
    writer.finish(&report, &PLUGINS, None).unwrap();
    let found = verify(&path, &Trust::default(), &PLUGINS, &mut |_| {});
    assert_eq!(found.outcome, Outcome::Verified, "{found:?}");

    // Another candidate, the same band; it is judged by it.
    let gross = bench(ROUNDING, r#", "gross_share": 1.0"#).run();
    assert_eq!(gross.final_decision, FinalDecision::Different);
    assert_eq!(gross.band.unwrap().digest, band.digest);
}

/// A band over what happened to answer would be a band over a chosen few.
#[test]
fn too_many_failed_calibration_challenges_are_an_error() {
    // The first of each round, so one of eight.
    let report = bench(r#", "faults": {"fail_items": [0]}"#, "").run();
    assert_eq!(report.final_decision, FinalDecision::Error);
    let error = report.error.unwrap();
    assert!(error.contains("while calibrating") && error.contains("failed"), "{error}");
    assert!(report.band.is_none() && report.enhanced_diff.decision.is_none());
}
