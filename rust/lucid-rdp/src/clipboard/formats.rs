//! The clipboard's forms: what Windows calls them and what Wayland calls them, and from one to the other.
//!
//! | Windows | Wayland |
//! | --- | --- |
//! | `CF_UNICODETEXT`: UTF-16 LE, CRLF, ends with NUL | `text/plain;charset=utf-8`: LF |
//! | `HTML Format` (CF_HTML): a header with byte offsets, UTF-8 | `text/html` |
//! | `FileGroupDescriptorW`: names and sizes; content is asked for by its place in the list | `text/uri-list`, `x-special/gnome-copied-files`: where the files are |
//! | `PNG`; `CF_DIB`, `CF_DIBV5`: a bitmap without its file header | `image/png` |

use ironrdp_cliprdr::pdu::{ClipboardFormat, ClipboardFormatId, ClipboardFormatName};
use ironrdp_cliprdr_format::bitmap::{dib_to_png, dibv5_to_png, png_to_cf_dib};
use ironrdp_cliprdr_format::html::plain_html_to_cf_html;

use crate::gates::Gates;

/// A form of Windows' clipboard that this host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Html,
    Png,
    Dib,
    DibV5,
    /// The list of copied files (CLIPRDR_FILELIST).
    Files,
}

impl Form {
    /// What the audit calls it: the type that the desktop's programs have, whose bytes are counted and hashed.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Form::Text => "text/plain",
            Form::Html => HTML_TYPE,
            Form::Png | Form::Dib | Form::DibV5 => PNG_TYPE,
            Form::Files => URI_LIST,
        }
    }
}

/// Ids of the forms that have none of their own; from the range of registered formats.
const HTML_ID: u32 = 0xC101;
const PNG_ID: u32 = 0xC102;
const FILES_ID: u32 = 0xC103;
const PNG: ClipboardFormatName = ClipboardFormatName::new_static("PNG");

/// What Wayland calls text, best first.
const TEXT_TYPES: [&str; 3] = ["text/plain;charset=utf-8", "UTF8_STRING", "text/plain"];
const HTML_TYPE: &str = "text/html";
const PNG_TYPE: &str = "image/png";
/// What Wayland calls copied files, best first.
const FILE_TYPES: [&str; 2] = [URI_LIST, GNOME_FILES];
const URI_LIST: &str = "text/uri-list";
const GNOME_FILES: &str = "x-special/gnome-copied-files";

/// What may be had from a client: Wayland's types with the client's id and the form for each.
pub(crate) fn from_client(
    formats: &[ClipboardFormat],
    gates: &Gates,
) -> Vec<(&'static str, ClipboardFormatId, Form)> {
    let id = |wanted: ClipboardFormatId| formats.iter().map(ClipboardFormat::id).find(|id| *id == wanted);
    let named = |names: &[&str]| {
        let is = |f: &&ClipboardFormat| f.name().is_some_and(|n| names.contains(&n.value()));
        formats.iter().find(is).map(ClipboardFormat::id)
    };
    let mut types = Vec::new();
    if let Some(id) = named(&[ClipboardFormatName::FILE_LIST.value()]).filter(|_| gates.files_to_desktop) {
        types.extend(FILE_TYPES.map(|t| (t, id, Form::Files)));
    }
    if !gates.clipboard_to_desktop {
        return types;
    }
    if let Some(id) = id(ClipboardFormatId::CF_UNICODETEXT) {
        types.extend(TEXT_TYPES.map(|t| (t, id, Form::Text)));
    }
    if let Some(id) = named(&[ClipboardFormatName::HTML.value()]) {
        types.push((HTML_TYPE, id, Form::Html));
    }
    // DIBV5 last: Windows makes it out of bitmaps without alpha, and leaves every pixel transparent.
    let picture = named(&[PNG.value(), PNG_TYPE])
        .map(|id| (id, Form::Png))
        .or_else(|| id(ClipboardFormatId::CF_DIB).map(|id| (id, Form::Dib)))
        .or_else(|| id(ClipboardFormatId::CF_DIBV5).map(|id| (id, Form::DibV5)));
    if let Some((id, form)) = picture {
        types.push((PNG_TYPE, id, form));
    }
    types
}

