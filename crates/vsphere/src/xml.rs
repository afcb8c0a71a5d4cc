//! XML as vim25 has it: written with every text escaped, read into a bounded tree.
//!
//! Reading refuses what SOAP never has (document types, entities of its own) and bounds depth and
//! number of elements; the transport bounds the bytes.

use quick_xml::{
    Reader,
    events::{BytesRef, BytesStart, Event},
};

use crate::moref::MoRef;

/// How deep elements may be nested. vim25's deepest values are about 20 deep.
const MAX_DEPTH: usize = 64;

/// Elements in one reply. Times 150 bytes this bounds a parsed reply at 30 MiB.
const MAX_ELEMENTS: usize = 200_000;

/// Attributes that are looked at on one element.
const MAX_ATTRIBUTES: usize = 32;

/// One element of a reply.
#[derive(Debug, Default)]
pub(crate) struct Element {
    /// Its name without the prefix.
    pub(crate) name: String,
    /// `xsi:type`, without the prefix: the value's type.
    pub(crate) xsi_type: Option<String>,
    /// `type`: the kind of object that a reference is to.
    pub(crate) kind: Option<String>,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Walks down by names, each time to the first child of that name.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    pub(crate) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.as_str())
    }

    pub(crate) fn moref(&self) -> Option<MoRef> {
        let kind = self.kind.as_ref()?;
        (!self.text.is_empty()).then(|| MoRef::new(kind, &self.text))
    }
}

#[derive(thiserror::Error, Debug)]
pub(crate) enum XmlError {
    #[error("not well-formed XML: {0}")]
    Syntax(String),
    #[error("XML ends in the middle")]
    Truncated,
    #[error("XML is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("XML has more than {MAX_ELEMENTS} elements")]
    TooMany,
    #[error("XML has a {0}, which SOAP forbids")]
    Forbidden(&'static str),
}

/// Reads a document into its root element.
pub(crate) fn parse(document: &[u8]) -> Result<Element, XmlError> {
    let mut reader = Reader::from_reader(document);
    // `open` is the path from the root to where the reader is. It is never deeper than MAX_DEPTH.
    let mut open: Vec<Element> = Vec::new();
    let mut seen = 0;
    loop {
        let event = reader.read_event().map_err(|e| XmlError::Syntax(e.to_string()))?;
        let closed = match event {
            Event::Start(start) => {
                count(&mut seen)?;
                if open.len() == MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                open.push(element(&start)?);
                None
            }
            Event::Empty(start) => {
                count(&mut seen)?;
                Some(element(&start)?)
            }
            Event::End(_) => open.pop().map(trimmed),
            Event::Text(text) => {
                append(&mut open, &text.decode().map_err(|e| XmlError::Syntax(e.to_string()))?)?;
                None
            }
            Event::CData(data) => {
                append(&mut open, &data.decode().map_err(|e| XmlError::Syntax(e.to_string()))?)?;
                None
            }
            Event::GeneralRef(entity) => {
                append(&mut open, resolve(&entity)?.encode_utf8(&mut [0; 4]))?;
                None
            }
            Event::DocType(_) => return Err(XmlError::Forbidden("document type")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
            Event::Eof => return Err(XmlError::Truncated),
        };
        if let Some(element) = closed {
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                // What follows the root is not looked at.
                None => return Ok(element),
            }
        }
    }
}

fn count(seen: &mut usize) -> Result<(), XmlError> {
    *seen += 1;
    if *seen > MAX_ELEMENTS { Err(XmlError::TooMany) } else { Ok(()) }
}

fn element(start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut element = Element { name: name(start.local_name().as_ref()), ..Element::default() };
    // Without checks: the library's look for doubles is quadratic in their number.
    for attribute in start.attributes().with_checks(false).take(MAX_ATTRIBUTES) {
        let attribute = attribute.map_err(|e| XmlError::Syntax(e.to_string()))?;
        if attribute.key.local_name().as_ref() != b"type" {
            continue;
        }
        let value = String::from_utf8_lossy(&attribute.value).into_owned();
        // `type` and `xsi:type` on one element are different things.
        if attribute.key.prefix().is_some() {
            element.xsi_type = Some(value.rsplit(':').next().unwrap_or_default().to_owned());
        } else {
            element.kind = Some(value);
        }
    }
    Ok(element)
}

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The white space between elements is layout, not text.
fn trimmed(mut element: Element) -> Element {
    if !element.children.is_empty() {
        element.text.clear();
    }
    element
}

fn append(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim_start_matches('\u{feff}').trim().is_empty() => {}
        None => return Err(XmlError::Syntax("text outside of the root element".into())),
    }
    Ok(())
}

/// The five predefined entities and characters by number. There are no others without a document type.
fn resolve(entity: &BytesRef<'_>) -> Result<char, XmlError> {
    let bad = |_| XmlError::Forbidden("bad character reference");
    if let Some(c) = entity.resolve_char_ref().map_err(bad)? {
        return Ok(c);
    }
    match entity.as_ref() {
        b"amp" => Ok('&'),
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"quot" => Ok('"'),
        b"apos" => Ok('\''),
        _ => Err(XmlError::Forbidden("entity of its own")),
    }
}

