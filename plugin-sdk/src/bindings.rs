//! Generated from `wit/`; the macros of this crate are the way in.

pub mod scorer {
    wit_bindgen::generate!({
        path: "../wit/deps/plugin-0.1.0",
        world: "scorer-plugin",
        pub_export_macro: true,
        default_bindings_module: "assayd_plugin_sdk::bindings::scorer",
    });
}

pub mod decider {
    wit_bindgen::generate!({
        path: "../wit/deps/plugin-0.1.0",
        world: "decider-plugin",
        pub_export_macro: true,
        default_bindings_module: "assayd_plugin_sdk::bindings::decider",
    });
}

pub mod hash_check {
    wit_bindgen::generate!({
        path: "../wit/deps/plugin-0.1.0",
        world: "hash-check-plugin",
        pub_export_macro: true,
        default_bindings_module: "assayd_plugin_sdk::bindings::hash_check",
    });
}

pub mod report {
    wit_bindgen::generate!({
        path: "../wit/deps/plugin-0.1.0",
        world: "report-plugin",
        pub_export_macro: true,
        default_bindings_module: "assayd_plugin_sdk::bindings::report",
    });
}
