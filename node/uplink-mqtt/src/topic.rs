//! Topics on the way up and down.

use crate::options::{OptionsError, Subscription};
use eventmesh_edge_core::topic::{TopicError, TopicName};

/// A topic template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Text in front of each `{topic}`, and what follows the last one. One part alone: a fixed topic.
    parts: Vec<String>,
}

impl Template {
    pub(crate) fn parse(template: &str, node: &str) -> Result<Template, OptionsError> {
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), template);
        while let Some((literal, after)) = rest.split_once('{') {
            text.push_str(literal);
            let (name, after) =
                after.split_once('}').ok_or_else(|| OptionsError::Placeholder(after.to_owned()))?;
            match name {
                "node" => text.push_str(node),
                "topic" => parts.push(std::mem::take(&mut text)),
                other => return Err(OptionsError::Placeholder(other.to_owned())),
            }
            rest = after;
        }
        text.push_str(rest);
        parts.push(text);
        let template_ok = parts.len() > 1 || parts.iter().all(|p| !p.is_empty());
        if !template_ok || parts.iter().any(|p| p.contains(['+', '#', '\0'])) {
            return Err(OptionsError::Topic(template.to_owned()));
        }
        Ok(Template { parts })
    }

    /// Appends the topic to publish `topic` to.
    pub(crate) fn render(&self, topic: &str, out: &mut String) {
        for (i, part) in self.parts.iter().enumerate() {
            if i > 0 {
                out.push_str(topic);
            }
            out.push_str(part);
        }
    }
}

/// Why a message that came down has no place here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RewriteError {
    #[error("no configured subscription covers it")]
    NotSubscribed,
    #[error("after rewriting: {0}")]
    Topic(#[from] TopicError),
}

/// The local topic of a message that came down, by the first subscription that covers it.
pub(crate) fn rewrite(subscriptions: &[Subscription], topic: &str) -> Result<TopicName, RewriteError> {
    let subscription =
        subscriptions.iter().find(|s| s.filter.matches(topic)).ok_or(RewriteError::NotSubscribed)?;
    let stripped = topic.strip_prefix(subscription.strip_prefix.as_str()).unwrap_or(topic);
    Ok(TopicName::parse(format!("{}{stripped}", subscription.add_prefix))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventmesh_edge_core::topic::TopicFilter;

    #[test]
    fn templates() {
        let render = |template: &str| {
            let mut out = String::new();
            Template::parse(template, "plant-7").unwrap().render("a/b", &mut out);
            out
        };
        assert_eq!(render("{topic}"), "a/b");
        assert_eq!(render("edge/{node}/{topic}"), "edge/plant-7/a/b");
        assert_eq!(render("{topic}/{topic}/x"), "a/b/a/b/x");
        assert_eq!(render("all"), "all");
        for bad in ["", "x/+", "{topic}/#", "{what}", "{topic"] {
            assert!(Template::parse(bad, "n").is_err(), "{bad}");
        }
        assert!(Template::parse("{node}/{topic}", "a+b").is_err());
    }

    #[test]
    fn rewriting() {
        let subscription = |filter: &str, strip: &str, add: &str| Subscription {
            strip_prefix: strip.to_owned(),
            add_prefix: add.to_owned(),
            ..Subscription::new(TopicFilter::parse(filter.to_owned()).unwrap())
        };
        let all =
            [subscription("edge/plant-7/#", "edge/plant-7/", ""), subscription("cfg/+", "cfg/", "local/")];
        let go = |topic| rewrite(&all, topic).map(|t| t.as_text().to_string());
        assert_eq!(go("edge/plant-7/valve/1").as_deref(), Ok("valve/1"));
        assert_eq!(go("cfg/x").as_deref(), Ok("local/x"));
        assert_eq!(
            go("edge/plant-7"),
            Ok("edge/plant-7".to_owned()),
            "the parent level has no prefix to strip"
        );
        assert_eq!(go("edge/plant-7/"), Err(RewriteError::Topic(TopicError::Empty)));
        assert_eq!(go("other"), Err(RewriteError::NotSubscribed));
    }
}
