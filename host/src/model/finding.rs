//! The table of finding codes: name, severity, what it means, what to do.
//!
//! `host/docs/findings.md` is this table for readers, and a test keeps the two equal.
//! A code is stable: scripts and hash-check plugins match on it.

use serde::{Deserialize, Serialize};

use crate::domain::inspection::{Finding, Severity};
use crate::domain::{budget, text};

macro_rules! codes {
    ($($variant:ident $name:literal $severity:ident $meaning:literal $remedy:literal)*) => {
        /// A stable finding code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant),* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The word in reports.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity),* }
            }

            /// One or two sentences for `host/docs/findings.md`.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning),* }
            }

            /// What a person can do about it.
            pub fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy),* }
            }
        }
    };
}

const _: () = assert!(budget::FINDINGS > 1);

codes! {
    // What the file is.
    Empty "empty" Error
        "The file has no bytes."
        "Download it again; the disk may have been full."
    ZeroedHeader "zeroed-header" Error
        "The file begins with zero bytes where the header should be: space was reserved but the data never arrived."
        "Download it again; a resumed download or a crash left a hole."
    BadMagic "bad-magic" Error
        "The first bytes are not those of any model format assayd knows."
        "Check that this is a model file and that the download finished."
    DisguisedFormat "disguised-format" Error
        "The content is of another format than the name says (a pickle, an archive, a program, another model format)."
        "Do not load it. Find out where it came from; if it is a mere mix-up, rename it to what it is."
    LfsPointer "lfs-pointer" Error
        "This is a Git LFS pointer, a small text that stands for the real file."
        "Run `git lfs pull` in the repository, or download the file itself."
    HtmlPage "html-page" Error
        "This is a web page, not a model: most likely an error or log-in page saved under the model's name."
        "Download it again, logged in if the model is gated."
    UnsupportedVersion "unsupported-version" Error
        "The format version is not one that current runtimes read (GGUF 2 and 3)."
        "Convert the model again with a current converter."
    BigEndian "big-endian" Error
        "The file is written for big-endian machines; runtimes here would misread every number."
        "Get or convert the little-endian file."
    Unreadable "unreadable" Error
        "The path could not be read or holds nothing that could be a model; nothing is known about it."
        "Check the path, its permissions and the disk."
    NotExamined "not-examined" Error
        "The format was recognised, but this version of assayd does not examine it."
        "Update assayd, or convert the model to GGUF or safetensors."
    FileChanged "file-changed" Error
        "The file grew, shrank or was replaced while it was being read."
        "Wait until whatever writes it is done, then inspect again."
    NotALanguageModel "not-a-language-model" Warning
        "The file is well-formed but holds something else than a language model (an importance matrix, a vocabulary, a projector, an image model)."
        "Nothing to repair; it cannot be assayed as a model."

    // The header.
    Truncated "truncated" Error
        "The file ends before the bytes that its header or its pickle declares."
        "Download it again or resume the download; compare the size with the publisher's."
    ImpossibleCount "impossible-count" Error
        "The header declares more entries than any model has."
        "Do not load it: such counts crash or exploit careless loaders. Get a clean copy."
    ImpossibleLength "impossible-length" Error
        "The header declares a string or array longer than that of any model."
        "Do not load it: such lengths crash or exploit careless loaders. Get a clean copy."
    HeaderTooLarge "header-too-large" Error
        "Metadata and tensor table together exceed the limit on header bytes."
        "Get a clean copy; no published model needs a header this large."
    InvalidUtf8 "invalid-utf8" Error
        "A key, a tensor name or a metadata text is not valid UTF-8."
        "Get a clean copy, or convert the model again."
    BadName "bad-name" Error
        "A key or tensor name is empty, too long, or holds control characters, NUL or others that nobody sees, which loaders read as different names."
        "Do not load it; get a clean copy."
    DuplicateKey "duplicate-key" Error
        "A metadata key occurs twice; loaders disagree on which one counts."
        "Get a clean copy, or write the metadata again with a current tool."
    BadMetadataType "bad-metadata-type" Error
        "A metadata entry has a type that does not exist or that runtimes refuse (an array of arrays)."
        "Get a clean copy, or convert the model again."
    MetadataWrongType "metadata-wrong-type" Error
        "A key that runtimes rely on has another type than they demand; some abort on it. A warning for a key that is read for some architectures, and perhaps not for this one."
        "Write the entry again with the right type (gguf_set_metadata, gguf_new_metadata)."
    BadAlignment "bad-alignment" Error
        "general.alignment is 0, not a power of two, or absurd."
        "Get a clean copy, or convert the model again."

    BadJson "bad-json" Error
        "A header or a configuration file is not the JSON it must be."
        "Get a clean copy of the file."

    // The tensor table.
    DuplicateTensor "duplicate-tensor" Error
        "Two tensors, or two entries of a safetensors header or index, have the same name; loaders disagree on which one counts."
        "Do not load it; get a clean copy."
    BadDimensions "bad-dimensions" Error
        "A tensor has more than four dimensions, a dimension of 0, or rows that are not whole blocks of its type."
        "Get a clean copy, or convert the model again."
    DimsOverflow "dims-overflow" Error
        "The dimensions of a tensor multiply to more than any machine can address."
        "Do not load it: this is a known way to overflow buffers in loaders."
    UnknownTensorType "unknown-tensor-type" Error
        "A tensor has a storage type that does not exist, or that current runtimes removed."
        "Convert the model again; if the type is new, update assayd."
    TensorUnaligned "tensor-unaligned" Error
        "A tensor's data does not start at a multiple of the alignment."
        "Get a clean copy, or convert the model again."
    TensorOverlap "tensor-overlap" Error
        "The data of two tensors overlap."
        "Do not load it; get a clean copy."
    TensorGap "tensor-gap" Error
        "There are unaccounted bytes between two tensors, which runtimes refuse and in which anything can hide."
        "Get a clean copy, or convert the model again."
    TensorOutOfRange "tensor-out-of-range" Error
        "A tensor claims bytes beyond the end of the file, or of any file, and not because the file was cut short."
        "Do not load it: careless loaders read foreign memory there."
    UndeclaredTensor "undeclared-tensor" Error
        "The tensor table goes on after the declared number of tensors: a tensor was hidden from the loader."
        "Do not load it: without that tensor the model runs with other weights than it should. Get a clean copy."
    TrailingBytes "trailing-bytes" Warning
        "Bytes follow the last tensor, the last pickle or the end of an archive that no runtime reads; the message says what they look like. An error in safetensors files, which forbid it."
        "Ask what they are for. Cutting the file at the given offset removes them."
    NonzeroPadding "nonzero-padding" Warning
        "Bytes between the tensors, which should be zero, are not."
        "Compare the digest with the publisher's: no runtime reads these bytes, but something may be hidden in them, or the file was damaged."

    // Metadata against tensors.
    MetadataMissing "metadata-missing" Error
        "An entry without which no runtime can load the model is absent."
        "Convert the model again with a current converter."
    MetadataAbsurd "metadata-absurd" Error
        "An entry has a value that no model can have (no layers, millions of heads, a NaN, heads for another number of layers, a tokenizer that runtimes do not know)."
        "Do not load it: some loaders abort on such values. Get a clean copy."
    MissingTensor "missing-tensor" Error
        "The metadata declares a layer or a part of the model whose tensors are not there. A warning where only the other layers, or other architectures, have such a tensor."
        "Get the complete file; parts of the model were dropped or the metadata was changed."
    UnexpectedTensor "unexpected-tensor" Error
        "There are tensors of layers beyond the declared number of layers, or of modules that an adapter's configuration does not name; runtimes refuse the file or leave them out."
        "Get a clean copy; the metadata and the weights are not of the same model."
    UnknownTensor "unknown-tensor" Warning
        "A tensor has a name that no model of this architecture has; runtimes that count tensors refuse the file."
        "Check for a misspelt name; convert the model again with a current converter if a runtime refuses it."
    InventoryUnknown "inventory-unknown" Info
        "It is not known which tensors this architecture must have, so nobody looked whether all are there."
        "Update assayd if the architecture is not new."
    VocabMismatch "vocab-mismatch" Error
        "The number of tokens, the token attributes and the rows of the embedding do not fit together."
        "Get a clean copy; tokenizer and weights are not of the same model."
    ShapeMismatch "shape-mismatch" Error
        "A tensor's shape contradicts the metadata (embedding width, head counts, feed-forward width)."
        "Get a clean copy; metadata and weights are not of the same model."
    TokenNotUtf8 "token-not-utf8" Warning
        "Tokens of the vocabulary are not valid UTF-8; some runtimes refuse them."
        "Convert the model again with a current converter if a runtime refuses it."
    BadToken "bad-token" Error
        "A token that stands for a byte is not written <0x00> to <0xFF>; loaders have written outside of their buffers on such a token."
        "Do not load it; get a clean copy."
    DuplicateToken "duplicate-token" Error
        "Two tokens of the vocabulary have the same text; runtimes abort on it, or never use one of the two."
        "Get a clean copy, or convert the model again."
    SpecialTokenRange "special-token-range" Warning
        "A special token's id lies outside the vocabulary; runtimes ignore it."
        "Write the entry again with the right id."
    FileTypeMismatch "file-type-mismatch" Info
        "general.file_type names another quantisation than the tensors have; the tensors are believed."
        "Harmless; the publisher's label is wrong."

    // Chat templates: looked at, never rendered.
    TemplateReach "template-reach" Error
        "A chat template reaches outside of the template language: attributes of the interpreter's own (`__class__`), other files, or functions that no runtime should offer; or it takes a part of a value by a name that it puts together, or calls what has no name, which may lead anywhere. Rendered without a sandbox it runs code."
        "Do not load it in anything that renders templates. Replace the template with the publisher's."
    TemplateTrigger "template-trigger" Warning
        "A chat template adds text when a message holds certain words or is written in a certain way, when a date has come, by chance, or when the conversation has a certain length; or a word decides about a web address, a command, a hidden character, however short: the model is told something that nobody wrote."
        "Read the template; unless its author explains the condition, replace it with the publisher's."
    TemplateControlWord "template-control-word" Info
        "A chat template adds text when a message holds a switch such as `/no_think` or a part of a certain kind, or after a marker was found in one, as models with switchable thinking do."
        "Read the added text if the model is not known for such a switch."
    TemplateEndless "template-endless" Error
        "A chat template has a loop or a macro that does not end, or makes text too long to handle: something doubles from line to line or from round to round, or is as long or goes round as often as a huge number says."
        "Do not load it in anything that renders templates. Replace the template with the publisher's."
    TemplateUnknownName "template-unknown-name" Warning
        "A chat template calls a function or a filter that is not known to exist in runtimes."
        "Read the template; a runtime without that name will fail on the first message."
    TemplateOwnText "template-own-text" Info
        "A chat template adds prose behind the messages, where others have a marker at most."
        "Read it: every conversation with this model ends with that text."
    TemplateUnread "template-unread" Warning
        "A chat template cannot be read as Jinja, or is larger or more entangled than any known one, so what it does is not known."
        "Read it before using it, or replace it with the publisher's."

    // Split sets.
    SplitMissingPart "split-missing-part" Error
        "A part of the split set is not in the folder."
        "Download the missing part into the same folder."
    SplitZeroedPart "split-zeroed-part" Error
        "A part of the split set consists of zero bytes where its header should be."
        "Download that part again."
    SplitSwappedParts "split-swapped-parts" Error
        "Parts of the set carry each other's number: their names were exchanged."
        "Rename the parts so that the number in the name is split.no plus one."
    SplitWrongNumber "split-wrong-number" Error
        "A part's own number (split.no) is not the one in its name."
        "Download that part again; it belongs to another place or another set."
    SplitWrongCount "split-wrong-count" Error
        "A part says another number of parts (split.count) than the names do."
        "Get all parts from one source; they are not of one set."
    SplitTensorCount "split-tensor-count" Error
        "The parts together hold another number of tensors than split.tensors.count says, or the first part does not have that entry."
        "Get all parts from one source; one of them is not the right one."
    SplitDuplicateTensor "split-duplicate-tensor" Error
        "The same tensor is in two parts."
        "Get all parts from one source; one of them is not the right one."
    SplitForeignPart "split-foreign-part" Error
        "A part belongs to another model: its metadata or its shapes contradict the first part."
        "Download that part again from the source of the others."
    SplitUnmarked "split-unmarked" Error
        "The name says part of a set and the metadata does not, or the other way round; runtimes refuse it, or take the part for the whole."
        "Restore the original file name (NAME-00001-of-0000N.gguf)."

    // Folders of safetensors.
    ShardMissing "shard-missing" Error
        "The index names a file of weights that is not in the folder, or the numbered files are not complete."
        "Download the missing file into the same folder."
    ShardTensor "shard-tensor" Error
        "A tensor is not in the file that the index says, or is in two files."
        "Get index and files from one source."
    PathTraversal "path-traversal" Error
        "The index names a file outside of the folder."
        "Do not load it: a careless loader would read files of yours."
    SymlinkEscape "symlink-escape" Warning
        "A file of the artifact is a symbolic link that leads out of the folder."
        "Check where it leads; copy the file if it is meant to be part of the model."
    RemoteCode "remote-code" Warning
        "The configuration asks the loader to run Python code that comes with the model."
        "Read that code before allowing it (trust_remote_code)."
    NameDigest "name-digest" Error
        "A blob of the Hugging Face cache or of ollama is called after a digest that is not its own."
        "Download it again: bytes were lost or exchanged since it got its name."
    OtherWeights "other-weights" Info
        "The folder holds weights that are not those that runtimes load: another variant, or a second copy. A warning where it depends on the runtime."
        "Delete what is not needed; to have it examined, name the file itself."
    ConfigMissing "config-missing" Info
        "There is no config.json beside the weights, so little can be said about the model."
        "Download config.json into the same folder."

    // Documents beside the weights, and alone.
    MergeMarker "merge-marker" Warning
        "A line of a document is a marker that a merge conflict left (`<<<<<<<`, `|||||||`, `=======`, `>>>>>>>`): both versions are in it, and which one holds is not known."
        "Resolve the conflict: keep one version and delete the markers; or get the publisher's finished document."
    OpenPlaceholder "open-placeholder" Warning
        "A document has a placeholder (`{UPPER_CASE}`) that nobody filled in, so what it should say is not known."
        "Fill it in, or ask the publisher; what is meant literally belongs into a fenced code block."
    DocumentUnread "document-unread" Warning
        "A document could not be read, is larger than any known one, or is one of too many, so it was not (wholly) looked at."
        "Read it before relying on it, or remove it."

    // Pickles.
    PickleFormat "pickle-format" Warning
        "A PyTorch pickle: only tensor-rebuilding code was found in it, but the format can run any code."
        "Prefer a safetensors or GGUF copy."
    PickleCodeExecution "pickle-code-execution" Error
        "Loading this file would run foreign code; the message names the function or the program."
        "Do not load it. Delete it, and tell whoever published it."
    PickleUnknownImport "pickle-unknown-import" Error
        "The pickle calls a function that is not known to be needed for tensors."
        "Do not load it unless you know that function; ask for a safetensors copy."
    PickleBroken "pickle-broken" Error
        "The pickle cannot be followed to its end, so what it does is not known."
        "Do not load it; get a clean copy."
    MissingStorage "missing-storage" Error
        "The numbers of a tensor are not in the archive, or fewer than the pickle says."
        "Get a clean copy; a part of the weights is not there."
    ArchiveInconsistent "archive-inconsistent" Error
        "The archive's directory and its entries contradict each other (names, sizes, checksums), entries are encrypted or compressed in a way PyTorch never does, or the archive is a part of the file alone: damage, or a way to hide content from scanners."
        "Do not load it; get a clean copy."

    // Weights (only after reading every byte).
    NanWeights "nan-weights" Error
        "Weights, or scales of quantised blocks, are not numbers."
        "Get a clean copy; every output of this model would be NaN."
    InfWeights "inf-weights" Error
        "Weights, or scales of quantised blocks, are infinite."
        "Get a clean copy; or, if it was converted to F16 here, convert to BF16 or F32."
    AbsurdWeights "absurd-weights" Warning
        "Weights beyond 1e6 in size, or scales of quantised blocks beyond 4096: a damaged exponent bit looks like this."
        "Compare the digest with the publisher's."
    ZeroTensor "zero-tensor" Warning
        "All weights of a tensor are zero. Some models have such tensors; damaged files too."
        "Compare the digest with the publisher's."
    ZeroRows "zero-rows" Warning
        "A long run of zero bytes that can be meant: rows at the end of an embedding or an output layer (padding of the vocabulary), rows there of tokens that no text becomes, or whole matrices of a stack (experts)."
        "Compare the digest with the publisher's if in doubt."
    ZeroRun "zero-run" Error
        "A long run of zero bytes inside the weights, not explained by a tensor that is zero as a whole or by rows of unused tokens: a hole left by a download, also where it begins and ends with a row."
        "Download the file again; compare the digest with the publisher's."
    ZeroedTail "zeroed-tail" Error
        "The weights are zero from some offset to the end of the file: space was reserved but the data never arrived."
        "Resume or repeat the download; compare the digest with the publisher's."

    // The list itself.
    MoreFindings "more-findings" Info
        "There were more findings than are listed."
        "Repair what is listed first."
}

