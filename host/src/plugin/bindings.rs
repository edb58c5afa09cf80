//! Generated from `wit/`, every version of every world side by side.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "assay:host/all",
    imports: { default: trappable },
    with: {
        "assay:plugin/evidence.trial": crate::plugin::evidence::Trial,
        "assay:plugin/artifact.model": crate::plugin::artifact::Model,
    },
});
