use super::*;

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// A picture of two by two pixels, as PNG.
fn png() -> Vec<u8> {
    dib_to_png(&dib(0, &[])).unwrap()
}

/// The same as CF_DIB with 32 bits: blue and green over red and white, from the bottom up.
fn dib(compression: u32, masks: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [40_u32, 2, 2, 1 | 32 << 16, compression, 16, 0, 0, 0, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for number in masks.iter().copied().chain([0x00ff_0000, 0x00ff_ffff, 0x0000_00ff, 0x0000_ff00]) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

#[test]
fn text_in_any_script_comes_back_as_it_was() {
    let texts = [
        "",
        "a",
        "Grüße, naïve café",
        "שלום עולם, مرحبا بالعالم",
        "漢字かな交じり文 한국어",
        "👩‍👩‍👧‍👦 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🏳️‍🌈",
        "two\nlines\n",
        "\n\n",
        "a tab\tand \u{feff} and \u{2028}",
    ];
    for text in texts {
        let there = to_client(Form::Text, text.as_bytes().to_vec()).unwrap();
        assert_eq!(there, utf16(&text.replace('\n', "\r\n")));
        assert_eq!(to_desktop(Form::Text, there).unwrap(), text.as_bytes());
    }
}

#[test]
fn line_ends_are_made_the_other_sides_and_no_carriage_return_is_lost_or_doubled() {
    let to = |text: &str| String::from_utf8(to_desktop(Form::Text, utf16(text)).unwrap()).unwrap();
    assert_eq!(to("a\r\nb\r\n"), "a\nb\n");
    assert_eq!(to("a\rb\r"), "a\rb\r");
    assert_eq!(to("\r\r\n\r"), "\r\n\r");
    let from = |text: &str| to_client(Form::Text, text.as_bytes().to_vec()).unwrap();
    assert_eq!(from("a\nb\r\nc\rd"), utf16("a\r\nb\r\nc\rd"));
}

#[test]
fn text_ends_at_its_first_nul_and_half_characters_become_replacements() {
    let mut data = utf16("seen");
    data.extend(utf16("hidden"));
    assert_eq!(to_desktop(Form::Text, data).unwrap(), b"seen");
    // A lone high surrogate, and an odd byte at the end.
    assert_eq!(to_desktop(Form::Text, vec![0x00, 0xd8, 0x41, 0x00, 0x42]).unwrap(), "\u{fffd}A".as_bytes());
    assert_eq!(to_client(Form::Text, b"seen\0hidden".to_vec()).unwrap(), utf16("seen"));
    assert_eq!(to_client(Form::Text, vec![b'a', 0xff, b'b']).unwrap(), utf16("a\u{fffd}b"));
}

#[test]
fn html_comes_back_as_it_was() {
    for fragment in ["<b>bold</b>", "", "<p>Grüße: 漢字 👍</p>\n<ul><li>StartHTML:7</li></ul>"] {
        let there = to_client(Form::Html, fragment.as_bytes().to_vec()).unwrap();
        assert!(there.starts_with(b"Version:"));
        assert_eq!(to_desktop(Form::Html, there).unwrap(), fragment.as_bytes());
    }
}

#[test]
fn html_of_other_programs_is_read_by_its_offsets() {
    // With -1 for the whole, a source, and a NUL at the end, as Windows' programs write it.
    let header = "Version:1.0\r\nStartHTML:-1\r\nEndHTML:-1\r\nStartFragment:0000000144\r\nEndFragment:0000000153\r\n\
                  SourceURL:https://example.org/a:b\r\n<!--StartFragment-->";
    assert_eq!(header.len(), 144, "the offset above is of this");
    let data = format!("{header}<i>x</i>!<!--EndFragment-->\0");
    assert_eq!(to_desktop(Form::Html, data.into_bytes()).unwrap(), b"<i>x</i>!");
    for bad in
        ["", "<b>no header</b>", "StartFragment:5\r\nEndFragment:900\r\n", "StartFragment:9\nEndFragment:3\n"]
    {
        assert_eq!(to_desktop(Form::Html, bad.as_bytes().to_vec()), None, "{bad}");
    }
}

#[test]
fn a_picture_keeps_its_pixels_through_every_form() {
    let whole = dib(0, &[]);
    let png = to_desktop(Form::Dib, whole.clone()).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert_eq!(to_desktop(Form::Png, png.clone()).unwrap(), png);
    let back = to_client(Form::Dib, png).unwrap();
    let pixels = |dib: &[u8]| dib[40..].chunks_exact(4).map(|p| [p[0], p[1], p[2]]).collect::<Vec<_>>();
    assert_eq!(pixels(&back), pixels(&whole));
    // The way Windows writes screenshots.
    let masked = dib(3, &[0x00ff_0000, 0x0000_ff00, 0x0000_00ff]);
    assert_eq!(to_desktop(Form::Dib, masked).unwrap(), super::tests::png());
    assert_eq!(to_desktop(Form::Dib, dib(3, &[0xff, 0xff00, 0x00ff_0000])), None);
    // The way Linux' programs write it: the header of version 5 in a CF_DIB.
    let long = [&124_u32.to_le_bytes()[..], &whole[4..40], &[0; 84], &whole[40..]].concat();
    assert_eq!(to_desktop(Form::Dib, long).unwrap(), super::tests::png());
}

#[test]
fn a_small_file_that_claims_to_be_a_huge_picture_is_refused() {
    let mut dib = dib(0, &[]);
    dib[4..12].copy_from_slice(&[0x10, 0x27, 0, 0, 0x10, 0x27, 0, 0]); // 10000 x 10000
    assert_eq!(to_desktop(Form::Dib, dib), None);
    let mut png = png();
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    assert_eq!(to_client(Form::Dib, png), None);
}

#[test]
fn damaged_data_is_refused_or_read_as_something_and_never_more_than_that() {
    let good = [
        (Form::Text, utf16("Grüße 👍\r\n")),
        (Form::Html, to_client(Form::Html, b"<b>bold</b>".to_vec()).unwrap()),
        (Form::Dib, dib(0, &[])),
        (Form::Dib, dib(3, &[0x00ff_0000, 0x0000_ff00, 0x0000_00ff])),
        (Form::DibV5, [&124_u32.to_le_bytes()[..], &dib(0, &[])[4..40], &[0; 84], &[7; 16]].concat()),
        (Form::Png, png()),
    ];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for (form, good) in good {
        for cut in 0..good.len() {
            let _ = to_desktop(form, good[..cut].to_vec());
            let _ = to_client(form, good[..cut].to_vec());
        }
        for _ in 0..20_000 {
            let mut damaged = good.clone();
            for _ in 0..=random.next() % 4 {
                let at = random.next() as usize % damaged.len();
                damaged[at] = random.next() as u8;
            }
            if let Some(made) = to_desktop(form, damaged.clone()) {
                assert!(made.len() <= 64 << 20);
            }
            let _ = to_client(if form == Form::Png { Form::Dib } else { form }, damaged);
        }
    }
}

fn named(id: u32, name: &'static str) -> ClipboardFormat {
    ClipboardFormat::new(ClipboardFormatId::new(id)).with_name(ClipboardFormatName::new(name))
}

#[test]
fn each_side_is_told_what_it_can_use_and_nothing_else() {
    let list = [
        ClipboardFormat::new(ClipboardFormatId::CF_UNICODETEXT),
        ClipboardFormat::new(ClipboardFormatId::CF_LOCALE),
        named(0xc00a, "HTML Format"),
        named(0xc00b, "Rich Text Format"),
        ClipboardFormat::new(ClipboardFormatId::CF_DIBV5),
        ClipboardFormat::new(ClipboardFormatId::CF_DIB),
    ];
    let types: Vec<_> = from_client(&list, &OPEN).into_iter().map(|(t, id, form)| (t, id.0, form)).collect();
    let text = TEXT_TYPES.map(|t| (t, 13, Form::Text));
    let rest = [("text/html", 0xc00a, Form::Html), ("image/png", 8, Form::Dib)];
    assert_eq!(types, [&text[..], &rest[..]].concat());
    assert!(from_client(&[named(0xc00b, "Rich Text Format")], &OPEN).is_empty());

    let offered = ["text/plain", "text/html", "image/png", "image/x-odd"].map(str::to_owned);
    for format in for_client(&offered, &OPEN) {
        assert!(wish(format.id(), &offered, &OPEN).is_some());
        assert_eq!(wish(format.id(), &["image/x-odd".to_owned()], &OPEN), None);
    }
    assert!(for_client(&["image/x-odd".to_owned()], &OPEN).is_empty());
    assert_eq!(wish(ClipboardFormatId::CF_UNICODETEXT, &offered, &OPEN), Some(("text/plain", Form::Text)));
    assert_eq!(wish(ClipboardFormatId::CF_METAFILEPICT, &offered, &OPEN), None);
}

/// Text and files both ways.
const OPEN: Gates = Gates {
    clipboard_to_desktop: true,
    clipboard_to_client: true,
    clipboard_max_bytes: 1 << 20,
    files_to_desktop: true,
    files_to_client: true,
    files_max_bytes: 1 << 20,
    sound_to_client: false,
    drives: false,
};

#[test]
fn text_and_files_pass_only_where_their_own_gate_is_open() {
    let list =
        [ClipboardFormat::new(ClipboardFormatId::CF_UNICODETEXT), named(0xc0ff, "FileGroupDescriptorW")];
    let offered = ["text/plain".to_owned(), "text/uri-list".to_owned()];
    let text = |gates: &Gates| {
        let to_desktop = from_client(&list, gates).iter().any(|(.., form)| *form == Form::Text);
        let told = for_client(&offered, gates).iter().any(|f| f.id() == ClipboardFormatId::CF_UNICODETEXT);
        assert_eq!(told, wish(ClipboardFormatId::CF_UNICODETEXT, &offered, gates).is_some());
        (to_desktop, told)
    };
    let files = |gates: &Gates| {
        let to_desktop = from_client(&list, gates).iter().any(|(.., form)| *form == Form::Files);
        let told = for_client(&offered, gates).iter().any(|f| f.id().0 == FILES_ID);
        assert_eq!(told, wish(ClipboardFormatId::new(FILES_ID), &offered, gates).is_some());
        (to_desktop, told)
    };
    for bits in 0..16 {
        let gates = Gates {
            clipboard_to_desktop: bits & 1 != 0,
            clipboard_to_client: bits & 2 != 0,
            files_to_desktop: bits & 4 != 0,
            files_to_client: bits & 8 != 0,
            ..OPEN
        };
        assert_eq!(text(&gates), (gates.clipboard_to_desktop, gates.clipboard_to_client));
        assert_eq!(files(&gates), (gates.files_to_desktop, gates.files_to_client));
    }
}

#[test]
fn places_of_files_are_told_as_each_type_wants_them() {
    let uris = ["file:///a%20b".to_owned(), "file:///c".to_owned()];
    assert_eq!(files_to_desktop("text/uri-list", &uris), b"file:///a%20b\r\nfile:///c\r\n");
    assert_eq!(files_to_desktop("x-special/gnome-copied-files", &uris), b"copy\nfile:///a%20b\nfile:///c");
}
