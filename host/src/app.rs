//! The only place that constructs and wires everything for the daemon.
