//! Decisions.

use std::str::FromStr as _;

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression, Schema,
    ValidationMode, Validator,
};

use crate::{
    action::{Action, Role},
    cedar::{FIXED, SCHEMA},
    enforce::probes,
    error::{Error, Result},
    keys::evdev,
    policy::{EVERY, Policy},
    snapshot::{Entity as Known, entities},
};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may happen.
    Allowed,
    /// It may not.
    Refused {
        /// The gate that it would have to pass ([`Action::gate`]): it is closed, or something is beyond its limits, or whoever
        /// wants it is in no role that may.
        gate: &'static str,
    },
}

impl Decision {
    /// Whether it may happen.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// Cedar refuses to decide with less of the stack than 100 KiB, and takes the main thread of a program with musl for one that
/// has less, as its stack grows only when it is used.
const STACK: std::ops::Range<usize> = (256 << 10)..(2 << 20);

/// Runs something of Cedar's with enough of a stack.
fn with_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK.start, STACK.end, work)
}

/// Decides what may happen under one table.
pub struct Decider {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    schema: Schema,
    session: EntityUid,
}

fn uid(kind: &str, id: &str) -> Result<EntityUid> {
    EntityUid::from_str(&format!("Lucid::{kind}::\"{id}\"")).map_err(Error::cedar)
}

impl Decider {
    /// For a table.
    ///
    /// # Errors
    /// When a value of the table is out of its range.
    pub fn new(policy: &Policy) -> Result<Self> {
        policy.check()?;
        with_stack(|| Self::build(policy))
    }

    fn build(policy: &Policy) -> Result<Self> {
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(Error::cedar)?;
        if let Some(warning) = warnings.into_iter().next() {
            return Err(Error::cedar(warning));
        }
        let policies = PolicySet::from_str(&(policy.to_cedar() + FIXED)).map_err(Error::cedar)?;
        let validation = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if let Some(error) = validation.validation_errors().next() {
            return Err(Error::cedar(error));
        }
        let uid_of = |text: &String| EntityUid::from_str(text).map_err(Error::cedar);
        let mut known = Vec::new();
        for Known { id, parents } in entities() {
            let parents: Result<_> = parents.iter().map(uid_of).collect();
            known.push(Entity::new_no_attrs(uid_of(&id)?, parents?));
        }
        let session = uid("Session", "this")?;
        let entities = Entities::from_entities(known, Some(&schema)).map_err(Error::cedar)?;
        Ok(Self { authorizer: Authorizer::new(), policies, entities, schema, session })
    }

    /// Whether somebody in a role may do that. What cannot be decided is refused.
    #[must_use]
    pub fn decide(&self, role: Role, action: &Action<'_>) -> Decision {
        let allowed = with_stack(|| self.ask(role, action)).unwrap_or_else(|error| {
            tracing::error!("deciding on {}, which is refused: {error}", action.name());
            false
        });
        if allowed { Decision::Allowed } else { Decision::Refused { gate: action.gate() } }
    }

    /// Whether the table, asked directly, says the same as Cedar of everything that tells one table from another.
    #[must_use]
    pub fn agrees(&self, policy: &Policy) -> bool {
        probes(policy)
            .iter()
            .all(|action| self.decide(Role::Operator, action).is_allowed() == policy.permits(action))
    }

    fn ask(&self, role: Role, action: &Action<'_>) -> Result<bool> {
        // No list has a key that is none.
        if matches!(action, Action::Key(name) if evdev(name).is_none()) {
            return Ok(false);
        }
        let context = Context::from_pairs(context(action)).map_err(Error::cedar)?;
        let request = Request::new(
            uid("Person", role.name())?,
            uid("Action", action.name())?,
            self.session.clone(),
            context,
            Some(&self.schema),
        )
        .map_err(Error::cedar)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &self.entities);
        // Cedar leaves out a policy that fails; one that forbids would then be missing.
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(Error::cedar(error));
        }
        Ok(response.decision() == cedar_policy::Decision::Allow)
    }
}

/// What matters of an action.
fn context(action: &Action<'_>) -> Vec<(String, RestrictedExpression)> {
    // What is larger than any limit is refused by each.
    let long = |value: u64| RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX));
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let set = |texts: Vec<&str>| RestrictedExpression::new_set(texts.into_iter().map(text));
    let pairs = match action {
        Action::Key(code) => vec![("code", text(code))],
        Action::Point { rate_hz } => vec![("rate_hz", long((*rate_hz).into()))],
        Action::CopyToClient { bytes } | Action::CopyToDesktop { bytes } => vec![("bytes", long(*bytes))],
        Action::Upload(transfer) | Action::Download(transfer) => {
            let extension = transfer.extension();
            // What is no path on some system is in no list, not even in one of all.
            let (dirs, extensions) = if transfer.is_path() {
                (transfer.dirs(), [EVERY].into_iter().chain(extension.as_deref()).collect())
            } else {
                (Vec::new(), Vec::new())
            };
            vec![
                ("bytes", long(transfer.bytes)),
                ("dirs", set(dirs)),
                ("extensions", set(extensions)),
                ("pasted", RestrictedExpression::new_bool(transfer.dir.is_none())),
                ("replaces", RestrictedExpression::new_bool(transfer.replaces)),
            ]
        }
        Action::Show { app_id } => vec![("app_id", text(app_id.unwrap_or_default()))],
        Action::Reveal { x, y } => vec![("x", long((*x).into())), ("y", long((*y).into()))],
        Action::Connect { sessions } => vec![("sessions", long((*sessions).into()))],
        Action::Stay { age_seconds, idle_seconds } => {
            vec![("age_seconds", long(*age_seconds)), ("idle_seconds", long(*idle_seconds))]
        }
        Action::Approve { own } => vec![("own", RestrictedExpression::new_bool(*own))],
        Action::Character
        | Action::PlaySound
        | Action::RecordSound
        | Action::UseCamera
        | Action::Print
        | Action::TakeScreenshot
        | Action::OpenChannel
        | Action::GoOn
        | Action::Observe
        | Action::Export => Vec::new(),
    };
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
