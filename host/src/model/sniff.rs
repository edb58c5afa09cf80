//! What a file is by its first bytes, never by its name.

use std::io;

use super::source::ReadAt;

/// Formats told apart by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Empty,
    Zeros,
    Gguf,
    Safetensors,
    /// A ZIP archive; PyTorch checkpoints are ZIP archives with a pickle inside.
    Zip,
    Pickle,
    Tar,
    Gzip,
    Zstd,
    SevenZip,
    Executable,
    Html,
    LfsPointer,
    Json,
    Onnx,
    Hdf5,
    Unknown,
}

impl Content {
    /// The format as a person would name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Zeros => "zero bytes",
            Self::Gguf => "GGUF",
            Self::Safetensors => "safetensors",
            Self::Zip => "a ZIP archive",
            Self::Pickle => "a Python pickle",
            Self::Tar => "a tar archive",
            Self::Gzip => "gzip data",
            Self::Zstd => "zstd data",
            Self::SevenZip => "a 7z archive",
            Self::Executable => "an executable program",
            Self::Html => "a web page",
            Self::LfsPointer => "a Git LFS pointer",
            Self::Json => "JSON text",
            Self::Onnx => "ONNX",
            Self::Hdf5 => "HDF5",
            Self::Unknown => "unknown data",
        }
    }
}

/// Looks at the first bytes from `offset` on.
pub fn sniff(source: &dyn ReadAt, offset: u64) -> io::Result<Content> {
    let mut buffer = [0u8; 512];
    let length =
        usize::try_from(source.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
    let head = buffer.get_mut(..length).unwrap_or_default();
    source.read_at(head, offset)?;
    Ok(of_bytes(head, source.size().saturating_sub(offset)))
}

/// The content that begins with `head`, `size` bytes in all.
fn of_bytes(head: &[u8], size: u64) -> Content {
    let begins = |magic: &[u8]| head.starts_with(magic);
    if head.is_empty() {
        return Content::Empty;
    }
    if begins(b"GGUF") || begins(b"FUGG") {
        return Content::Gguf;
    }
    if begins(b"PK\x03\x04") || begins(b"PK\x05\x06") {
        return Content::Zip;
    }
    if begins(b"\x7fELF") || begins(b"MZ") || begins(b"#!") || begins(b"\xcf\xfa\xed\xfe") {
        return Content::Executable;
    }
    if begins(b"\x1f\x8b") {
        return Content::Gzip;
    }
    if begins(b"\x28\xb5\x2f\xfd") {
        return Content::Zstd;
    }
    if begins(b"7z\xbc\xaf\x27\x1c") {
        return Content::SevenZip;
    }
    if begins(b"\x89HDF") {
        return Content::Hdf5;
    }
    if begins(b"version https://git-lfs") {
        return Content::LfsPointer;
    }
    if head.get(257..262) == Some(b"ustar") {
        return Content::Tar;
    }
    if let [0x80, 2..=5, opcode, ..] = head
        && (opcode.is_ascii_graphic() || *opcode == 0x95 || *opcode >= 0x80)
    {
        return Content::Pickle;
    }
    if let Some((length, rest)) = head.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        // A header length that points outside still begins a safetensors header.
        if rest.first() == Some(&b'{') && length > 1 && (size >= 8) {
            return Content::Safetensors;
        }
    }
    let text = head.trim_ascii_start();
    let lower = text.get(..text.len().min(64)).unwrap_or_default().to_ascii_lowercase();
    if lower.starts_with(b"<!doctype html") || lower.starts_with(b"<html") || lower.starts_with(b"<?xml") {
        return Content::Html;
    }
    if matches!(text.first(), Some(b'{' | b'[')) && std::str::from_utf8(lower.as_slice()).is_ok() {
        return Content::Json;
    }
    if begins(b"\x08") && head.windows(7).any(|window| window == b"pytorch") {
        return Content::Onnx;
    }
    if head.iter().take(16).all(|&byte| byte == 0) {
        return Content::Zeros;
    }
    Content::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let mut tar = vec![b'n'; 300];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: Vec<(&[u8], Content)> = vec![
            (b"", Content::Empty),
            (&[0; 32], Content::Zeros),
            (b"GGUF\x03\0\0\0", Content::Gguf),
            (b"GGUX\x03\0\0\0", Content::Unknown),
            (b"\x40\0\0\0\0\0\0\0{\"a\":1}", Content::Safetensors),
            (b"PK\x03\x04rest", Content::Zip),
            (b"\x80\x02}q\x00.", Content::Pickle),
            (b"\x80\x04\x95\x10\0\0\0", Content::Pickle),
            (b"\x7fELF\x02", Content::Executable),
            (b"\n<!DOCTYPE HTML><html>", Content::Html),
            (b"version https://git-lfs.github.com/spec/v1\n", Content::LfsPointer),
            (b"{\"a\": 1}", Content::Json),
            (&tar, Content::Tar),
        ];
        for (bytes, expected) in cases {
            assert_eq!(sniff(&bytes, 0).unwrap(), expected, "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(sniff(&&b"xxxxPK\x05\x06"[..], 4).unwrap(), Content::Zip);
    }
}
