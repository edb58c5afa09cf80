//! From a core module, as a compiler writes it, to a component.

use super::fault::LoadError;
use super::load::inspect;
use crate::domain::budget::PLUGIN_FILE_BYTES;

/// A core module of wasm32-unknown-unknown as a component that may be loaded.
///
/// # Errors
/// It is no module, was not built with bindings to `assay:plugin`, or imports what no
/// plugin gets.
pub fn pack(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    if module.len() as u64 > PLUGIN_FILE_BYTES {
        return Err(LoadError::TooLarge { bytes: module.len() as u64, limit: PLUGIN_FILE_BYTES });
    }
    match inspect(module) {
        Err(LoadError::CoreModule) => {}
        Err(LoadError::NotAComponent(why)) => return Err(LoadError::NotAComponent(why)),
        Ok(_) | Err(_) => return Err(LoadError::NotPacked("it is a component already".into())),
    }
    let component = wit_component::ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| LoadError::NotPacked(format!("{error:#}")))?;
    inspect(&component)?;
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plugin_module_is_refused() {
        assert!(matches!(pack(b"GGUF\x03\0\0\0"), Err(LoadError::NotAComponent(_))));
        let component = b"\0asm\x0d\0\x01\0";
        assert!(matches!(pack(component), Err(LoadError::NotPacked(why)) if why.contains("already")));
        let nothing = b"\0asm\x01\0\0\0";
        assert!(matches!(pack(nothing), Err(LoadError::NoKnownExport { .. })));
        let wasi = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#).unwrap();
        assert!(pack(&wasi).is_err());
    }
}
