//! `assayd hash`: digests of files, tensors and trees in one pass, and lists checked.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::screen;
use crate::digest::{HashKind, fuzzy, merkle};
use crate::domain::inspection::{ArtifactKind, ChunkProof, Digests, FileRecord, Inspection, Status};
use crate::domain::{Problem, ProblemKind, Sha256, budget, text};
use crate::model::manifest::{self, List, Outcome, Report, What};
use crate::model::signature::{self, Trust};
use crate::model::source::{ReadAt as _, SourceFile};
use crate::model::{self, Hashing, InspectOptions};

/// Prints and checks digests of model files, tensor by tensor
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd hash model.gguf                          a line per file, metadata entry, tensor and root
  assayd hash model.gguf > model.hashes           such a list can be checked later, by
  assayd hash model.gguf --check model.hashes     which names every tensor that changed
  assayd hash model.gguf --check SHA256SUMS       so do lists of sha256sum and llama-gguf-hash,
                                                  manifests of ollama, manifest.json of quantising
                                                  pipelines (formats[]), and Git LFS pointers
  assayd hash folder --check folder/model.sig --key signer.pub
                                                  OpenSSF model signatures of any folder; --roots for
                                                  certificates
  assayd hash model.gguf --kind sha256 --kind xxh64   also digests as llama-gguf-hash has them
  assayd hash model.gguf --prove 123456 --json > proof.json
  assayd hash model.gguf --verify-proof proof.json --root HEX
                                                  one chunk of a large file, without the rest

A tensor's digest is an RFC 6962 root over its bytes in chunks of 1 MiB; the file's root is over the
chunks of everything, cut at the borders of its tensors. Files of the Hugging Face cache and of ollama
are called after their digest; that is checked, too.

What a list says of the artifact's files and tensors is checked, and if PATH is a folder, what it says of
any file below it. Lines about files elsewhere are counted in a note and change no exit code.

Passes are kept and used again as long as path, size, times and inode of a file are the same.

Exit codes: 0 as listed, 1 something changed, is missing, extra or there twice, 2 a key is missing, 4
something could not be checked, or the list leaves a file out.")]
pub struct Args {
    /// A model file, any part of a split set, or a folder that is one model
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// A list of digests or a signature to compare with
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Public key (PEM) that the signature must be of
    #[arg(long, value_name = "FILE", requires = "check")]
    pub key: Option<PathBuf>,
    /// Root certificates (PEM) that the signer's certificate must lead to
    #[arg(long, value_name = "FILE", requires = "check", conflicts_with = "key")]
    pub roots: Option<PathBuf>,
    /// Further digests of each tensor: sha256, sha1, xxh64, xxh3, uuid
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Vec<HashKind>,
    /// Prove that the chunk with this byte is part of the file
    #[arg(long, value_name = "OFFSET", conflicts_with = "check")]
    pub prove: Option<u64>,
    /// Check such a proof against the file, reading that chunk alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "prove"])]
    pub verify_proof: Option<PathBuf>,
    /// The root that you trust; without it, the proof's own is shown
    #[arg(long, value_name = "HEX", requires = "verify_proof")]
    pub root: Option<Sha256>,
    /// Read every byte, whatever is known from the last time
    #[arg(long)]
    pub rehash: bool,
    /// Folder where passes are kept
    #[arg(long, value_name = "DIR", env = "ASSAYD_CACHE")]
    pub cache: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

fn kind(text: &str) -> Result<HashKind, String> {
    let known = || HashKind::ALL.map(HashKind::name).join(", ");
    HashKind::from_name(text).ok_or_else(|| format!("no such kind; there are {}", known()))
}

#[derive(Debug, Serialize)]
struct Output<'a> {
    #[serde(serialize_with = "text::path_as_json")]
    path: &'a PathBuf,
    kind: ArtifactKind,
    /// Null where the folder is not one model that could be judged.
    status: Option<Status>,
    files: &'a [FileRecord],
    merkle_root: Option<Sha256>,
    #[serde(flatten)]
    digests: &'a Digests,
    /// Null without `--check`.
    check: Option<&'a Report>,
    /// Files whose names are digests.
    names: &'a Report,
}

