use std::borrow::Cow;

mod blank;
mod disks;
mod text;

pub use disks::VmxDisk;

/// The longest .vmx that is read.
const MAX_BYTES: usize = 1 << 20;
/// The most settings in one; a VM with every device there is has about 2 500.
const MAX_KEYS: usize = 4096;

/// What is wrong with a text that should be a .vmx: fix the file.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the .vmx: {problem}")]
pub struct VmxError {
    line: usize,
    problem: String,
}

/// A VM's configuration: `key = "value"` lines. Keys compare without case; order, comments and every
/// line that is not changed are kept as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vmx {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// A comment or an empty line.
    Other(String),
    Setting {
        key: String,
        value: String,
        raw: Option<String>,
    },
}

impl Vmx {
    /// Reads a .vmx. UTF-8, or with an `.encoding` that says so one of the Western 8-bit sets, which is
    /// converted.
    pub fn parse(bytes: &[u8]) -> Result<Self, VmxError> {
        if bytes.len() > MAX_BYTES {
            return Err(error(0, format!("{} bytes are more than {MAX_BYTES}", bytes.len())));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse_text(text),
            Err(problem) => {
                let mut vmx = Self::parse_text(&text::from_latin1(bytes))?;
                let declared = vmx.get(".encoding").unwrap_or_default().to_ascii_lowercase();
                if !["windows-1252", "iso-8859-1", "latin1"].contains(&declared.as_str()) {
                    return Err(error(0, format!("it is no UTF-8: {problem}")));
                }
                vmx.set(".encoding", "UTF-8");
                Ok(vmx)
            }
        }
    }

    fn parse_text(text: &str) -> Result<Self, VmxError> {
        let mut vmx = Self::default();
        let mut seen = std::collections::HashMap::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // A line keeps its carriage return: what is not changed stays as it was to the byte.
        let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        for (at, raw) in lines.enumerate().filter(|_| !text.is_empty()) {
            let line = parse_line(raw).map_err(|problem| error(at + 1, problem))?;
            if let Line::Setting { key, value, .. } = &line {
                match seen.insert(key.to_ascii_lowercase(), value.clone()) {
                    None => {}
                    Some(before) if before == *value => continue,
                    Some(_) => return Err(error(at + 1, format!("{key} is set twice"))),
                }
                if seen.len() > MAX_KEYS {
                    return Err(error(at + 1, format!("more than {MAX_KEYS} settings")));
                }
            }
            vmx.lines.push(line);
        }
        Ok(vmx)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// Whether `key` says TRUE.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// Sets `key` where it stands, or at the end.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let new = value.into();
        for line in &mut self.lines {
            if let Line::Setting { key: k, value, raw } = line
                && k.eq_ignore_ascii_case(key)
            {
                if *value != new {
                    (*value, *raw) = (new, None);
                }
                return;
            }
        }
        self.lines.push(Line::Setting { key: key.to_owned(), value: new, raw: None });
    }

    /// Removes `key`; returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.remove_where(|k| k.eq_ignore_ascii_case(key))
    }

    /// Removes every key that starts with `prefix`, without regard to case; returns whether any did.
    pub fn remove_prefix(&mut self, prefix: &str) -> bool {
        self.remove_where(|k| {
            k.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        })
    }

    fn remove_where(&mut self, unwanted: impl Fn(&str) -> bool) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::Setting { key, .. } if unwanted(key)));
        self.lines.len() != before
    }

    /// All settings in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Setting { key, value, .. } => Some((key.as_str(), value.as_str())),
            Line::Other(_) => None,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for line in &self.lines {
            out.push_str(&match line {
                Line::Other(raw) | Line::Setting { raw: Some(raw), .. } => Cow::Borrowed(raw),
                Line::Setting { key, value, raw: None } => {
                    Cow::Owned(format!("{key} = \"{}\"", text::quote(value)))
                }
            });
            out.push('\n');
        }
        out
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_text().into_bytes()
    }
}

fn error(line: usize, problem: impl Into<String>) -> VmxError {
    VmxError { line, problem: problem.into() }
}

