//! Hostile components, encoded from the text files beside this one.

use std::path::Path;

/// Encodes a core module in text form as a component of the given world.
fn component(world: &str, text: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/deps/plugin-0.1.0");
    let (package, _) = resolve.push_dir(&wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
        false,
    )
    .unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A component of the kind that misbehaves as the file `name` in this folder says; its id is `hostile`.
pub fn case(kind: &str, name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let imports = r#"
        (import "assay:plugin/diagnostics@0.1.0" "log" (func $log (param i32 i32 i32)))
        (import "assay:plugin/diagnostics@0.1.0" "panicked" (func $panicked (param i32 i32 i32 i32 i32)))"#;
    let (evidence, start) = match kind {
        "scorer" => (
            r#"(import "assay:plugin/evidence@0.1.0" "[method]trial.rows" (func $rows (param i32 i32) (result i32)))
               (import "assay:plugin/evidence@0.1.0" "[resource-drop]trial" (func $give-back (param i32)))"#,
            "",
        ),
        _ => (
            "",
            r#"(func (export "assay:plugin/decider@0.1.0#start") (param i32 i32) (result i32) (i32.const 128))"#,
        ),
    };
    let prelude = read("prelude.wat").replace("KIND", kind);
    let text = format!("(module {imports} {evidence} {prelude} {start} {})", read(&format!("{name}.wat")));
    component(&format!("{kind}-plugin"), &text)
}
