//! Whose keys accept policies, and who decides on requests: accounts that are not closed.

use lucid_accounts::{Accounts, Role};
use lucid_policy::approval::{Approver, Rules};
use lucid_recording::PublicKey;

/// Everybody, as it was when they were asked for.
#[derive(Default)]
pub(crate) struct People {
    people: Vec<(String, Vec<PublicKey>)>,
    rules: Option<Rules>,
}

impl People {
    /// Of those, so many approvers have to agree; where there are fewer, nothing can be asked for.
    pub(crate) fn of(accounts: &Accounts, needed: usize) -> Self {
        let open = || accounts.all().iter().filter(|account| !account.closed);
        let approvers: Vec<_> = open()
            .filter(|account| account.roles.contains(&Role::Approver))
            .flat_map(|account| {
                let approver = |key| Approver { key, name: account.name.clone() };
                let none = account.decides_on_screen().then(|| approver(None));
                account.keys.iter().map(move |key| approver(Some(*key))).chain(none)
            })
            .collect();
        let rules = if approvers.is_empty() {
            None
        } else {
            let rules = Rules::new(approvers, needed);
            rules.inspect_err(|error| tracing::warn!("no change of a policy can be approved: {error}")).ok()
        };
        Self { people: open().map(|account| (account.name.clone(), account.keys.clone())).collect(), rules }
    }

    /// The keys that may sign for somebody.
    pub(crate) fn keys(&self, name: &str) -> &[PublicKey] {
        // As account names are compared.
        let name = name.to_lowercase();
        self.people.iter().find(|(other, _)| other.to_lowercase() == name).map_or(&[], |(_, keys)| keys)
    }

    /// Who decides on requests, if anybody may.
    pub(crate) fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use lucid_accounts::{Account, Password};
    use lucid_statement::Hex;

    use super::*;

    #[test]
    fn keys_are_their_accounts_and_who_is_closed_or_no_approver_approves_nothing() {
        let mut accounts = Accounts::default();
        for (name, role, key) in
            [("Ada", Role::Owner, Some(1)), ("bob", Role::Approver, Some(2)), ("eve", Role::Approver, None)]
        {
            let mut account = Account::new(name, [role]).unwrap();
            account.keys.extend(key.map(|key| Hex([key; 32])));
            accounts.add(account).unwrap();
        }
        assert!(People::of(&accounts, 2).rules().is_none(), "who has no way in cannot decide");
        let password = Some(Password::of_nt_hash(Hex([7; 16])));
        accounts.get_mut("eve").unwrap().set_password(password.clone());
        accounts.get_mut("eve").unwrap().roles.insert(Role::Operator);
        assert!(People::of(&accounts, 2).rules().is_none(), "nor can who has a desktop, without a key");
        accounts.get_mut("eve").unwrap().roles.remove(&Role::Operator);
        let people = People::of(&accounts, 2);
        assert_eq!((people.keys("ADA"), people.keys("mallory")), (&[Hex([1; 32])][..], &[][..]));
        let approvers = people.rules().unwrap().approvers();
        assert_eq!(approvers.iter().map(|approver| &*approver.name).collect::<Vec<_>>(), ["bob", "eve"]);
        accounts.get_mut("eve").unwrap().closed = true;
        assert!(People::of(&accounts, 2).rules().is_none(), "more than there are");
        assert_eq!(People::of(&accounts, 1).rules().unwrap().approvers().len(), 1);
        assert!(People::of(&accounts, 1).keys("eve").is_empty());
        accounts.get_mut("bob").unwrap().roles.clear();
        assert!(People::of(&accounts, 1).rules().is_none());
    }
}
