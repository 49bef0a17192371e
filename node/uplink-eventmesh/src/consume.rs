//! Subscription and heartbeat messages.

use crate::options::Options;
use crate::up::Mapper;
use crate::wire::Message;
use bytes::{Bytes, BytesMut};
use serde_json::json;

/// A topic that nobody subscribes, for the heartbeat of an uplink without subscriptions: the runtime answers that it does not know us
/// (code 30), and that it answers is what we ask for.
const NO_TOPIC: &str = "-";

/// The first message of the stream: all topics at once, because adding one later kills the others on standalone storage.
pub(crate) fn subscription(options: &Options, mapper: &Mapper) -> Bytes {
    let item = |topic: &String| json!({ "topic": topic, "mode": options.down.mode.word(), "type": "ASYNC" });
    let items: Vec<_> = options.down.topics.iter().map(item).collect();
    message(options, mapper, "subscribe", None, &json!(items).to_string())
}

/// The heartbeat that keeps the subscription, and asks whether anybody is there.
pub(crate) fn heartbeat(options: &Options, mapper: &Mapper) -> Bytes {
    let nothing = [NO_TOPIC.to_owned()];
    let topics = if options.down.topics.is_empty() { &nothing[..] } else { &options.down.topics };
    let items: Vec<_> = topics.iter().map(|topic| json!({ "topic": topic, "url": "grpc_stream" })).collect();
    // SUB. Text "2" and PUB are refused with code 7.
    message(options, mapper, "heartbeat", Some(2), &json!(items).to_string())
}

fn message(options: &Options, mapper: &Mapper, kind: &str, client_type: Option<u8>, data: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(1_024);
    let mut message = Message::begin(&mut out);
    message.id(&format!("{}-{}-{kind}", options.node, options.name));
    message.source(&mapper.source);
    message.spec_version("1.0");
    message.kind(kind);
    message.prepared(&mapper.preambles.consume);
    if let Some(client_type) = client_type {
        message.integer("clienttype", client_type);
    }
    message.text_data(data);
    message.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CloudEvent;
    use crate::proto::cloud_event::cloud_event_attribute_value::Attr;
    use crate::proto::cloud_event::{CloudEventAttributeValue, Data};
    use crate::wire::PREFIX_BYTES;
    use prost::Message as _;

    fn read(frame: &Bytes) -> (CloudEvent, String) {
        let event = CloudEvent::decode(frame.slice(PREFIX_BYTES..)).unwrap();
        let Some(Data::TextData(text)) = event.data.clone() else { panic!() };
        (event, text)
    }

    #[test]
    fn as_the_runtime_wants_them() {
        let mut options = Options::new("plant-7", "cloud", Vec::new());
        let mapper = Mapper::new(&options).unwrap();
        assert_eq!(read(&heartbeat(&options, &mapper)).1, r#"[{"topic":"-","url":"grpc_stream"}]"#);
        options.down.topics = vec!["a".to_owned(), "b".to_owned()];
        let (event, text) = read(&heartbeat(&options, &mapper));
        assert_eq!(text, r#"[{"topic":"a","url":"grpc_stream"},{"topic":"b","url":"grpc_stream"}]"#);
        assert_eq!(
            event.attributes["clienttype"],
            CloudEventAttributeValue { attr: Some(Attr::CeInteger(2)) }
        );
        assert_eq!(event.text("consumergroup"), Some("edge-plant-7"));
        let (event, text) = read(&subscription(&options, &mapper));
        assert_eq!(event.text("datacontenttype"), Some("application/json"));
        let expected = r#"[{"mode":"CLUSTERING","topic":"a","type":"ASYNC"},{"mode":"CLUSTERING","topic":"b","type":"ASYNC"}]"#;
        assert_eq!(text, expected);
        for name in ["env", "idc", "ip", "pid", "sys", "username", "passwd", "language", "protocoltype"] {
            assert!(event.text(name).is_some_and(|v| !v.is_empty()), "{name}");
        }
    }
}
