use super::*;

fn entries(text: &str) -> Vec<(Subject, String)> {
    match List::parse(text.to_owned()) {
        Ok(List::Digests(manifest)) => manifest.entries,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn lines() {
    let digest = "ab".repeat(32);
    let file = |name: &str| Subject::File(name.into());
    let cases = [
        (format!("{digest}  a/b c.gguf"), file("a/b c.gguf")),
        (format!("{digest} *b.gguf"), file("b.gguf")),
        (format!("{}  b.gguf", digest.to_uppercase()), file("b.gguf")),
        (format!("SHA256 (b.gguf) = {digest}"), file("b.gguf")),
        (format!("\\{digest}  b\\n\\\\c.gguf"), file("b\n\\c.gguf")),
        (format!("\u{feff}{digest}  b.gguf\r\n"), file("b.gguf")),
        (format!("{digest}  b.gguf "), file("b.gguf ")),
        (format!("SHA256 (b.gguf) = {digest} "), file("b.gguf")),
        (format!("#file {digest} \"b\\u001b\\\\c.gguf\""), file("b\u{1b}\\c.gguf")),
        (
            format!("sha256    {digest}  x/b.gguf:blk.0.w"),
            Subject::Kind(HashKind::Sha256, "x/b.gguf:blk.0.w".into()),
        ),
        (
            format!("#digest sha256 {digest} \"\\u001b:t\""),
            Subject::Kind(HashKind::Sha256, "\u{1b}:t".into()),
        ),
    ];
    for (line, subject) in cases {
        assert_eq!(entries(&line), [(subject, digest.clone())], "{line}");
    }
    let short = entries(
        "xxh64     b75c5e0a2b7c1d3f  b.gguf:blk.0.w\nuuid      9f2200fc-45e8-5a39-9535-c3ea5c0e0cef  b.gguf",
    );
    assert_eq!(short[0].0, Subject::Kind(HashKind::Xxh64, "b.gguf:blk.0.w".into()));
    assert_eq!(short[1].0, Subject::Kind(HashKind::Uuid, "b.gguf".into()));
    for bad in [
        String::new(),
        "# nothing".into(),
        digest.clone(),
        format!("{digest}  "),
        format!("{digest}  {}", "a".repeat(budget::LISTED_LINE_BYTES)),
        format!("{}  b.gguf", &digest[1..]),
        format!("\\{digest}  b\\x.gguf"),
        format!("md5  {digest}  b.gguf"),
        format!("xxh64  {digest}  b.gguf"),
        format!("{digest}  b.gguf\nnonsense here"),
        "#tensor nonsense".into(),
        format!("#file {digest} unquoted"),
        format!("#digest md5 {digest} \"b.gguf\""),
        format!("#digest xxh64 {digest} \"b.gguf\""),
        format!("#tensor {digest} F32 [1,x] \"t\""),
        format!("#metadata {digest} 0 unquoted"),
        "{}".into(),
        "{\"layers\":[]}".into(),
        "{\"layers\":[{\"mediaType\":\"x\",\"digest\":\"md5:00\",\"size\":1}]}".into(),
        "{ not json".into(),
        "version https://git-lfs.github.com/spec/v1\noid md5:00\nsize 1\n".into(),
    ] {
        assert!(List::parse(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn what_was_not_checked_is_no_pass() {
    let digest = |byte: &str| Some(byte.repeat(32));
    let mut report = Report::default();
    assert_eq!(report.exit_code(), 4, "nothing compared");
    report.digest((What::Tensor, "a"), "sha256", digest("01"), digest("01"));
    assert_eq!(report.exit_code(), 0);
    report.unchecked.push("x".into());
    assert_eq!(report.exit_code(), 4);
    report.digest((What::Tensor, "b"), "sha256", None, digest("01"));
    assert_eq!(report.exit_code(), 1, "an extra tensor is a difference");
}
