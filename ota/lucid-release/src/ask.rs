//! Asking on a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _, stdin};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{At as _, Error, Result};
use crate::key::Passphrase;

/// The most bytes of a line.
const MOST_TYPED: u64 = 1024;

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

fn question(text: &str) -> Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).at("writing to", Path::new("the terminal"))
}

/// A line of standard input, without its end.
fn line() -> Result<Zeroizing<String>> {
    // So large that it does not grow, which would leave copies. (Standard input's own buffer cannot be wiped.)
    let mut line = Zeroizing::new(String::with_capacity(MOST_TYPED as usize + 1));
    stdin().lock().take(MOST_TYPED).read_line(&mut line).at("reading", Path::new("standard input"))?;
    if line.ends_with('\n') {
        line.pop();
    }
    Ok(line)
}

fn unseen(questions: &[&str]) -> Result<Vec<Zeroizing<String>>> {
    if !stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let guard = Unseen::begin().at("setting", Path::new("the terminal"))?;
    let mut answers = Vec::new();
    for text in questions {
        question(text)?;
        let answer = line();
        // What was typed shows no line's end either.
        question("\n")?;
        answers.push(answer?);
    }
    drop(guard);
    Ok(answers)
}

/// The passphrase of a key that there is: from the file that is named, or from the terminal.
///
/// # Errors
/// When there is neither, or it is empty.
pub fn passphrase(file: Option<&Path>, key: &Path) -> Result<Passphrase> {
    if let Some(file) = file {
        return Passphrase::read(file);
    }
    let mut answers = unseen(&[format!("Passphrase of {}: ", key.display()).as_str()])?;
    Passphrase::new(answers.pop().unwrap_or_default())
}

/// The passphrase of a new key, typed twice.
///
/// # Errors
/// When it is too short, or not the same both times.
pub fn new_passphrase(file: Option<&Path>) -> Result<Passphrase> {
    let passphrase = match file {
        Some(file) => Passphrase::read(file)?,
        None => {
            let answers = unseen(&["New passphrase, 12 characters or more: ", "The same again: "])?;
            let [first, again] = &answers[..] else { return Err(Error::NotTheSame) };
            if **first != **again {
                return Err(Error::NotTheSame);
            }
            Passphrase::new(first.clone())?
        }
    };
    passphrase.check()?;
    Ok(passphrase)
}

/// Whether somebody agrees. Only `yes` in full is it.
///
/// # Errors
/// When nobody can be asked.
pub fn agrees(text: &str) -> Result<bool> {
    if !stdin().is_terminal() {
        return Err(Error::NobodyAsked);
    }
    question(text)?;
    Ok(line()?.trim() == "yes")
}
