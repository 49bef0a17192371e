//! EventMesh topics on the way up, topics for devices on the way down.

use crate::options::{Down, OptionsError};
use eventmesh_edge_core::topic::{TopicError, TopicName};

/// RocketMQ's limit, the lowest of the storages behind EventMesh (Kafka: 249).
const TOPIC_MAX_BYTES: usize = 127;

/// A topic template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Kind,
}

/// Why an event has no EventMesh topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its EventMesh topic would have {0} characters, storages take {TOPIC_MAX_BYTES}")]
pub(crate) struct TooLong(usize);

impl Template {
    pub(crate) fn parse(template: &str, node: &str) -> Result<Template, OptionsError> {
        let bad = || OptionsError::Topic(template.to_owned());
        let (mut parts, mut rest) = (Vec::new(), template);
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(bad)?;
            parts.push(Part::Text(literal.to_owned()));
            parts.push(match name {
                "topic" => Part::Topic,
                "type" => Part::Kind,
                "node" => {
                    let mut text = String::new();
                    push_name(&mut text, node);
                    Part::Text(text)
                }
                _ => return Err(bad()),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        let literal_ok = parts.iter().all(|part| match part {
            Part::Text(text) => text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._%|-".contains(&b)),
            _ => true,
        });
        if parts.is_empty() || !literal_ok { Err(bad()) } else { Ok(Template { parts }) }
    }

    /// The EventMesh topic of an event; what its storages do not take in a name becomes `-`. The topic itself goes along as an attribute.
    pub(crate) fn render(&self, topic: &str, kind: &str, out: &mut String) -> Result<(), TooLong> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Topic => push_name(out, topic),
                Part::Kind => push_name(out, kind),
            }
        }
        if out.len() > TOPIC_MAX_BYTES { Err(TooLong(out.len())) } else { Ok(()) }
    }
}

fn push_name(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }));
}

/// The topic for devices of an event that came down.
pub(crate) fn local(down: &Down, topic: &str) -> Result<TopicName, TopicError> {
    let stripped = topic.strip_prefix(down.strip_prefix.as_str()).unwrap_or(topic);
    TopicName::parse(format!("{}{stripped}", down.add_prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn render(template: &str) -> Result<String, TooLong> {
        let mut out = String::new();
        Template::parse(template, "plant 7").unwrap().render("a/b.c/é", "com.example.t", &mut out)?;
        Ok(out)
    }

    #[test]
    fn templates() {
        assert_eq!(render("fixed.topic").unwrap(), "fixed.topic");
        assert_eq!(render("edge-{node}-{topic}_{type}").unwrap(), "edge-plant-7-a-b-c--_com-example-t");
        for bad in ["", "a/b", "{what}", "{topic", "é"] {
            assert!(Template::parse(bad, "n").is_err(), "{bad}");
        }
        assert_eq!(render(&"x".repeat(128)), Err(TooLong(128)));
    }

    #[test]
    fn topics_for_devices() {
        let mut down = Options::new("n", "u", Vec::new()).down;
        assert_eq!(local(&down, "valve/1").unwrap().as_text(), "valve/1");
        down.strip_prefix = "edge-".to_owned();
        down.add_prefix = "cloud/".to_owned();
        assert_eq!(local(&down, "edge-valve").unwrap().as_text(), "cloud/valve");
        assert!(local(&down, "a/#").is_err());
    }
}