impl Code {
    /// A finding of this code with nothing but a message.
    pub fn finding(self, message: impl Into<String>) -> Finding {
        Finding {
            code: self.name().to_owned(),
            severity: self.severity(),
            message: text::bounded(message.into()),
            part: None,
            tensor: None,
            offset: None,
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

/// What to say of a tensor that has another shape than `expected`, in which none is any size. `who` calls
/// for it.
pub fn shape_mismatch(name: &str, shape: &[u64], expected: &[Option<u64>], who: &str) -> Finding {
    let any = |size: &Option<u64>| size.map_or_else(|| "any".to_owned(), |size| size.to_string());
    let expected = expected.iter().map(any).collect::<Vec<_>>().join(", ");
    Code::ShapeMismatch.finding(format!("{name} has the shape {shape:?}; {who} [{expected}]"))
}

/// A list that keeps at most [`budget::FINDINGS`] findings and counts the rest.
/// Errors are never dropped in favour of less: the worst severity seen stays visible.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Findings {
    list: Vec<Finding>,
    dropped: usize,
    dropped_worst: Option<Severity>,
    /// Name of the split part or shard that findings are about from now on.
    pub part: Option<String>,
}

impl Findings {
    pub fn push(&mut self, mut finding: Finding) {
        if finding.part.is_none() {
            finding.part.clone_from(&self.part);
        }
        finding.tensor = finding.tensor.map(text::bounded);
        if self.list.len() + 1 < budget::FINDINGS {
            self.list.push(finding);
        } else {
            self.dropped += 1;
            self.dropped_worst = self.dropped_worst.max(Some(finding.severity));
        }
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Error)
            || self.dropped_worst == Some(Severity::Error)
    }

    pub fn has(&self, code: Code) -> bool {
        self.list.iter().any(|finding| finding.code == code.name())
    }

    /// The list; a last finding stands for those dropped, as severe as the worst of them.
    pub fn finish(mut self) -> Vec<Finding> {
        if let Some(severity) = self.dropped_worst {
            let mut last =
                Code::MoreFindings.finding(format!("{} more findings are not listed", self.dropped));
            last.severity = severity;
            self.list.push(last);
        }
        self.list
    }
}

/// The table as Markdown, the content of `host/docs/findings.md`.
pub fn markdown() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Findings\n\nEvery code that `assayd inspect` can report. An error rejects the artifact, a warning asks for a look, \
         an info is for knowing.\nThe codes are stable; new ones may be added.\n\n\
         | code | severity | meaning | what to do |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let severity = match code.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        let _ = writeln!(out, "| `{}` | {severity} | {} | {} |", code.name(), code.meaning(), code.remedy());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(*code));
            assert!(
                code.name().chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()),
                "{code:?}"
            );
            assert!(code.meaning().ends_with('.') && code.remedy().ends_with('.'), "{code:?}");
        }
    }

    #[test]
    fn the_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/findings.md");
        if std::env::var_os("ASSAYD_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let document = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            document == markdown(),
            "host/docs/findings.md is not the table of codes; ASSAYD_BLESS=1 cargo test --release -p assayd --lib finding writes it"
        );
    }

    #[test]
    fn a_full_list_keeps_the_worst_severity() {
        let mut findings = Findings::default();
        for _ in 0..budget::FINDINGS + 5 {
            findings.push(Code::NonzeroPadding.finding("x"));
        }
        findings.push(Code::NanWeights.finding("x"));
        assert!(findings.has_errors());
        let list = findings.finish();
        assert_eq!(list.len(), budget::FINDINGS);
        let last = list.last().unwrap();
        assert_eq!((last.code.as_str(), last.severity), ("more-findings", Severity::Error));
        assert!(last.message.starts_with("7 more"));
    }
}
