//! The format of `lucid.toml`: what is accepted, and what is said about what is not.
// The helpers of tests fail a test in the same way as the tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use lucid_provision::EXAMPLE;
use lucid_provision::apply::network_file;
use lucid_provision::config::{Config, MAX_BYTES, Password, USED, mark};

fn golden(part: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

#[test]
fn every_broken_file_is_refused_with_its_golden_message() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(golden("bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        seen += 1;
        let message = match Config::parse(&fs::read(&path).unwrap()) {
            Ok(_) => "ACCEPTED".to_owned(),
            Err(problem) => problem.to_string(),
        };
        let wanted = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        if message != wanted.trim_end() {
            wrong.push(format!("{}: {message}", path.file_stem().unwrap().to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "not the golden message:\n{}", wrong.join("\n"));
    assert!(seen >= 30, "only {seen} files");
}

#[test]
fn no_message_repeats_a_secret() {
    for secret in ["hunter22hunter22", "0x1234567890", "1234567890123", "[\"hunter22hunter22\"]"] {
        for line in [
            format!("[rdp]\npassword = {secret}\n"),
            format!("[rdp]\npassword = \"{secret}\n"),
            format!("[rdp]\npassword = \"{secret}\u{7}\"\n"),
            format!("[rdp]\npassword \"{secret}\"\n"),
            format!("[rdp]\npassword = '''{secret}\n"),
            format!("[rdp]\npassword = \"\\q{secret}\"\n"),
            format!("[rdp]\npassword = {{ {secret} }}\n"),
            format!("[network.wifi]\nssid = \"x\"\npassphrase = {secret}\n"),
            format!("[update]\nsource = 'https://me:{secret}@example.org'\n"),
        ] {
            let problem = Config::parse(line.as_bytes()).expect_err(&line).to_string();
            let shown = secret.trim_matches(['[', ']', '"']);
            assert!(!problem.contains(shown), "{line} -> {problem}");
        }
    }
}

#[test]
fn the_example_is_valid_with_and_without_its_comments() {
    let plain = Config::parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(plain.settings, lucid_provision::config::Settings::default());
    let all: String = EXAMPLE
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => l,
        })
        .map(|l| if l == "method = \"dhcp\"" { "method = \"static\"\n" } else { l }.to_owned() + "\n")
        .collect();
    // Keys have to be one's own: those of the example are none.
    let problem = Config::parse(all.as_bytes()).unwrap_err().to_string();
    assert!(problem.contains("recording.o") && problem.contains("lucidctl recording new-key"), "{problem}");
    let all = all.replace("the 64 digits of the public half", &"2f".repeat(32));
    let all = all.replace("the same of others who may open the recordings", &"5d".repeat(32));
    let config = Config::parse(all.as_bytes()).unwrap();
    assert_eq!(config.settings.recording.owners, ["2f".repeat(32)]);
    assert_eq!(config.settings.recording.observers, ["5d".repeat(32)]);
    assert!(config.settings.network.address.is_some() && config.settings.network.dns.len() == 2);
    assert!(matches!(config.password, Password::New(..)));
    let update = config.settings.update;
    assert_eq!(update.sources, ["https://example.org/lucid"]);
    assert_eq!((update.channel.as_str(), update.automatic), ("stable", true));
    assert_eq!(update.window.as_deref(), Some("02:00-04:00"));
}

#[test]
fn what_is_no_plain_address_is_no_source() {
    let parse = |source: &str| Config::parse(format!("[update]\nsource = '{source}'\n").as_bytes());
    for good in [
        "https://example.org",
        "http://example.org/",
        "https://releases.example.org:8443/lucid/stable/",
        "http://192.0.2.7:8000",
        "http://[2001:db8::1]/a",
        "https://xn--bcher-kva.example/a_b~c",
    ] {
        assert_eq!(parse(good).expect(good).settings.update.sources, [good]);
    }
    for bad in [
        "",
        "/media/stick",
        "example.org",
        "file:///etc",
        "https://",
        "https:///a",
        "https://a b.org",
        "https://a.org/\"",
        "https://a.org/\\",
        "https://a.org/$HOME",
        "https://a.org/?q",
        "https://a.org/#f",
        "https://me@a.org",
        "https://a.org:0",
        "https://a.org:65536",
        "https://a.org:+1",
        "https://-a.org",
        "https://a..org",
        "http://192.0.2.300",
        "http://1.2.3",
        "http://[::1",
        "http://[a.org]",
        "http://[::1]x",
    ] {
        let problem = parse(bad).expect_err(bad).to_string();
        assert!(problem.contains("update.source must be an address"), "{bad}: {problem}");
    }
    assert!(parse(&format!("https://example.org/{}", "a".repeat(500))).is_err());
}

#[test]
fn that_fetching_costs_is_true_or_false_and_false_without_a_word() {
    let parse =
        |line: &str| Config::parse(format!("[update]\nsource = \"https://a.org\"\n{line}\n").as_bytes());
    for (line, metered) in [("", false), ("metered = false", false), ("metered = true", true)] {
        assert_eq!(parse(line).expect(line).settings.update.metered, metered, "{line}");
    }
    let problem = parse("metered = \"yes\"").unwrap_err().to_string();
    assert!(problem.contains("update.metered must be true or false"), "{problem}");
}

#[test]
fn a_device_takes_usb_sticks_unless_it_is_told_otherwise() {
    let parse = |text: &str| Config::parse(format!("[update]\n{text}\n").as_bytes());
    assert!(parse("channel = \"beta\"").unwrap().settings.update.usb);
    let update = parse("usb = false").unwrap().settings.update;
    assert!(!update.usb && update.sources.is_empty());
    let problem = parse("usb = \"no\"").unwrap_err().to_string();
    assert!(problem.contains("update.usb must be true or false"), "{problem}");
    let problem = parse("usb = false\nwindow = \"02:00-04:00\"").unwrap_err().to_string();
    assert!(problem.contains("line 3") && problem.contains("has no source"), "{problem}");
}

#[test]
fn a_window_may_pass_midnight_and_has_two_ends() {
    let parse = |window: &str| {
        let text = format!("[update]\nsource = \"https://a.org\"\nwindow = \"{window}\"\n");
        Config::parse(text.as_bytes()).map(|config| config.settings.update.window)
    };
    for good in ["02:00-04:00", "23:30-00:15", "00:00-23:59"] {
        assert_eq!(parse(good).expect(good).as_deref(), Some(good));
    }
    for bad in [
        "",
        "02:00",
        "02:00-02:00",
        "2:00-4:00",
        "24:00-01:00",
        "02:60-03:00",
        "02:00 - 04:00",
        "+2:00-04:00",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_whole_file_gives_the_golden_network_file() {
    let config = Config::parse(&fs::read(golden("good.toml")).unwrap()).unwrap();
    assert_eq!(config.settings.name, "desk-1");
    assert_eq!(config.user.as_deref(), Some("anna"));
    assert_eq!(config.settings.keyboard.layout, "de");
    assert_eq!(config.settings.keyboard.variant, "nodeadkeys");
    assert_eq!(network_file(&config.settings), fs::read_to_string(golden("10-lucid.network")).unwrap());
}

#[test]
fn an_empty_file_means_all_defaults() {
    for text in ["", "\n", "# nothing\n", "\u{feff}"] {
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.settings, Default::default());
        assert_eq!(config.password, Password::Unset);
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_not_move_the_secret() {
    let plain = "[rdp]\npassword = \"secret-secret\" # mine\n";
    for text in
        [plain.to_owned(), plain.replace('\n', "\r\n"), format!("\u{feff}{}", plain.replace('\n', "\r\n"))]
    {
        let config = Config::parse(text.as_bytes()).unwrap();
        let Password::New(secret, span) = config.password else { panic!("no password in {text:?}") };
        assert_eq!(secret.expose(), "secret-secret");
        assert_eq!(&text.as_bytes()[span], b"\"secret-secret\"");
    }
}

#[test]
fn a_marked_file_is_valid_has_the_same_length_and_means_used() {
    let files = [
        "[rdp]\npassword = \"12345678\"\n",
        "[rdp]\npassword = '12345678' # eight\nuser = \"x\"\n",
        "rdp = { user = \"x\", password = \"correct horse battery\" }\n",
        "[rdp]\npassword = \"\"\"\nlong\r\nlines12\"\"\"\n",
        "rdp.password = \"ž1234567\"",
        "\u{feff}[rdp]\r\npassword = \"\\u0041bcdefgh\"\r\n[keyboard]\r\nlayout = \"de\"\r\n",
    ];
    for text in files {
        let config = match Config::parse(text.as_bytes()) {
            Ok(config) => config,
            // Line ends are control characters: several lines are no password.
            Err(problem) => {
                assert!(text.contains("\"\"\""), "{problem}");
                continue;
            }
        };
        let Password::New(_, span) = config.password.clone() else { panic!("{text}") };
        let mut bytes = text.as_bytes().to_vec();
        bytes[span.clone()].copy_from_slice(&mark(span.len()).unwrap());
        let after = Config::parse(&bytes).unwrap();
        assert_eq!(after.password, Password::Used, "{}", String::from_utf8_lossy(&bytes));
        assert_eq!((after.settings, after.user), (config.settings, config.user));
    }
    assert_eq!(mark(USED.len()).unwrap(), USED.as_bytes());
    assert_eq!(mark(USED.len() - 1), None);
}

#[test]
fn the_size_is_bounded() {
    let mut text = "# x\n".repeat(MAX_BYTES / 4);
    assert!(Config::parse(text.as_bytes()).is_ok());
    text.push('#');
    let problem = Config::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(problem.contains("at most 65536"), "{problem}");
    // Deep nesting, the classic way to exhaust a parser's stack.
    assert!(Config::parse(format!("a = {}", "[".repeat(60_000)).as_bytes()).is_err());
    assert!(Config::parse(format!("a{} = 1", ".a".repeat(30_000)).as_bytes()).is_err());
}

#[test]
fn random_changes_never_panic_and_what_is_accepted_is_within_the_bounds() {
    let good = fs::read(golden("good.toml")).unwrap();
    // A fixed xorshift: the same changes on every run.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let pieces: [&[u8]; 12] =
        [b"\"", b"'", b"\n", b"[", b"]", b"=", b"{", b"}", b"\\", b"\xff", b"rdp", b"(used)"];
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 3 {
            let at = next() % bytes.len().max(1);
            match next() % 4 {
                _ if bytes.is_empty() => break,
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.remove(at)),
                2 => drop(bytes.splice(at..at, pieces[next() % pieces.len()].iter().copied())),
                _ => bytes.truncate(at.max(1)),
            }
        }
        match Config::parse(&bytes) {
            Ok(config) => {
                accepted += 1;
                assert!((1..=63).contains(&config.settings.name.len()));
                assert!(config.settings.keyboard.layout.len() <= 32);
                if let Password::New(secret, span) = &config.password {
                    assert!(secret.expose().chars().count() >= 8);
                    assert!(mark(span.len()).is_some() && span.end <= bytes.len());
                }
            }
            Err(problem) => {
                if let Some((line, column)) = problem.place {
                    assert!(line >= 1 && column >= 1);
                    assert!(line <= bytes.iter().filter(|b| **b == b'\n').count() + 1);
                }
            }
        }
    }
    assert!(accepted > 100, "only {accepted} accepted: the changes are too coarse to test anything");
}
