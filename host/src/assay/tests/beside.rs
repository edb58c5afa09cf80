//! What stands beside the verdict: rare differences, p-values whatever decides, the user's own prompts.

use super::*;
use crate::assay::events::Stage;
use crate::assay::transcript::leaves;

/// A rare gross difference is named with its prompt, and the report says what could hide.
#[test]
fn a_rare_difference_stands_out_in_the_report() {
    let gross_of = |report: &Report| -> Vec<u64> {
        let gross = report.records.iter().filter(|record| record.score == Some(1.0));
        gross.map(|record| record.challenge.index).collect()
    };
    // A script decides by the beginning of a prompt, so a share hits more prompts or fewer.
    let rare = |report: &Report| (1..report.records.len() / 4).contains(&gross_of(report).len());
    let shares = (1..40).map(|percent| Bench::new(&format!(r#", "gross_share": 0.{percent:02}"#)).run());
    let report = { shares }.find(rare).unwrap();
    let (diff, gross) = (&report.enhanced_diff, gross_of(&report));
    assert!(diff.outliers.iter().all(|outlier| gross.contains(&outlier.index) && outlier.score == 1.0));
    assert_eq!(diff.outliers.len(), gross.len().min(crate::domain::budget::REPORT_OUTLIERS));
    assert!(diff.rare_difference.as_ref().unwrap().contains("not excluded"));
    // Scripts have no weights: the label says so instead of guessing.
    assert_eq!(report.relationship.unwrap().label, crate::assay::relationship::Label::Unknown);
}

/// Whatever decides, p-values and a certified delta are there.
#[test]
fn a_decider_without_e_values_gets_those_of_the_hedged_sequence() {
    for (decider, from) in [("grid5", "grid5"), ("prpl-eb", "hedged"), ("stitched", "hedged")] {
        let mut bench = Bench::new("");
        bench.request.decider = decider.to_owned();
        let diff = bench.run().enhanced_diff;
        assert_eq!(diff.p_values_from.as_deref(), Some(from), "{decider}");
        assert!(diff.p_same.unwrap() < 0.05 && diff.p_different == Some(1.0), "{decider}: {diff:?}");
        assert!(diff.smallest_delta_certified.unwrap() <= 0.2, "{decider}: {diff:?}");
    }
}

/// Probes have no part in the verdict, whatever they find.
#[test]
fn probes_change_nothing_but_their_own_part() {
    let mut bench = Bench::new(r#", "gross_share": 0.3"#);
    let without = bench.run();
    bench.request.probes = (0..20).map(|i| format!("{i} is the number of this prompt")).collect();
    let with = bench.run();
    assert_eq!((&without.records, &without.enhanced_diff), (&with.records, &with.enhanced_diff));
    assert_eq!(without.final_decision, with.final_decision);
    // In the transcript they have leaves of their own, between the challenges and the closing one.
    let (judged, all) = (leaves(&without).unwrap(), leaves(&with).unwrap());
    let asked = judged.len() - 1;
    assert_eq!(all.len(), judged.len() + 20);
    assert_eq!(judged[..asked], all[..asked]);
    let probes = with.probes.unwrap();
    assert_eq!((probes.prompts, probes.failed, probes.results.len()), (20, 0, 20));
    let above = probes.results.iter().filter(|result| result.score > Some(0.05)).count() as u64;
    assert_eq!(probes.above_gamma, above);
    assert!((1..20).contains(&above), "{above} of 20 at a share of 0.3");
    let scored = |event: &&AssayEvent| matches!(event, AssayEvent::Scored { .. });
    let scored = bench.events.borrow().iter().filter(scored).count();
    assert_eq!(scored, 2 * with.records.len(), "a probe is no judged challenge, not even as an event");
}

/// Whether a file below `folder` holds one of these.
fn holds(folder: &Path, needles: &[&[u8]]) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, needles);
        }
        let bytes = std::fs::read(&path).unwrap();
        needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == *needle))
    })
}

/// Until every model is gone the key stands in no file, not in the half of a bundle and not in
/// what is told; afterwards it does.
#[test]
fn the_key_is_nowhere_before_it_is_revealed() {
    let mut bench = Bench::new(r#", "noise": 0.2, "noise_seed": 3"#);
    let key: Vec<u8> = (0..32_u8).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    bench.request.key = Some(KeyText(text.clone()));
    bench.request.probes = vec!["a prompt of my own".to_owned()];
    let (folder, needles) = (bench.folder.path(), [&key[..16], &text.as_bytes()[..32]]);
    let bundle = BundleWriter::create(&folder.join("a.bundle"), 1 << 30).unwrap();
    let (looks, over) = (Cell::new(0), Cell::new(false));
    let on_event = |event: AssayEvent| {
        over.set(over.get() || matches!(event, AssayEvent::Stage { stage: Stage::Closing }));
        if !over.get() {
            looks.set(looks.get() + 1);
            assert!(!format!("{event:?}").contains(&text[..32]), "{event:?}");
            assert!(!holds(folder, &needles), "after {event:?}");
        }
    };
    let context = AssayContext {
        plugins: Arc::clone(&PLUGINS),
        cache_dir: folder.join("cache"),
        bundle: Some(&bundle),
        cancel: Arc::default(),
        on_event: &on_event,
    };
    let report = judge(&bench.request, &context, &bench.runner, &|role, path| bench.inspection(role, path));
    assert!(over.get() && looks.get() > 20, "{} looks", looks.get());
    assert_eq!(report.challenges.as_ref().unwrap().key_revealed.as_ref(), Some(&text));
    bundle.finish(&report, &PLUGINS, None).unwrap();
    assert!(holds(folder, &needles), "a bundle reveals it");
}