/// What the client is told of what a program offers.
pub(crate) fn for_client(mime_types: &[String], gates: &Gates) -> Vec<ClipboardFormat> {
    let has = |wanted: &str| mime_types.iter().any(|t| t == wanted);
    let mut formats = Vec::new();
    if gates.files_to_client && FILE_TYPES.into_iter().any(has) {
        let id = ClipboardFormatId::new(FILES_ID);
        formats.push(ClipboardFormat::new(id).with_name(ClipboardFormatName::FILE_LIST));
    }
    if !gates.clipboard_to_client {
        return formats;
    }
    if TEXT_TYPES.into_iter().any(has) {
        formats.push(ClipboardFormat::new(ClipboardFormatId::CF_UNICODETEXT));
    }
    if has(HTML_TYPE) {
        let id = ClipboardFormatId::new(HTML_ID);
        formats.push(ClipboardFormat::new(id).with_name(ClipboardFormatName::HTML));
    }
    if has(PNG_TYPE) {
        formats.push(ClipboardFormat::new(ClipboardFormatId::new(PNG_ID)).with_name(PNG));
        formats.push(ClipboardFormat::new(ClipboardFormatId::CF_DIB));
    }
    formats
}

/// Which form the client's wish is for.
pub(crate) fn wanted(id: ClipboardFormatId) -> Option<Form> {
    match id {
        ClipboardFormatId::CF_UNICODETEXT => Some(Form::Text),
        ClipboardFormatId::CF_DIB => Some(Form::Dib),
        ClipboardFormatId(HTML_ID) => Some(Form::Html),
        ClipboardFormatId(PNG_ID) => Some(Form::Png),
        ClipboardFormatId(FILES_ID) => Some(Form::Files),
        _ => None,
    }
}

/// In which of the program's types the client's wish is had, and the form into which it is made.
pub(crate) fn wish(
    id: ClipboardFormatId,
    mime_types: &[String],
    gates: &Gates,
) -> Option<(&'static str, Form)> {
    let has = |wanted: &&str| mime_types.iter().any(|t| t == wanted);
    let form = wanted(id)?;
    let types: &[&'static str] = match form {
        Form::Text => &TEXT_TYPES,
        Form::Html => &[HTML_TYPE],
        Form::Png | Form::Dib | Form::DibV5 => &[PNG_TYPE],
        Form::Files => &FILE_TYPES,
    };
    let open = if form == Form::Files { gates.files_to_client } else { gates.clipboard_to_client };
    if !open {
        return None;
    }
    types.iter().find(|t| has(t)).map(|t| (*t, form))
}

/// Where files are, as a program of the desktop reads it.
pub(crate) fn files_to_desktop(mime_type: &str, uris: &[String]) -> Vec<u8> {
    match mime_type {
        GNOME_FILES => format!("copy\n{}", uris.join("\n")).into_bytes(),
        _ => uris.iter().flat_map(|uri| [uri.as_str(), "\r\n"]).collect::<String>().into_bytes(),
    }
}

/// Whether there is nothing in the client's data. It can be so meant.
pub(crate) fn is_nothing(form: Form, data: &[u8]) -> bool {
    match form {
        Form::Text => data.iter().take(2).all(|byte| *byte == 0),
        _ => data.is_empty(),
    }
}

/// Makes the client's data into what a program of the desktop reads. `None`: it is not what it says, or too large.
pub(crate) fn to_desktop(form: Form, data: Vec<u8>) -> Option<Vec<u8>> {
    match form {
        Form::Text => Some(text_to_desktop(&data)),
        Form::Html => html_to_desktop(&data).map(<[u8]>::to_vec),
        Form::Png => Some(data),
        Form::Dib => dib_to_png(&plain_dib(&data)?).ok(),
        Form::DibV5 => dibv5_to_png(&data).ok(),
        // What is read there are places of files, not these names.
        Form::Files => None,
    }
}

/// Makes a program's data into what the client asked for. `None`: it is not what it says, or too large.
pub(crate) fn to_client(form: Form, data: Vec<u8>) -> Option<Vec<u8>> {
    match form {
        Form::Text => Some(text_to_client(&data)),
        Form::Html => Some(plain_html_to_cf_html(&String::from_utf8_lossy(&data)).into_bytes()),
        Form::Png => Some(data),
        Form::Dib => png_to_cf_dib(&data).ok(),
        // Never offered; made from the files themselves.
        Form::DibV5 | Form::Files => None,
    }
}

