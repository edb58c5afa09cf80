//! Content that is not what it should be: what the name promises, and what came instead.

use std::path::Path;

use super::discover::is_pickle_extension;
use super::document;
use super::finding::Code;
use super::sniff::Content;
use crate::domain::inspection::Finding;

/// The format that a name promises, unless `content` is of it. `.bin` promises nothing.
pub(super) fn broken_promise(path: &Path, content: Content) -> Option<&'static str> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let named_document =
        || path.file_name().is_some_and(|name| document::is_document(&name.to_string_lossy()));
    let (format, kept): (_, &[Content]) = match extension.as_str() {
        "gguf" => ("GGUF", &[Content::Gguf]),
        "safetensors" => ("safetensors", &[Content::Safetensors]),
        "onnx" => ("ONNX", &[Content::Onnx]),
        "h5" | "hdf5" => ("HDF5", &[Content::Hdf5]),
        // Old pickles begin with anything.
        end if end != "bin" && is_pickle_extension(end) => {
            ("a PyTorch checkpoint", &[Content::Zip, Content::Pickle, Content::Tar, Content::Unknown])
        }
        _ if named_document() => ("a document", &[]),
        _ => return None,
    };
    (!kept.contains(&content)).then_some(format)
}

/// What to say of a promise that is not kept.
pub(super) fn disguised(promise: &str, content: Content) -> Finding {
    let message = format!("the name says {promise} and the content is {}", content.name());
    Code::DisguisedFormat.finding(message)
}

/// Why there is nothing to examine in `content`.
pub(super) fn finding(content: Content, promise: Option<&str>) -> Finding {
    match (content, promise) {
        (Content::Empty, _) => Code::Empty.finding("the file is empty"),
        (Content::LfsPointer, _) => Code::LfsPointer.finding("the file is a Git LFS pointer, not the model"),
        (Content::Html, _) => Code::HtmlPage.finding("the file is a web page, not a model"),
        (Content::Zeros, _) => Code::ZeroedHeader.finding("the file begins with zero bytes"),
        (Content::Unknown, _) => Code::BadMagic.finding("the first bytes are of no known model format"),
        (content, Some(promise)) => disguised(promise, content),
        (content, None) => Code::NotExamined.finding(format!("the file is {}", content.name())),
    }
}

/// Why a part of a model cannot be one, by its first bytes alone. What may be a damaged header is
/// for its reader to judge.
pub(super) fn no_part(path: &Path, content: Content) -> Option<Finding> {
    let promise = broken_promise(path, content).filter(|_| content != Content::Unknown)?;
    Some(finding(content, Some(promise)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_formats() {
        let promise = |name: &str, content| broken_promise(Path::new(name), content);
        for (name, content) in [
            ("a.gguf", Content::Gguf),
            ("a.SafeTensors", Content::Safetensors),
            ("a.onnx", Content::Onnx),
            ("a.pt", Content::Zip),
            ("a.ckpt", Content::Unknown),
            ("a.bin", Content::Gguf),
            ("sha256-00", Content::Gguf),
        ] {
            assert_eq!(promise(name, content), None, "{name}");
        }
        for (name, content, said) in [
            ("a.GGUF", Content::Safetensors, "GGUF"),
            ("a.safetensors", Content::Gguf, "safetensors"),
            ("a.onnx", Content::Gguf, "ONNX"),
            ("a.pkl", Content::Gguf, "a PyTorch checkpoint"),
            ("README.md", Content::Pickle, "a document"),
        ] {
            assert_eq!(promise(name, content), Some(said), "{name}");
        }
        let codes = |name: &str, content| no_part(Path::new(name), content).map(|finding| finding.code);
        assert_eq!(codes("a.gguf", Content::Unknown), None);
        assert_eq!(codes("a.safetensors", Content::Safetensors), None);
        assert_eq!(codes("a.safetensors", Content::LfsPointer).as_deref(), Some("lfs-pointer"));
        assert_eq!(codes("a.safetensors", Content::Zeros).as_deref(), Some("zeroed-header"));
        assert_eq!(codes("a.gguf", Content::Zip).as_deref(), Some("disguised-format"));
    }
}
