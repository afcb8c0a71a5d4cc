use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::OvfError;

const MAX_DEPTH: usize = 32;
const MAX_ELEMENTS: usize = 20_000;
/// Each is compared with those before it.
const MAX_ATTRIBUTES: usize = 64;

/// An element with what is in it; names are without their namespace's prefix.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) text: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// Reads a document; the result's only child is its root. No document type, and so no entities of its own.
    pub(super) fn parse(text: &str) -> Result<Self, OvfError> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        for _ in 0..4 * MAX_ELEMENTS {
            let bad = |problem: String| OvfError::new(format!("its XML is damaged: {problem}"));
            let event = reader.read_event().map_err(|error| bad(error.to_string()))?;
            match event {
                Event::Start(start) => open.push(Self::begin(&start)?),
                Event::Empty(start) => close(&mut open, Self::begin(&start)?),
                Event::End(_) => {
                    let done = open.pop().unwrap_or_default();
                    close(&mut open, done);
                }
                Event::Text(text) => {
                    append(&mut open, &text.decode().map_err(|error| bad(error.to_string()))?);
                }
                Event::CData(data) => {
                    append(&mut open, &data.decode().map_err(|error| bad(error.to_string()))?);
                }
                Event::GeneralRef(entity) => {
                    append(&mut open, resolve(&entity)?.encode_utf8(&mut [0; 4]));
                }
                Event::DocType(_) => return Err(OvfError::new("it has a document type")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof if open.len() == 1 => return Ok(open.remove(0)),
                Event::Eof => return Err(bad("it ends too early".into())),
            }
            if open.is_empty() || open.len() > MAX_DEPTH {
                return Err(bad(format!("more than {MAX_DEPTH} elements in one another")));
            }
        }
        Err(OvfError::new(format!("it has more than {MAX_ELEMENTS} elements")))
    }

    fn begin(start: &BytesStart<'_>) -> Result<Self, OvfError> {
        let bad = |problem: String| OvfError::new(format!("an attribute: {problem}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut element = Self { name: text(start.local_name().as_ref()), ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| bad(error.to_string()))?;
            if element.attributes.len() == MAX_ATTRIBUTES {
                return Err(bad("one too many".into()));
            }
            let raw = std::str::from_utf8(&attribute.value).map_err(|e| bad(e.to_string()))?;
            let value = quick_xml::escape::unescape(raw).map_err(|error| bad(error.to_string()))?;
            element
                .attributes
                .push((text(attribute.key.local_name().as_ref()), value.into_owned()));
        }
        Ok(element)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.all(name).next()
    }

    /// The children called `name`.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the child `name`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }
}

fn close(open: &mut [Element], done: Element) {
    if let Some(parent) = open.last_mut() {
        parent.children.push(done);
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// A character by number, or one of the five names that XML has.
fn resolve(entity: &BytesRef<'_>) -> Result<char, OvfError> {
    let bad = || OvfError::new("it has an unknown entity");
    if let Some(c) = entity.resolve_char_ref().map_err(|_| bad())? {
        return Ok(c);
    }
    match entity.decode().map_err(|_| bad())?.as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(bad()),
    }
}