fn text_to_desktop(data: &[u8]) -> Vec<u8> {
    let units = data.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let mut text = String::with_capacity(data.len() / 2);
    let mut carriage_return = false;
    for c in char::decode_utf16(units.take_while(|unit| *unit != 0)) {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        if std::mem::replace(&mut carriage_return, c == '\r') && c != '\n' {
            text.push('\r');
        }
        if c != '\r' {
            text.push(c);
        }
    }
    if carriage_return {
        text.push('\r');
    }
    text.into_bytes()
}

fn text_to_client(data: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(data);
    let mut out = Vec::with_capacity(text.len() * 2 + 2);
    let mut before = '\0';
    // A NUL would end the text there.
    for c in text.chars().take_while(|c| *c != '\0').chain(['\0']) {
        if c == '\n' && before != '\r' {
            out.extend_from_slice(&u16::from(b'\r').to_le_bytes());
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.extend_from_slice(&unit.to_le_bytes());
        }
        before = c;
    }
    out
}

/// The fragment of CF_HTML. Its header is lines of `Name:value`; offsets are in bytes from the beginning of all.
fn html_to_desktop(data: &[u8]) -> Option<&[u8]> {
    /// The header's lines are few and short.
    const MAX_HEADER: usize = 4096;
    let header = data.get(..MAX_HEADER.min(data.len()))?;
    let mut offsets = [None; 4];
    for line in header.split(|b| matches!(b, b'\r' | b'\n')) {
        if line.first() == Some(&b'<') {
            break;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let at = match name {
            b"StartFragment" => 0,
            b"EndFragment" => 1,
            b"StartHTML" => 2,
            b"EndHTML" => 3,
            _ => continue,
        };
        let value = std::str::from_utf8(value.get(1..)?).ok()?.trim();
        // -1 says that there is none.
        offsets[at] = value.parse::<usize>().ok();
    }
    let [start_fragment, end_fragment, start_html, end_html] = offsets;
    let range = |start: Option<usize>, end: Option<usize>| data.get(start?..end?);
    range(start_fragment, end_fragment).or_else(|| range(start_html, end_html))
}

/// A CF_DIB as the plainest one: the 40 bytes of BITMAPINFOHEADER and the pixels. Programs also write the longer
/// headers of later versions there, colour masks (BI_BITFIELDS, taken when they say the usual order) and palettes.
fn plain_dib(data: &[u8]) -> Option<Vec<u8>> {
    /// BITMAPINFOHEADER; the masks follow, or stand there in a longer header.
    const HEADER: usize = 40;
    const COMPRESSION: usize = 16;
    const SIZE_IMAGE: usize = 20;
    const COLOURS_USED: usize = 32;
    const BITFIELDS: u32 = 3;
    const MASKS: [u32; 3] = [0x00ff_0000, 0x0000_ff00, 0x0000_00ff];
    let number =
        |at: usize| data.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(u32::from_le_bytes);
    let size = usize::try_from(number(0)?).ok().filter(|size| (HEADER..=124).contains(size))?;
    let mut pixels = size.checked_add(usize::try_from(number(COLOURS_USED)?).ok()?.checked_mul(4)?)?;
    match number(COMPRESSION)? {
        0 => {}
        BITFIELDS => {
            if !(0..3).all(|i| number(HEADER + 4 * i) == Some(MASKS[i])) {
                return None;
            }
            if size == HEADER {
                pixels += 4 * MASKS.len();
            }
        }
        _ => return None,
    }
    let mut plain = data.get(..HEADER)?.to_vec();
    plain.get_mut(..4)?.copy_from_slice(&(HEADER as u32).to_le_bytes());
    // Compression, the size of the pixels (which may say anything; it follows from the rest) and the palette.
    plain.get_mut(COMPRESSION..SIZE_IMAGE + 4)?.fill(0);
    plain.get_mut(COLOURS_USED..HEADER)?.fill(0);
    plain.extend_from_slice(data.get(pixels..)?);
    Some(plain)
}

#[cfg(test)]
mod tests;
