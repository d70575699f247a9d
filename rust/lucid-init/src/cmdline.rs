//! The words of the kernel command line that are meant for this program.
//!
//! - `lucid.verity=v1,<data_blocks>,<salt>,<root hash>`: the verified root. `data_blocks` is the
//!   number of 4096-byte blocks of the file system, decimal without leading zero; `salt` is 1 to 256
//!   bytes and `root hash` 32 bytes in lower-case hexadecimal. The hash tree begins at block
//!   `data_blocks` of the same partition. Must be there exactly once.
//! - `lucid.scrub`: read the whole verified root once before the hand-over.
//!
//! Any other word that begins with `lucid.` is reported.

use crate::error::Error;

/// Bytes of one data block and of one hash block.
pub(crate) const BLOCK_SIZE: u64 = 4096;
/// More than any root partition has: 2^28 blocks are 1 TiB.
const MAX_DATA_BLOCKS: u64 = 1 << 28;
/// dm-verity's own limit for the salt (drivers/md/dm-verity-target.c).
const MAX_SALT_BYTES: usize = 256;

/// Which root is genuine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verity {
    /// Blocks of the file system; the hash tree's first block has this number.
    pub(crate) data_blocks: u64,
    /// Lower-case hexadecimal.
    pub(crate) salt: String,
    /// Lower-case hexadecimal, 64 digits.
    pub(crate) root_hash: String,
}

/// Everything that the command line says to this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cmdline {
    /// The verified root.
    pub(crate) verity: Verity,
    /// Whether to read the whole root before the hand-over.
    pub(crate) scrub: bool,
    /// Words that begin with `lucid.` and mean nothing to this version.
    pub(crate) unknown: Vec<String>,
}

impl Cmdline {
    /// Reads the text of `/proc/cmdline`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut verity = None;
        let mut scrub = false;
        let mut unknown = Vec::new();
        for word in text.split_ascii_whitespace() {
            if let Some(value) = word.strip_prefix("lucid.verity=") {
                if verity.is_some() {
                    return Err(wrong("lucid.verity stands there twice"));
                }
                verity = Some(Verity::parse(value)?);
            } else if word == "lucid.scrub" {
                scrub = true;
            } else if word.starts_with("lucid.") {
                unknown.push(word.chars().take(80).collect());
            }
        }
        let verity = verity.ok_or_else(|| wrong("lucid.verity=v1,… is missing"))?;
        Ok(Self { verity, scrub, unknown })
    }
}

impl Verity {
    fn parse(value: &str) -> Result<Self, Error> {
        let fields: Vec<&str> = value.split(',').collect();
        let [version, blocks, salt, root_hash] = fields[..] else {
            return Err(wrong(&format!("lucid.verity has {} fields instead of 4", fields.len())));
        };
        if version != "v1" {
            return Err(wrong("lucid.verity is not of version v1"));
        }
        let plain = !blocks.is_empty()
            && blocks.len() <= 12
            && !blocks.starts_with('0')
            && blocks.bytes().all(|b| b.is_ascii_digit());
        let data_blocks = match blocks.parse::<u64>() {
            Ok(n) if plain && n <= MAX_DATA_BLOCKS => n,
            _ => {
                return Err(wrong(
                    "lucid.verity's number of data blocks is not a decimal number from 1 to 2^28",
                ));
            }
        };
        if salt.is_empty()
            || salt.len() > 2 * MAX_SALT_BYTES
            || !salt.len().is_multiple_of(2)
            || !is_hex(salt)
        {
            return Err(wrong("lucid.verity's salt is not 1 to 256 bytes of lower-case hexadecimal"));
        }
        if root_hash.len() != 64 || !is_hex(root_hash) {
            return Err(wrong("lucid.verity's root hash is not 32 bytes of lower-case hexadecimal"));
        }
        Ok(Self { data_blocks, salt: salt.to_owned(), root_hash: root_hash.to_owned() })
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn wrong(reason: &str) -> Error {
    Error::Cmdline { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn good() -> String {
        format!(
            "console=tty0 console=ttyAMA0,115200 lucid.verity=v1,12345,00ff,{HASH} panic=10 lucid.scrub\n"
        )
    }

    #[test]
    fn a_good_line_gives_exactly_its_values() {
        let parsed = Cmdline::parse(&good()).unwrap();
        assert_eq!(parsed.verity, Verity { data_blocks: 12345, salt: "00ff".into(), root_hash: HASH.into() });
        assert!(parsed.scrub);
        assert!(parsed.unknown.is_empty());
    }

    #[test]
    fn every_deviation_in_the_verity_word_is_refused() {
        let bad = [
            String::new(),
            "lucid.verity=".into(),
            format!("lucid.verity=v2,1,00,{HASH}"),
            format!("lucid.verity=v1,0,00,{HASH}"),
            format!("lucid.verity=v1,01,00,{HASH}"),
            format!("lucid.verity=v1,+1,00,{HASH}"),
            format!("lucid.verity=v1,-1,00,{HASH}"),
            format!("lucid.verity=v1,268435457,00,{HASH}"),
            format!("lucid.verity=v1,99999999999999999999,00,{HASH}"),
            format!("lucid.verity=v1,1,,{HASH}"),
            format!("lucid.verity=v1,1,0,{HASH}"),
            format!("lucid.verity=v1,1,{},{HASH}", "00".repeat(257)),
            format!("lucid.verity=v1,1,0G,{HASH}"),
            format!("lucid.verity=v1,1,FF,{HASH}"),
            format!("lucid.verity=v1,1,00,{}", &HASH[1..]),
            format!("lucid.verity=v1,1,00,{HASH}0"),
            format!("lucid.verity=v1,1,00,{HASH},x"),
            format!("lucid.verity=v1,1,00,{HASH} lucid.verity=v1,1,00,{HASH}"),
            format!("Lucid.verity=v1,1,00,{HASH}"),
        ];
        for line in bad {
            assert!(Cmdline::parse(&line).is_err(), "accepted: {line}");
        }
    }

    #[test]
    fn a_foreign_lucid_word_is_named() {
        let parsed = Cmdline::parse(&format!("{} lucid.scrubb", good())).unwrap();
        assert_eq!(parsed.unknown, ["lucid.scrubb"]);
    }

    #[test]
    fn a_mutated_line_never_changes_what_is_verified_unnoticed() {
        // Every single-byte change either leaves the meaning alone, is refused, or shows in a value.
        let line = good();
        let wanted = Cmdline::parse(&line).unwrap();
        let at = line.find("lucid.verity=").unwrap();
        let end = at + line[at..].find(' ').unwrap();
        for i in at..end {
            for byte in 0x20u8..0x7f {
                let mut bytes = line.clone().into_bytes();
                if bytes[i] == byte {
                    continue;
                }
                bytes[i] = byte;
                let text = String::from_utf8(bytes).unwrap();
                if let Ok(parsed) = Cmdline::parse(&text) {
                    assert_ne!(parsed.verity, wanted.verity, "{text}");
                }
            }
        }
    }
}