/// Runs the command.
///
/// # Errors
/// The model or the list cannot be read, or the output cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    if let Some(proof) = &args.verify_proof {
        return verify(args, proof);
    }
    let list = args.check.as_deref().map(List::read).transpose()?;
    let trusted = args.key.as_ref().map(|_| "--key").or(args.roots.as_ref().map(|_| "--roots"));
    if let (Some(option), Some(path)) = (trusted, &args.check)
        && !matches!(list, Some(List::Signature(_)))
    {
        let message = format!("{} is no signature, so that {option} proves nothing", path.display());
        return Err(Problem::input(message).hint(format!(
            "give the signature (model.sig), or leave {option} out to compare digests alone"
        )));
    }
    let (inspection, examined) = match pass(args, list.as_ref()) {
        // These are of the files of a folder, whatever models they are, all of them or none.
        Err(_) if is_of_files(list.as_ref()) && args.path.is_dir() => {
            (model::inspect::unexamined(&args.path), false)
        }
        passed => (passed?, true),
    };
    let mut check = match (list, &args.check) {
        (Some(List::Digests(manifest)), Some(path)) => Some(manifest.check(path, &inspection)),
        (Some(List::Registry(registry)), _) => Some(registry.check(&inspection)?),
        (Some(List::Formats(formats)), _) => Some(formats.check(&inspection)),
        (Some(List::Signature(text)), Some(path)) => {
            let now = jiff::Timestamp::now().as_second();
            let trust = Trust { key: args.key.as_deref(), roots: args.roots.as_deref(), now };
            Some(signature::check(&text, path, trust, &inspection)?)
        }
        _ => None,
    };
    if let Some(check) = check.as_mut().filter(|_| !examined) {
        check.remarks.push("the folder is not one sound model; only its files were compared".to_owned());
    }
    let names = manifest::check_names(&inspection)?;
    if args.json {
        screen::print_json(&Output {
            path: &inspection.path,
            kind: inspection.kind,
            status: examined.then_some(inspection.status),
            files: &inspection.files,
            merkle_root: inspection.merkle_root,
            digests: &inspection.digests,
            check: check.as_ref(),
            names: &names,
        })?;
    } else {
        let mut out = String::new();
        match &check {
            Some(check) => verdict(&mut out, check),
            None => list_all(&mut out, &inspection),
        }
        let mut said = String::new();
        verdict(&mut said, &names);
        // What is said within a list is a comment.
        let sign = if check.is_some() { "" } else { "# " };
        said.lines().for_each(|line| out.extend([sign, line, "\n"]));
        screen::print(&out)?;
    }
    let named = if names.differs() { 1 } else { 0 };
    Ok(check.map_or(named, |check| if named == 1 { 1 } else { check.exit_code() }))
}

fn is_of_files(list: Option<&List>) -> bool {
    match list {
        Some(List::Signature(_)) => true,
        Some(List::Digests(manifest)) => manifest.is_of_files(),
        Some(List::Registry(_) | List::Formats(_)) | None => false,
    }
}

/// Every byte, or what is known of it.
fn pass(args: &Args, list: Option<&List>) -> Result<Inspection, Problem> {
    let mut others = args.kind.clone();
    others.extend(list.map(List::kinds).unwrap_or_default());
    others.sort_unstable();
    others.dedup();
    let cache = screen::passes_folder(args.cache.as_deref());
    let hashing = Hashing { others: &others, prove: args.prove, cache: Some(&cache), rehash: args.rehash };
    let bar = screen::Bar::new("hashing");
    let options = InspectOptions { full: true };
    let inspection = model::inspect_with(&args.path, &options, hashing, &mut |done, total| {
        bar.set(done as f64 / total.max(1) as f64);
    })?;
    drop(bar);
    if let Some(file) = inspection.files.iter().find(|file| file.sha256.is_none()) {
        let message = format!("{} could not be read to its end", file.path.display());
        return Err(Problem::new(ProblemKind::Input, message).hint(
            "`assayd inspect` says what is wrong with it; if it is being written, wait until that is done",
        ));
    }
    if args.prove.is_some() {
        if inspection.digests.trees.len() != 1 {
            return Err(Problem::usage("a proof is about one file, and the artifact has several")
                .hint("name a model that is one file"));
        }
        if inspection.digests.proof.is_none() {
            return Err(Problem::usage("the file has no such byte").hint("offsets count from 0"));
        }
    }
    Ok(inspection)
}

/// Lines that `sha256sum --check` and `--check` of this command both take.
fn list_all(out: &mut String, inspection: &Inspection) {
    out.push_str(&manifest::write_list(inspection));
    let digests = &inspection.digests;
    for (name, root) in [
        ("file_root", digests.file_root),
        ("content_root", digests.content_root),
        ("weights_root", digests.weights_root),
    ] {
        let root = root.map_or_else(
            || "none: not everything was read and understood".to_owned(),
            |root| root.to_string(),
        );
        let _ = writeln!(out, "# {name:<12} {root}");
    }
    let named = |algorithm: &str, digest: Option<&String>| {
        digest.map_or_else(|| "none: too little".to_owned(), |digest| format!("{algorithm}:{digest}"))
    };
    if let Some(sample) = &digests.fuzzy {
        let (digest, alike) = (named(&sample.algorithm, sample.digest.as_ref()), model::fuzzy::ALIKE);
        let of = format!("{} weights of {} tensors", sample.weights, sample.tensors);
        let _ = writeln!(out, "# tlsh_weights {digest} ({of}; models alike are up to {alike} away)");
    }
    for sample in &digests.byte_samples {
        let digest = named(&sample.algorithm, sample.digest.as_ref());
        let (file, edits) = (screen::plain(&sample.file), fuzzy::LOCAL_EDITS);
        let _ = writeln!(
            out,
            "# tlsh_bytes   {digest} ({file}; for the hash check tlsh-similarity; local edits are up to {edits} away)"
        );
    }
    if let Some(proof) = &digests.proof {
        let _ = writeln!(
            out,
            "# chunk {} of {}: {} bytes at {}; --json prints the proof",
            proof.leaf, proof.leaves, proof.bytes, proof.offset
        );
    }
    if digests.files_from_cache > 0 {
        let _ = writeln!(out, "# as it was read before, unchanged since (--rehash reads again)");
    }
}

