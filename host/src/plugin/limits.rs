//! What one call may take, counted over everything in its store.

use wasmtime::ResourceLimiter;

use crate::domain::budget::{PLUGIN_INSTANCES, PLUGIN_TABLE_ELEMENTS};

/// Counts memory and table growth of all instances together; wasmtime's own limits are
/// per memory, and a component may have several.
#[derive(Debug)]
pub(super) struct Meter {
    memory_limit: usize,
    memory: usize,
    table: usize,
    /// First refusal, in bytes: a Rust guest aborts on it, which looks like any other trap.
    pub(super) denied: Option<Denied>,
}

/// Memory that was asked for and not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) wanted: usize,
    pub(super) limit: usize,
}

impl Meter {
    pub(super) fn new(memory_limit: usize) -> Self {
        Self { memory_limit, memory: 0, table: 0, denied: None }
    }

    /// Most memory this call ever had, in bytes; memories never shrink.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            self.denied.get_or_insert(Denied { wanted, limit: self.memory_limit });
            return Ok(false);
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.table.saturating_add(desired.saturating_sub(current));
        if wanted > PLUGIN_TABLE_ELEMENTS {
            // An element takes a machine word at least.
            let word = size_of::<usize>();
            self.denied.get_or_insert(Denied {
                wanted: wanted.saturating_mul(word),
                limit: PLUGIN_TABLE_ELEMENTS * word,
            });
            return Ok(false);
        }
        self.table = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        PLUGIN_INSTANCES
    }

    fn tables(&self) -> usize {
        PLUGIN_INSTANCES
    }

    fn memories(&self) -> usize {
        PLUGIN_INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_counted_together_and_the_first_refusal_is_kept() {
        let mut meter = Meter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(!meter.memory_growing(0, 41, None).unwrap(), "a second memory");
        assert!(!meter.memory_growing(60, 500, None).unwrap());
        assert_eq!(meter.denied, Some(Denied { wanted: 101, limit: 100 }));
        assert!(meter.memory_growing(60, 100, None).unwrap());
        assert_eq!(meter.memory_bytes(), 100);
        assert!(!meter.table_growing(0, PLUGIN_TABLE_ELEMENTS + 1, None).unwrap());
    }
}
