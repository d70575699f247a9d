//! The table as Cedar policies, and back.
//!
//! Each gate of the table is one policy, whose annotation `@gate` names it: `permit` where it is open and `forbid` where it
//! is closed, under the same condition, which holds its limits. So nothing of a table is lost, whatever it opens; and what
//! one gate forbids no other policy permits. What the table says nothing of stands in [`FIXED`].

use std::{collections::BTreeSet, fmt::Write as _, str::FromStr as _};

use cedar_policy::{Effect, PolicySet};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    policy::{OnViolation, Policy, Rectangle},
};

/// The schema of Cedar's policies.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// What holds whatever the table says.
pub const FIXED: &str = r#"@gate("shield") permit (principal, action in [Lucid::Action::"show", Lucid::Action::"reveal"], resource)
when { principal in Lucid::Role::"operator" || principal in Lucid::Role::"observer" || principal in Lucid::Role::"owner" };
@gate("observe") permit (principal, action == Lucid::Action::"observe", resource)
when { principal in Lucid::Role::"owner" || principal in Lucid::Role::"observer" };
@gate("export") permit (principal in Lucid::Role::"owner", action == Lucid::Action::"export", resource);
@gate("approve") permit (principal in Lucid::Role::"approver", action == Lucid::Action::"approve", resource)
when { !context.own };
"#;

/// Stands first in every list, as Cedar knows no type of an empty one. No key, folder, extension or application has it for a
/// name: they have no control characters.
const NOTHING: &str = "\n";

