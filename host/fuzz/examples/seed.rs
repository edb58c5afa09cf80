//! Cuts seeds from real files: `seed CORPUS FILE...` puts the beginning of every file, as much
//! as a fuzzer can mutate in reasonable time, under the target that reads its kind.

use std::path::{Path, PathBuf};

/// Headers fit; weights behind them are only counted.
const SEED_BYTES: usize = 48 << 10;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let corpus = arguments.next().unwrap_or_else(|| PathBuf::from("corpus"));
    for (number, file) in arguments.enumerate() {
        let mut bytes = std::fs::read(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = match file.extension().and_then(|end| end.to_str()).unwrap_or_default() {
            "gguf" => "gguf",
            "safetensors" => "safetensors",
            "bin" | "pt" | "pth" | "pkl" => "pickle",
            "jinja" => "template",
            "dat" => "imatrix",
            _ => "texts",
        };
        if target != "pickle" {
            bytes.truncate(SEED_BYTES);
        }
        put(&corpus.join(target), number, &name, &bytes)?;
    }
    Ok(())
}

fn put(folder: &Path, number: usize, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{number}-{name}")), bytes)
}
