use std::fmt::Write;

/// Bytes 0x80 to 0x9f of windows-1252; 0 where it has none and Latin-1's control stays.
const WINDOWS: [u16; 32] = [
    0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039,
    0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc,
    0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
];

/// The text that `bytes` are in windows-1252, of which ISO 8859-1 is a part.
pub(super) fn from_latin1(bytes: &[u8]) -> String {
    let char_of = |&byte: &u8| match byte {
        0x80..=0x9f => match WINDOWS[usize::from(byte - 0x80)] {
            0 => char::from(byte),
            code => char::from_u32(u32::from(code)).unwrap_or(char::REPLACEMENT_CHARACTER),
        },
        _ => char::from(byte),
    };
    bytes.iter().map(char_of).collect()
}

/// Keys are words without spaces, quotes or control characters.
pub(super) fn is_key(key: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\"=#|".contains(c);
    (1..=512).contains(&key.len()) && !key.contains(odd)
}

/// VMware writes `"`, `|` and control characters as `|` and two hexadecimal digits.
pub(super) fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c == '"' || c == '|' || c.is_ascii_control() {
            // Writing to a string cannot fail.
            let _ = write!(out, "|{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// The value of what follows the `=`: quoted and escaped, or a bare word. A `|` that starts no escape
/// stands for itself, as VMware reads it.
pub(super) fn unquote(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('"') else {
        return match text.contains('"') {
            true => Err("a quote inside a bare value".into()),
            false => Ok(text.to_owned()),
        };
    };
    let (body, tail) = rest.split_once('"').ok_or("the value's quote is not closed")?;
    if !tail.trim().is_empty() && !tail.trim_start().starts_with('#') {
        return Err("text behind the value".into());
    }
    Ok(unescape(body))
}

fn unescape(body: &str) -> String {
    let mut out = Vec::with_capacity(body.len());
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at..] {
            [b'|', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    // Escapes can spell bytes that are no UTF-8; such a value is kept as it is written.
    String::from_utf8(out).unwrap_or_else(|_| body.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}