/// Text of a request. Elements are written in the order of the schema, which vim25 insists on.
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(String::with_capacity(1024))
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    /// An element with elements in it. `attributes` is written as it is.
    pub(crate) fn nested(&mut self, name: &str, attributes: &str, fill: impl FnOnce(&mut Self)) {
        self.start(name, attributes);
        fill(self);
        self.end(name);
    }

    pub(crate) fn element(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(name, "", fill);
    }

    /// An element whose type is not the one that the schema has there.
    pub(crate) fn typed(&mut self, name: &str, xsi_type: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(name, &format!(" xsi:type=\"{}\"", escaped(xsi_type)), fill);
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.element(name, |w| w.0.push_str(&escaped(text)));
    }

    /// A text whose type is not the one that the schema has there.
    pub(crate) fn typed_text(&mut self, name: &str, xsi_type: &str, text: &str) {
        self.typed(name, xsi_type, |w| w.0.push_str(&escaped(text)));
    }

    pub(crate) fn flag(&mut self, name: &str, on: bool) {
        self.text(name, if on { "true" } else { "false" });
    }

    pub(crate) fn moref(&mut self, name: &str, moref: &MoRef) {
        let attributes = format!(" type=\"{}\"", escaped(&moref.kind));
        self.nested(name, &attributes, |w| w.0.push_str(&escaped(&moref.value)));
    }

    fn start(&mut self, name: &str, attributes: &str) {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push_str(attributes);
        self.0.push('>');
    }

    fn end(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }
}

/// Safe as text and in quotes. Characters that XML cannot hold become U+FFFD.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' => out.push(c),
            '\r' => out.push_str("&#13;"),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, MAX_ELEMENTS, Writer, XmlError, escaped, parse};
    use crate::moref::MoRef;

    #[test]
    fn reads_elements_types_and_entities() {
        let root = parse(
            br#"<?xml version="1.0"?><e:Envelope xmlns:e="x" xmlns:xsi="y"><b>
              <obj type="Datastore" xsi:type="ManagedObjectReference">10.0.0.1:/a&amp;b</obj>
              <c><![CDATA[<raw>]]>&#65;&#x42;</c><empty/></b></e:Envelope>"#,
        )
        .unwrap();
        assert_eq!(root.name, "Envelope");
        let obj = root.at(&["b", "obj"]).unwrap();
        assert_eq!(obj.moref(), Some(MoRef::new("Datastore", "10.0.0.1:/a&b")));
        assert_eq!(obj.xsi_type.as_deref(), Some("ManagedObjectReference"));
        assert_eq!(root.text_at(&["b", "c"]), Some("<raw>AB"));
        assert!(root.at(&["b", "empty"]).is_some());
        assert_eq!(root.child("b").unwrap().text, "");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let nasty = "a&b<c>\"d'\r\n]]>é";
        let mut w = Writer::new();
        w.element("r", |w| {
            w.text("t", nasty);
            w.moref("m", &MoRef::new("Datastore", "h:/a&b"));
        });
        let root = parse(w.finish().as_bytes()).unwrap();
        assert_eq!(root.text_at(&["t"]), Some(nasty));
        assert_eq!(root.child("m").unwrap().moref(), Some(MoRef::new("Datastore", "h:/a&b")));
        assert_eq!(escaped("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn document_types_and_entities_are_refused() {
        let bomb = br#"<!DOCTYPE a [<!ENTITY x "yyyyyyyy">]><a>&x;</a>"#;
        assert!(matches!(parse(bomb), Err(XmlError::Forbidden("document type"))));
        assert!(matches!(parse(b"<a>&x;</a>"), Err(XmlError::Forbidden(_))));
        assert!(matches!(parse(b"<a>&#xFFFFFFFF;</a>"), Err(XmlError::Forbidden(_))));
    }

    #[test]
    fn nesting_is_bounded() {
        let at_bound = format!("{}{}", "<a>".repeat(MAX_DEPTH), "</a>".repeat(MAX_DEPTH));
        assert!(parse(at_bound.as_bytes()).is_ok());
        assert!(matches!(parse("<a>".repeat(1_000_000).as_bytes()), Err(XmlError::TooDeep)));
    }

    #[test]
    fn the_number_of_elements_is_bounded() {
        let many = format!("<r>{}</r>", "<a/>".repeat(MAX_ELEMENTS));
        assert!(matches!(parse(many.as_bytes()), Err(XmlError::TooMany)));
    }

    #[test]
    fn many_attributes_take_no_time() {
        let attributes: String = (0..100_000).map(|n| format!(" a{n}=\"\"")).collect();
        assert!(parse(format!("<a{attributes}/>").as_bytes()).is_ok());
    }

    #[test]
    fn every_cut_of_a_document_is_an_error() {
        let whole = "<a x=\"1\"><b>text &amp; more</b><!-- c --><c/></a>".as_bytes();
        assert!(parse(whole).is_ok());
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        for rubbish in
            [&b"\xff\xfe\x00"[..], b"</a>", b"<a></b>", b"hello", b"<a>\xff\xff</a>", b"<>", b""]
        {
            assert!(parse(rubbish).is_err(), "{rubbish:?}");
        }
    }
}