fn verdict(out: &mut String, report: &Report) {
    let mut fine = 0;
    for checked in &report.checked {
        let what = match checked.what {
            What::File => "file",
            What::Tensor => "tensor",
            What::Weights => "weights of",
            What::Metadata => "metadata",
            What::Signature => "",
        };
        let outcome = match (checked.outcome, checked.what) {
            (Outcome::Ok, _) => {
                fine += 1;
                continue;
            }
            (_, What::Signature) => {
                let _ = writeln!(out, "INVALID  signature: {}", screen::shown(&checked.algorithm));
                continue;
            }
            (Outcome::Changed, _) => "CHANGED",
            (Outcome::Missing, _) => "MISSING",
            (Outcome::Extra, _) => "EXTRA",
            (Outcome::Renamed, _) => "RENAMED",
            (Outcome::Retyped, _) => "RETYPED",
            (Outcome::Swapped, _) => "SWAPPED",
            (Outcome::Duplicate, _) => "DUPLICATE",
        };
        let detail =
            checked.detail.as_ref().map(|detail| format!(": {}", screen::shown(detail))).unwrap_or_default();
        // Of one thing several digests may be compared.
        let usual =
            matches!((checked.what, &*checked.algorithm), (What::File, "sha256") | (_, "tree" | "leaf"));
        let kind = if usual { String::new() } else { format!(" ({})", screen::shown(&checked.algorithm)) };
        let _ = writeln!(out, "{outcome}  {what} {}{kind}{detail}", screen::shown(&checked.name));
    }
    for why in &report.unchecked {
        let _ = writeln!(out, "NOT CHECKED  {}", screen::shown(why));
    }
    for remark in &report.remarks {
        let _ = writeln!(out, "note: {}", screen::shown(remark));
    }
    if !report.checked.is_empty() {
        let _ = writeln!(out, "{fine} of {} as expected", report.checked.len());
    }
}

/// What `--prove --json` wrote, of which the proof alone matters.
#[derive(Debug, Deserialize)]
struct Proven {
    proof: ChunkProof,
}

/// What `--verify-proof --json` prints.
#[derive(Debug, Serialize)]
struct Verified<'a> {
    #[serde(serialize_with = "text::path_as_json")]
    path: &'a Path,
    valid: bool,
    why: &'static str,
    proof: &'a ChunkProof,
}

/// Checks one chunk against a root.
fn verify(args: &Args, file: &Path) -> Result<u8, Problem> {
    let io = |path: &Path, error: &std::io::Error| Problem::io("read", path, error);
    let mut text = String::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(budget::PASS_ENTRY_BYTES).read_to_string(&mut text));
    read.map_err(|error| io(file, &error))?;
    let Proven { proof } = serde_json::from_str(&text).map_err(|error| {
        Problem::input(format!("{} holds no proof: {error}", file.display()))
            .hint("`assayd hash PATH --prove OFFSET --json` writes one")
    })?;
    let source = SourceFile::open(&args.path).map_err(|error| io(&args.path, &error))?;
    let there = proof.offset.checked_add(proof.bytes).is_some_and(|end| end <= source.size());
    let trusted = args.root.unwrap_or(proof.root);
    let (valid, why) = if !there || proof.bytes > model::scan::CHUNK_BYTES {
        (false, "the file has no such chunk")
    } else {
        let mut chunk = vec![0; usize::try_from(proof.bytes).unwrap_or(0)];
        source.read_at(&mut chunk, proof.offset).map_err(|error| io(&args.path, &error))?;
        let leaf = merkle::leaf_hash(&chunk);
        if leaf != proof.leaf_hash {
            (false, "the bytes of the chunk are others")
        } else if !merkle::verify_inclusion(leaf, proof.leaf, proof.leaves, &proof.path, trusted) {
            (false, "the proof does not lead to the root")
        } else {
            (true, "the chunk is part of the file with this root")
        }
    };
    if args.json {
        screen::print_json(&Verified { path: &args.path, valid, why, proof: &proof })?;
    } else {
        let mut out = format!("{}  {why}\n", if valid { "VALID" } else { "INVALID" });
        let _ = writeln!(
            out,
            "chunk {} of {}, {} bytes at {}",
            proof.leaf, proof.leaves, proof.bytes, proof.offset
        );
        let _ = writeln!(out, "root  {trusted}");
        if args.root.is_none() {
            let _ =
                writeln!(out, "note: the root is the proof's own; name the one that you trust with --root");
        }
        screen::print(&out)?;
    }
    Ok(u8::from(!valid))
}