fn parse_line(raw: &str) -> Result<Line, String> {
    let text = raw.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(Line::Other(raw.to_owned()));
    }
    let (key, rest) = text.split_once('=').ok_or("it is no `key = \"value\"`")?;
    let key = key.trim_end();
    if !text::is_key(key) {
        return Err(format!("{:?} is no key", key.chars().take(64).collect::<String>()));
    }
    let value = text::unquote(rest.trim_start())?;
    Ok(Line::Setting { key: key.to_owned(), value, raw: Some(raw.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = "#!/usr/bin/vmware\n.encoding = \"UTF-8\"\ndisplayName = \"a |22b|22 |7C c\"\n\n  memsize=\"512\"\n";

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let mut vmx = Vmx::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(vmx.to_text(), SAMPLE);
        assert_eq!(vmx.get("DISPLAYNAME"), Some("a \"b\" | c"));
        vmx.set("MemSize", "1024");
        vmx.set("new", "x\ny");
        assert!(vmx.to_text().contains("memsize = \"1024\"\n"));
        assert!(vmx.to_text().ends_with("new = \"x|0Ay\"\n"));
        assert!(vmx.remove("displayname") && !vmx.remove("displayname"));
        assert!(!vmx.to_text().contains("displayName"));
    }

    #[test]
    fn carriage_returns_stay_on_lines_that_are_not_changed() {
        let text = "a = \"1\"\r\n\r\n# c\r\nb = \"2\"\r\n";
        let mut vmx = Vmx::parse(text.as_bytes()).unwrap();
        assert_eq!(vmx.to_text(), text);
        vmx.set("b", "3");
        assert_eq!(vmx.to_text(), "a = \"1\"\r\n\r\n# c\r\nb = \"3\"\n");
        assert_eq!(Vmx::parse(b"").unwrap().to_text(), "");
        assert_eq!(Vmx::parse(b"a = \"1\"").unwrap().to_text(), "a = \"1\"\n");
    }

    #[test]
    fn a_prefix_is_removed_whatever_its_case() {
        let mut vmx =
            Vmx::parse(b"ethernet0.present = \"TRUE\"\nEthernet0.x = \"1\"\na = \"b\"\n").unwrap();
        assert!(vmx.remove_prefix("ETHERNET0.") && !vmx.remove_prefix("ethernet0."));
        assert_eq!(vmx.entries().collect::<Vec<_>>(), [("a", "b")]);
    }

    #[test]
    fn bad_texts_are_refused_by_line() {
        let twice = "a = \"1\"\nA = \"2\"\n";
        let many: String = (0..=MAX_KEYS).map(|n| format!("k{n} = \"v\"\n")).collect();
        let long = "#".repeat(MAX_BYTES + 1);
        for bad in
            ["novalue", "= \"x\"", "a = \"x", "a = \"x\" y", "a b = \"x\"", twice, &many, &long]
        {
            assert!(Vmx::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        let error = Vmx::parse(twice.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(Vmx::parse(b"a = \"1\"\nA = \"1\"\n").unwrap().entries().count(), 1);
    }

    #[test]
    fn a_western_8_bit_file_becomes_utf8() {
        let vmx =
            Vmx::parse(b".encoding = \"windows-1252\"\r\nname = \"Z\xfcrich \x80\"\r\n").unwrap();
        assert_eq!(vmx.get("name"), Some("Zürich €"));
        assert_eq!(Vmx::parse(&vmx.to_bytes()).unwrap().get(".encoding"), Some("UTF-8"));
        assert!(Vmx::parse(b".encoding = \"Shift_JIS\"\nname = \"Z\xfc\"\n").is_err());
        assert!(Vmx::parse(b"name = \"Z\xfc\"\n").is_err());
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value in ".*", key in "[a-z][a-z0-9.:]{0,20}") {
            let mut vmx = Vmx::default();
            vmx.set(&key, value.clone());
            let back = Vmx::parse(&vmx.to_bytes()).unwrap();
            prop_assert_eq!(back.get(&key), Some(value.as_str()));
            prop_assert_eq!(back.to_text(), vmx.to_text());
        }

        /// Mutated texts: no panic, and what parses is a fixed point.
        #[test]
        fn any_text_parses_without_a_panic(cuts in prop::collection::vec((0usize..SAMPLE.len(), any::<u8>()), 1..6)) {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            for (at, byte) in cuts {
                bytes[at] = byte;
            }
            if let Ok(vmx) = Vmx::parse(&bytes) {
                let again = Vmx::parse(&vmx.to_bytes()).unwrap();
                prop_assert_eq!(again.entries().collect::<Vec<_>>(), vmx.entries().collect::<Vec<_>>());
                let _ = vmx.disks();
            }
        }
    }
}
