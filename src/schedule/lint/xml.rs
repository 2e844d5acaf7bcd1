//! As much XML as a task definition needs: elements, attributes, text, comments and entities.
//!
//! No document types, no CDATA, no processing instructions beyond the declaration: a file that has them is
//! refused, which for a linter is an answer.

use anyhow::{Context, Result, bail, ensure};

/// One element with what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    /// The text directly in it, entities replaced, blanks around it removed.
    pub text: String,
}

impl Element {
    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The element at the end of a path of names, such as `Actions/Exec/Command`.
    pub fn find(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }
}

/// The declaration's `encoding` and the root element.
pub fn parse(text: &str) -> Result<(String, Element)> {
    let rest = text.trim_start().strip_prefix("<?xml").context("the file does not begin with <?xml")?;
    let (declaration, rest) = rest.split_once("?>").context("the declaration does not end")?;
    let encoding = attributes(declaration)?.into_iter().find(|(name, _)| name == "encoding");
    let mut parser = Parser { rest };
    parser.skip_comments()?;
    let root = parser.element(0)?;
    parser.skip_comments()?;
    ensure!(parser.rest.is_empty(), "something follows the root element");
    Ok((encoding.map(|(_, value)| value).unwrap_or_default(), root))
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_comments(&mut self) -> Result<()> {
        loop {
            self.rest = self.rest.trim_start();
            let Some(after) = self.rest.strip_prefix("<!--") else { return Ok(()) };
            self.rest = after.split_once("-->").context("a comment does not end")?.1;
        }
    }

    fn element(&mut self, depth: usize) -> Result<Element> {
        ensure!(depth < 64, "elements are nested too deep");
        let after = self.rest.strip_prefix('<').context("an element is missing")?;
        let (tag, rest) = after.split_once('>').context("a tag does not end")?;
        self.rest = rest;
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, rest_of_tag) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        let is_name_char = |c: char| c.is_alphanumeric() || "_-.:".contains(c);
        ensure!(!name.is_empty() && name.chars().all(is_name_char), "`<{name}` is not an element");
        let mut element =
            Element { name: name.to_owned(), attributes: attributes(rest_of_tag)?, ..Element::default() };
        if !is_empty {
            self.content(&mut element, depth).with_context(|| format!("in <{name}>"))?;
        }
        Ok(element)
    }

    fn content(&mut self, element: &mut Element, depth: usize) -> Result<()> {
        let mut text = String::new();
        loop {
            let at = self.rest.find('<').context("the element does not end")?;
            text.push_str(&unescaped(&self.rest[..at])?);
            self.rest = &self.rest[at..];
            if let Some(after) = self.rest.strip_prefix("</") {
                let (name, rest) = after.split_once('>').context("a tag does not end")?;
                ensure!(name.trim() == element.name, "</{name}> ends <{}>", element.name);
                self.rest = rest;
                element.text = text.trim().to_owned();
                return Ok(());
            }
            if self.rest.starts_with("<!--") {
                self.skip_comments()?;
            } else {
                element.children.push(self.element(depth + 1)?);
            }
        }
    }
}

fn attributes(mut text: &str) -> Result<Vec<(String, String)>> {
    let mut attributes: Vec<(String, String)> = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Ok(attributes);
        }
        let (name, rest) = text.split_once('=').context("an attribute has no value")?;
        let name = name.trim().to_owned();
        let rest = rest.trim_start();
        let quote =
            rest.chars().next().filter(|c| *c == '"' || *c == '\'').context("an attribute has no quotes")?;
        let (value, rest) = rest[1..].split_once(quote).context("an attribute does not end")?;
        ensure!(!attributes.iter().any(|(other, _)| *other == name), "the attribute {name} comes twice");
        attributes.push((name, unescaped(value)?));
        text = rest;
    }
}

fn unescaped(text: &str) -> Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        result.push_str(&rest[..at]);
        let (entity, after) = rest[at + 1..].split_once(';').context("a bare & (write &amp;)")?;
        result.push(entity_char(entity)?);
        rest = after;
    }
    result.push_str(rest);
    let is_forbidden = |c: char| c.is_control() && !['\n', '\r', '\t'].contains(&c);
    ensure!(!result.chars().any(is_forbidden), "a control character");
    Ok(result)
}

fn entity_char(entity: &str) -> Result<char> {
    let code = match entity {
        "amp" => return Ok('&'),
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "quot" => return Ok('"'),
        "apos" => return Ok('\''),
        _ => match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
            (Some(hex), _) => u32::from_str_radix(hex, 16).ok(),
            (None, Some(decimal)) => decimal.parse().ok(),
            (None, None) => None,
        },
    };
    match code.and_then(char::from_u32) {
        Some(c) => Ok(c),
        None => bail!("`&{entity};` is no entity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_entities_are_read() {
        let text = "<?xml version=\"1.0\" encoding='UTF-16'?>\n<!-- hi -->\n<a x=\"1 &lt; 2\"><b>R&amp;D &#65;&#x42;</b><!-- c --><c/></a>\n";
        let (encoding, root) = parse(text).unwrap();
        assert_eq!(encoding, "UTF-16");
        assert_eq!(root.attribute("x"), Some("1 < 2"));
        assert_eq!(root.find("b").unwrap().text, "R&D AB");
        assert_eq!(root.children.len(), 2);
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let head = "<?xml version=\"1.0\"?>";
        let bodies = [
            "<a>",
            "<a></b>",
            "<a>R&D</a>",
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a/><b/>",
            "<a>&nope;</a>",
            "<a",
            "",
        ];
        for body in bodies {
            assert!(parse(&format!("{head}{body}")).is_err(), "{body}");
        }
        assert!(parse("<a/>").is_err(), "no declaration");
    }
}
