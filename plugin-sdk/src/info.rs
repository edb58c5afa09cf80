//! The custom section that lets a host list a plugin without compiling it.

/// Copies a string into the array that a custom section needs.
pub const fn section<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [0; N];
    let mut rest = text.as_bytes();
    let mut at = 0;
    while let [first, tail @ ..] = rest {
        if at < N {
            #[expect(clippy::indexing_slicing, reason = "at < N, and iterators are not const")]
            {
                out[at] = *first;
            }
        }
        at += 1;
        rest = tail;
    }
    out
}

/// What every export macro needs: `describe`, and the custom section `assayd:plugin`
/// (kind, id, version, summary, SDK version; one per line).
#[doc(hidden)]
#[macro_export]
macro_rules! __plugin_info {
    ($world:ident, $kind:literal, $id:expr, $schema:expr) => {
        const TEXT: &str = concat!(
            $kind,
            "\n",
            $id,
            "\n",
            env!("CARGO_PKG_VERSION"),
            "\n",
            env!("CARGO_PKG_DESCRIPTION"),
            "\n",
        );
        #[used]
        #[unsafe(link_section = "assayd:plugin")]
        static SECTION: [u8; TEXT.len()] = $crate::section(TEXT);

        fn info() -> $crate::bindings::$world::assay::plugin::types::PluginInfo {
            $crate::bindings::$world::assay::plugin::types::PluginInfo {
                name: String::from($id),
                version: String::from(env!("CARGO_PKG_VERSION")),
                summary: String::from(env!("CARGO_PKG_DESCRIPTION")),
                params_schema: String::from($schema),
            }
        }
    };
}
