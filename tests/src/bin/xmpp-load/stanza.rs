//! What comes on an XMPP stream, cut into the elements right below its root, and the few things that are looked up in
//! them. It takes a server at its word: well-formed, and without comments and processing instructions (RFC 6120, 11.1).

use bytes::{Bytes, BytesMut};

/// Cuts a stream into elements.
#[derive(Debug, Default)]
pub struct Scanner {
    /// What has come, from the beginning of the element that is not complete yet.
    pub buffer: BytesMut,
    /// How much of it is in `depth`.
    counted: usize,
    /// Tags that are open there; the first is the stream's.
    depth: usize,
}

/// An element with all that is in it.
#[derive(Debug)]
pub struct Element(Bytes);

#[derive(Clone, Copy)]
enum Tag {
    Open,
    Close,
    /// Both in one.
    Empty,
    /// `<?xml …?>`
    Declaration,
}

impl Scanner {
    /// The next element that is complete.
    pub fn next(&mut self) -> Option<Element> {
        loop {
            let tag = self.next_tag()?;
            match (tag, self.depth) {
                (Tag::Declaration, _) | (Tag::Empty, 0) => {
                    self.cut();
                }
                // The stream itself.
                (Tag::Open, 0) => {
                    self.depth = 1;
                    self.cut();
                }
                (Tag::Close, 0 | 1) => {
                    self.depth = 0;
                    self.cut();
                }
                (Tag::Empty, 1) | (Tag::Close, 2) => {
                    self.depth = 1;
                    return Some(Element(self.cut()));
                }
                (Tag::Open, _) => self.depth += 1,
                (Tag::Close, _) => self.depth -= 1,
                (Tag::Empty, _) => {}
            }
        }
    }

    /// Goes behind the next tag, if it is complete.
    fn next_tag(&mut self) -> Option<Tag> {
        let rest = &self.buffer[self.counted..];
        let start = rest.iter().position(|byte| *byte == b'<')?;
        let tag = &rest[start..=start + tag_end(&rest[start..])?];
        self.counted += start + tag.len();
        Some(match tag {
            [b'<', b'/', ..] => Tag::Close,
            [b'<', b'?', ..] => Tag::Declaration,
            [.., b'/', b'>'] => Tag::Empty,
            _ => Tag::Open,
        })
    }

    /// Takes what is counted.
    fn cut(&mut self) -> Bytes {
        let counted = std::mem::take(&mut self.counted);
        self.buffer.split_to(counted).freeze()
    }
}

impl Element {
    /// The name with its prefix.
    pub fn name(&self) -> &str {
        let tag = self.tag();
        let end = tag.find([' ', '/', '>']).unwrap_or(tag.len());
        tag.get(1..end).unwrap_or_default()
    }

    /// An attribute of the element itself, as it is written.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.tag()
            .split_once(&format!(" {name}="))?
            .1
            .get(1..)?
            .split(['\'', '"'])
            .next()
    }

    /// The text of the first element of that name in it, as it is written.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, from_name) = self.as_str().split_once(&format!("<{name}"))?;
        let (attributes, text) = from_name.split_once('>')?;
        let is_that_name = attributes.is_empty() || attributes.starts_with(' ');
        is_that_name.then(|| text.split('<').next().unwrap_or_default())
    }

    /// All of it; empty if it is no UTF-8.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default().trim_start()
    }

    fn tag(&self) -> &str {
        let text = self.as_str();
        let end = tag_end(text.as_bytes()).unwrap_or(0);
        text.get(..=end).unwrap_or_default()
    }
}

/// Where the `>` of the tag is that `text` begins with: one in quotes is a part of a value.
fn tag_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    text.iter().position(|byte| {
        match (quote, byte) {
            (None, b'>') => return true,
            (None, b'\'' | b'"') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream id='1' xmlns='jabber:client'>\
        <stream:features><bind xmlns='b'/><sm/></stream:features> \
        <presence to='a' from=\"b>c\"/>\n<message from='u1@localhost/r' id='m'><stanza-id id='no'/>\
        <bodyguard/><x><body>a &lt; b</body></x></message></stream:stream>";

    #[test]
    fn elements_are_the_same_however_they_come() {
        for size in 1..STREAM.len() {
            let mut scanner = Scanner::default();
            let mut elements = Vec::new();
            for part in STREAM.as_bytes().chunks(size) {
                scanner.buffer.extend_from_slice(part);
                elements.extend(std::iter::from_fn(|| scanner.next()));
            }
            let names: Vec<&str> = elements.iter().map(Element::name).collect();
            assert_eq!(names, ["stream:features", "presence", "message"], "{size}");
            assert!(scanner.buffer.is_empty());
        }
    }

    #[test]
    fn an_element_tells_its_parts() {
        let element = |text: &'static str| Element(Bytes::from_static(text.as_bytes()));
        let message = element(
            "<message from='u1/r' type=\"a\"><stanza-id id='no'/><body>hi</body></message>",
        );
        assert_eq!(message.attribute("from"), Some("u1/r"));
        assert_eq!(message.attribute("type"), Some("a"));
        assert_eq!(message.attribute("id"), None);
        assert_eq!(message.text("body"), Some("hi"));
        assert_eq!(message.text("count"), None);
        assert_eq!(element("<success/>").name(), "success");
        assert_eq!(
            element("<a><count index='0'>12</count></a>").text("count"),
            Some("12")
        );
    }
}
