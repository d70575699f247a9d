//! Policy tables for the services under test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::error::{At as _, Result};

/// A table with keyboard and pointer, and what these words open besides, separated by commas: `clipboard-to-desktop`,
/// `clipboard-to-client`, `clipboard-files-to-desktop`, `clipboard-files-to-client`, `drives`, `drives-write`,
/// `sound-to-client`.
pub(crate) fn table(ways: &str) -> Value {
    let mut table = json!({
        "clipboard": {}, "system": {}, "file": { "max_size_mb": 1_048_576 },
        "input": { "kb_enabled": true, "mouse_enabled": true, "mouse_rate_limit_hz": 240 },
        "limits": { "concurrent_sessions": 64 },
    });
    for way in ways.split(',').filter(|way| !way.is_empty()) {
        let settings: &[(&str, &str, Value)] = match way {
            "clipboard-to-desktop" => &[("clipboard", "remote_to_host", json!(true))],
            "clipboard-to-client" => &[("clipboard", "host_to_remote", json!(true))],
            "clipboard-files-to-desktop" => &[("file", "upload_enabled", json!(true))],
            "clipboard-files-to-client" => &[("file", "download_enabled", json!(true))],
            "drives" => &[("file", "upload_enabled", json!(true)), ("file", "allowed_dirs", json!(["*"]))],
            "drives-write" => &[
                ("file", "upload_enabled", json!(true)),
                ("file", "download_enabled", json!(true)),
                ("file", "allowed_dirs", json!(["*"])),
            ],
            "sound-to-client" => &[("system", "audio_out", json!(true))],
            other => unreachable!("nothing is called {other}"),
        };
        for (group, key, value) in settings {
            table[*group][*key] = value.clone();
            if *group == "file" {
                table["file"]["allowed_extensions"] = json!(["*"]);
            }
        }
    }
    table
}

/// Writes a table, and says where.
pub(crate) fn write(dir: &Path, table: &Value) -> Result<PathBuf> {
    let path = dir.join("policy.json");
    fs::write(&path, table.to_string()).at("writing", &path)?;
    Ok(path)
}