/// A list of texts.
fn set(texts: &[String]) -> String {
    let mut set = "[\"\\n\"".to_owned();
    for text in texts {
        let _ = write!(set, ", \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    set.push(']');
    set
}

fn within(rectangles: &[Rectangle]) -> String {
    let mut within = "false".to_owned();
    for Rectangle { height, width, x, y } in rectangles {
        let _ = write!(
            within,
            " || context.x >= {x} && context.x < {x} + {width} && context.y >= {y} && context.y < {y} + {height}"
        );
    }
    within
}

impl Policy {
    /// The table as Cedar policies over [`SCHEMA`]; [`from_cedar`] reads them.
    #[must_use]
    pub fn to_cedar(&self) -> String {
        let Self { clipboard, file, input, limits, shield, system, version: _, violation } =
            &self.normalised();
        let mut text = String::new();
        let mut gate = |gate: &str, open: bool, action: &str, when: &str| {
            let effect = if open { "permit" } else { "forbid" };
            let when = if when.is_empty() { String::new() } else { format!("\nwhen {{ {when} }}") };
            let _ = write!(
                text,
                "@gate(\"{gate}\")\n{effect} (principal in Lucid::Role::\"operator\", action == Lucid::Action::\"{action}\", \
                 resource){when};\n"
            );
        };
        let (blocked, allowed) = (set(&input.kb_blocklist), set(&input.kb_allowlist));
        let mode = input.kb_allowlist_mode;
        gate(
            "input.kb_enabled",
            input.kb_enabled,
            "key",
            &format!("!{blocked}.contains(context.code) && (!{mode} || {allowed}.contains(context.code))"),
        );
        gate("input.kb_enabled/character", input.kb_enabled, "character", &format!("!{mode}"));
        gate(
            "input.mouse_enabled",
            input.mouse_enabled,
            "point",
            &format!("context.rate_hz <= {}", input.mouse_rate_limit_hz),
        );
        let small = format!("context.bytes <= {}", clipboard.max_bytes);
        gate("clipboard.host_to_remote", clipboard.host_to_remote, "copy_to_client", &small);
        gate("clipboard.remote_to_host", clipboard.remote_to_host, "copy_to_desktop", &small);
        let (dirs, extensions) = (set(&file.allowed_dirs), set(&file.allowed_extensions));
        let passes = format!(
            "context.bytes <= {} * 1048576 && (context.pasted || {dirs}.containsAny(context.dirs)) && \
             {extensions}.containsAny(context.extensions) && !context.replaces",
            file.max_size_mb
        );
        gate("file.upload_enabled", file.upload_enabled, "upload", &passes);
        gate("file.download_enabled", file.download_enabled, "download", &passes);
        gate("system.audio_out", system.audio_out, "play_sound", "");
        gate("system.audio_in", system.audio_in, "record_sound", "");
        gate("system.camera", system.camera, "use_camera", "");
        gate("system.printing", system.printing, "print", "");
        gate("system.screenshots_allowed", system.screenshots_allowed, "take_screenshot", "");
        gate("system.shell_channels", system.shell_channels, "open_channel", "");
        gate(
            "limits.concurrent_sessions",
            true,
            "connect",
            &format!("context.sessions < {}", limits.concurrent_sessions),
        );
        gate(
            "limits",
            true,
            "stay",
            &format!(
                "context.age_seconds < {} && context.idle_seconds < {}",
                limits.absolute_seconds, limits.idle_seconds
            ),
        );
        gate("violation", *violation == OnViolation::Refuse, "go_on", "");
        // Masked for whoever looks.
        let (ids, parts) = (set(&shield.app_ids), within(&shield.rectangles));
        let _ = write!(
            text,
            "@gate(\"shield.app_ids\")\nforbid (principal, action == Lucid::Action::\"show\", resource)\n\
             when {{ {ids}.contains(context.app_id) }};\n\
             @gate(\"shield.rectangles\")\nforbid (principal, action == Lucid::Action::\"reveal\", resource)\n\
             when {{ {parts} }};\n"
        );
        text
    }
}

/// The most bytes of policies that a table is read from: those of the largest table, with room for another spelling.
const MAX_TEXT: usize = 256 << 10;
/// The most brackets within each other, and the most operators and brackets in one policy; a table's have 4 and some 900.
const MAX_DEPTH: usize = 8;
const MAX_OPERATORS: usize = 1024;

/// Refuses what Cedar would follow too deeply: it has no bound of its own on what stands within each other.
fn bounded(text: &str) -> Result<()> {
    let foreign = |why: &str| Err(Error::Foreign(why.to_owned()));
    if text.len() > MAX_TEXT {
        return foreign("they are longer than those of any table");
    }
    let (mut depth, mut operators) = (0_usize, 0_usize);
    let mut rest = text.chars().peekable();
    let mut word = String::new();
    while let Some(next) = rest.next() {
        if next.is_alphanumeric() || next == '_' {
            word.push(next);
            continue;
        }
        if std::mem::take(&mut word) == "if" {
            return foreign("no table's have an `if`");
        }
        match next {
            '"' => {
                while let Some(inner) = rest.next() {
                    match inner {
                        '"' => break,
                        '\\' => drop(rest.next()),
                        _ => {}
                    }
                }
            }
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|inner| *inner != '\n').is_some() {},
            '(' | '[' | '{' => {
                depth += 1;
                operators += 1;
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ';' => operators = 0,
            '|' | '&' | '!' | '-' | '+' | '*' | '.' | '<' | '>' | '=' | '@' => operators += 1,
            _ => {}
        }
        if depth > MAX_DEPTH || operators > MAX_OPERATORS {
            return foreign("one is longer or deeper than any of a table");
        }
    }
    Ok(())
}

/// What stands in a condition, from the left.
#[derive(Debug)]
enum Literal {
    Bool(bool),
    Long(u32),
    Set(Vec<String>),
}

/// The literals of an expression in Cedar's JSON form, whose members are in the order of their names: left, right.
fn literals(expression: &Value, found: &mut Vec<Literal>) -> Option<()> {
    match expression {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("Value", Value::Bool(value)) => found.push(Literal::Bool(*value)),
                    ("Value", Value::Number(value)) => {
                        found.push(Literal::Long(value.as_u64()?.try_into().ok()?));
                    }
                    ("Set", Value::Array(entries)) => {
                        let texts: Option<Vec<String>> =
                            entries.iter().map(|entry| entry["Value"].as_str().map(str::to_owned)).collect();
                        found.push(Literal::Set(texts?));
                    }
                    _ => literals(member, found)?,
                }
            }
        }
        Value::Array(members) => {
            for member in members {
                literals(member, found)?;
            }
        }
        _ => {}
    }
    Some(())
}

/// The policies of a set, each in Cedar's JSON form.
fn forms(policies: &PolicySet) -> Result<Vec<Value>> {
    policies.policies().map(|policy| policy.to_json().map_err(Error::cedar)).collect()
}

