//! Other processes, as `/proc` shows them.

/// Fields of `/proc/PID/stat` after the name, by number; from the state on.
pub fn stats() -> Vec<(u32, Vec<String>)> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields = stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect();
            Some((pid, fields))
        })
        .collect()
}

/// Children of the process `of`, dead or alive.
pub fn children(of: u32) -> Vec<u32> {
    let of = of.to_string();
    stats().into_iter().filter(|(_, fields)| fields.get(1) == Some(&of)).map(|(pid, _)| pid).collect()
}

/// A line of `/proc/PID/status`, such as `RssAnon:`; `None` once the process is gone.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

/// A line of memory.
pub fn kib(pid: u32, field: &str) -> Option<u64> {
    status(pid, field)?.strip_suffix("kB")?.trim().parse().ok()
}