/// The table that compiles to these policies, in any spelling and order.
///
/// # Errors
/// When there is none: they say more, or less, than a table can.
pub fn from_cedar(text: &str) -> Result<Policy> {
    let foreign = |why: &str| Error::Foreign(why.to_owned());
    bounded(text)?;
    let policies = PolicySet::from_str(text).map_err(|error| Error::Foreign(error.to_string()))?;
    if policies.templates().next().is_some() {
        return Err(foreign("one is a template"));
    }
    let mut table = Policy::default();
    for policy in policies.policies() {
        let gate = policy.annotation("gate").unwrap_or_default();
        let open = policy.effect() == Effect::Permit;
        let form = policy.to_json().map_err(Error::cedar)?;
        let mut found = Vec::new();
        literals(&form["conditions"], &mut found).ok_or_else(|| foreign("a literal is none of a table"))?;
        read(&mut table, gate, open, found).ok_or_else(|| foreign(&format!("the gate {gate:?}")))?;
    }
    // What was not looked at is compared.
    let again = PolicySet::from_str(&table.to_cedar()).map_err(Error::cedar)?;
    let (mut theirs, mut ours) = (forms(&policies)?, forms(&again)?);
    for forms in [&mut theirs, &mut ours] {
        forms.sort_by_cached_key(Value::to_string);
    }
    if theirs != ours {
        return Err(foreign("a condition, a principal or a gate is another one"));
    }
    // Lists in another order, or values out of their range, are no table's either.
    let checked = Policy::parse(&serde_json::to_vec(&table).map_err(Error::cedar)?)?;
    if checked != table {
        return Err(foreign("a list is not sorted, or has something twice"));
    }
    Ok(table)
}

/// Puts what a policy says into the table.
fn read(table: &mut Policy, gate: &str, open: bool, found: Vec<Literal>) -> Option<()> {
    use Literal::{Bool, Long, Set};
    let texts = |mut set: Vec<String>| (!set.is_empty() && set.remove(0) == NOTHING).then_some(set);
    let Policy { clipboard, file, input, limits, shield, system, version: _, violation } = table;
    let mut found = found.into_iter();
    let mut next = || found.next();
    match gate {
        "input.kb_enabled" => {
            input.kb_enabled = open;
            let (Some(Set(blocked)), Some(Bool(mode)), Some(Set(allowed))) = (next(), next(), next()) else {
                return None;
            };
            input.kb_blocklist = texts(blocked)?;
            input.kb_allowlist_mode = mode;
            input.kb_allowlist = texts(allowed)?;
        }
        "input.mouse_enabled" => {
            input.mouse_enabled = open;
            let Some(Long(rate)) = next() else { return None };
            input.mouse_rate_limit_hz = rate;
        }
        "clipboard.host_to_remote" | "clipboard.remote_to_host" => {
            let Some(Long(bytes)) = next() else { return None };
            clipboard.max_bytes = bytes;
            if gate == "clipboard.host_to_remote" {
                clipboard.host_to_remote = open;
            } else {
                clipboard.remote_to_host = open;
            }
        }
        "file.upload_enabled" | "file.download_enabled" => {
            let (Some(Long(size)), Some(Long(_)), Some(Set(dirs)), Some(Set(extensions))) =
                (next(), next(), next(), next())
            else {
                return None;
            };
            file.max_size_mb = size;
            file.allowed_dirs = texts(dirs)?;
            file.allowed_extensions = texts(extensions)?;
            if gate == "file.upload_enabled" {
                file.upload_enabled = open;
            } else {
                file.download_enabled = open;
            }
        }
        "system.audio_out" => system.audio_out = open,
        "system.audio_in" => system.audio_in = open,
        "system.camera" => system.camera = open,
        "system.printing" => system.printing = open,
        "system.screenshots_allowed" => system.screenshots_allowed = open,
        "system.shell_channels" => system.shell_channels = open,
        "limits.concurrent_sessions" => {
            let Some(Long(sessions)) = next() else { return None };
            limits.concurrent_sessions = sessions;
        }
        "limits" => {
            let (Some(Long(age)), Some(Long(idle))) = (next(), next()) else { return None };
            limits.absolute_seconds = age;
            limits.idle_seconds = idle;
        }
        "violation" => *violation = if open { OnViolation::Refuse } else { OnViolation::End },
        "shield.app_ids" => {
            let Some(Set(ids)) = next() else { return None };
            shield.app_ids = texts(ids)?;
        }
        "shield.rectangles" => {
            let Some(Bool(false)) = next() else { return None };
            let mut rectangles = BTreeSet::new();
            while let Some(Long(x)) = next() {
                let (Some(Long(_)), Some(Long(width))) = (next(), next()) else { return None };
                let (Some(Long(y)), Some(Long(_)), Some(Long(height))) = (next(), next(), next()) else {
                    return None;
                };
                rectangles.insert(Rectangle { height, width, x, y });
            }
            shield.rectangles = rectangles.into_iter().collect();
        }
        // Says nothing that another gate does not say; it is compared.
        "input.kb_enabled/character" => {}
        _ => return None,
    }
    Some(())
}
