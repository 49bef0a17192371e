//! POST, PUT, DELETE.

use crate::site::{Site, peer, request, with_payload};
use eventmesh_edge_coap::option::Block;
use eventmesh_edge_coap::{Code, Kind, Message, option};
use eventmesh_edge_core::event::{Timestamp, Via};
use eventmesh_edge_core::ports::store::{Store as _, Table};
use eventmesh_edge_ingress_coap::{Params, records};
use std::time::Duration;

/// P1
#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_it_is_durable() {
    let mut site = Site::manual(Params::default());
    site.receive(peer(1), &with_payload(request(Code::POST, 1, "ps/plant/temp"), "21.5").encode());
    site.settle().await;
    assert!(site.sent_to(peer(1)).is_empty());
    site.pass(Duration::from_secs(1)).await;
    // The message has arrived, which promises nothing.
    assert_eq!(site.sent_to(peer(1)), [Message::empty(Kind::Ack, 1)]);
    assert!(site.stored().is_empty());
    assert_eq!(site.store.complete_next(1), 1);
    site.settle().await;
    let response = site.sent_to(peer(1)).remove(0);
    assert_eq!((response.kind, response.code), (Kind::Con, Code::CHANGED));
    assert_eq!(site.stored().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_an_event_and_a_put_is_a_value_too() {
    let mut site = Site::new();
    let mut post = with_payload(request(Code::POST, 1, "ps/plant/temp"), "21.5");
    post.options.add(option::URI_QUERY, "ep=sensor-7");
    post.options.add_uint(option::CONTENT_FORMAT, 0);
    assert_eq!(site.ask(&post).await.code, Code::CHANGED);
    assert_eq!(site.ask(&request(Code::GET, 2, "ps/plant/temp")).await.code, Code::NOT_FOUND);
    assert_eq!(
        site.ask(&with_payload(request(Code::PUT, 3, "ps/plant/temp"), "22")).await.code,
        Code::CREATED
    );
    assert_eq!(
        site.ask(&with_payload(request(Code::PUT, 4, "ps/plant/temp"), "23")).await.code,
        Code::CHANGED
    );
    assert_eq!(site.ask(&request(Code::GET, 5, "ps/plant/temp")).await.payload, "23");
    let stored = site.stored();
    assert_eq!(stored.len(), 3);
    let event = &stored[0].event;
    assert_eq!((event.via, event.retain), (Via::Coap, false));
    assert_eq!((&*event.source, &*event.topic), ("coap://edge/sensor-7", "plant/temp"));
    assert_eq!(&*stored[1].event.source, "coap://edge/192.0.2.1", "without a name, the address");
    assert!(stored[2].event.retain);
}

#[tokio::test(start_paused = true)]
async fn delete_clears_the_value_for_everybody() {
    let mut site = Site::new();
    site.publish("plant/temp", "20", true).await;
    assert_eq!(site.ask(&request(Code::GET, 1, "ps/plant/temp")).await.payload, "20", "from MQTT");
    assert_eq!(site.ask(&request(Code::DELETE, 2, "ps/plant/temp")).await.code, Code::DELETED);
    assert_eq!(site.ask(&request(Code::GET, 3, "ps/plant/temp")).await.code, Code::NOT_FOUND);
    assert_eq!(
        site.ask(&with_payload(request(Code::PUT, 4, "ps/plant/temp"), "")).await.code,
        Code::BAD_REQUEST
    );
}

#[tokio::test(start_paused = true)]
async fn preconditions_compare_with_the_value() {
    let mut site = Site::new();
    let put = |id, value, option: Option<(option::Number, Vec<u8>)>| {
        let mut put = with_payload(request(Code::PUT, id, "ps/t"), value);
        if let Some((number, value)) = option {
            put.options.add(number, value);
        }
        put
    };
    let none_match = || Some((option::IF_NONE_MATCH, Vec::new()));
    assert_eq!(
        site.ask(&put(1, "a", Some((option::IF_MATCH, Vec::new())))).await.code,
        Code::PRECONDITION_FAILED
    );
    assert_eq!(site.ask(&put(2, "a", none_match())).await.code, Code::CREATED);
    assert_eq!(site.ask(&put(3, "b", none_match())).await.code, Code::PRECONDITION_FAILED);
    let etag = site.ask(&request(Code::GET, 4, "ps/t")).await.options.first(option::ETAG).unwrap().to_vec();
    assert_eq!(site.ask(&put(5, "b", Some((option::IF_MATCH, etag.clone())))).await.code, Code::CHANGED);
    assert_eq!(site.ask(&put(6, "c", Some((option::IF_MATCH, etag)))).await.code, Code::PRECONDITION_FAILED);
    assert_eq!(site.ask(&request(Code::GET, 7, "ps/t")).await.payload, "b");
    assert_eq!(site.stored().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn two_conditional_writes_at_once_do_not_both_win() {
    let mut site = Site::manual(Params::default());
    for id in [1, 2] {
        let mut put = with_payload(request(Code::PUT, id, "ps/t"), "x");
        put.options.add(option::IF_NONE_MATCH, *b"");
        site.receive(peer(id), &put.encode());
    }
    site.settle().await;
    assert_eq!(site.sent_to(peer(2)).remove(0).code, Code::CONFLICT);
    site.store.complete_next(2);
    site.settle().await;
    assert_eq!(site.sent_to(peer(1)).remove(0).code, Code::CREATED);
}

/// RFC 8132 section 3.
#[tokio::test(start_paused = true)]
async fn a_patch_changes_a_json_value() {
    let mut site = Site::new();
    let with = |code, id, format: u32, payload| {
        let mut message = with_payload(request(code, id, "ps/t"), payload);
        message.options.add_uint(option::CONTENT_FORMAT, format);
        message
    };
    assert_eq!(site.ask(&with(Code::PATCH, 1, 52, "{}")).await.code, Code::NOT_FOUND);
    site.ask(&with(Code::PUT, 2, 50, r#"{"a":1,"b":2}"#)).await;
    assert_eq!(site.ask(&with(Code::PATCH, 3, 52, r#"{"b":null,"c":3}"#)).await.code, Code::CHANGED);
    let value = site.ask(&request(Code::GET, 4, "ps/t")).await;
    assert_eq!(value.payload, r#"{"a":1,"c":3}"#);
    assert_eq!(value.options.uint(option::CONTENT_FORMAT), Some(50));
    assert_eq!(site.ask(&with(Code::IPATCH, 5, 52, r#"{"c":4}"#)).await.code, Code::CHANGED);
    assert_eq!(site.ask(&with(Code::PATCH, 6, 51, "[]")).await.code, Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(site.ask(&with(Code::PATCH, 7, 52, "{")).await.code, Code::BAD_REQUEST);
    let mut stale = with(Code::PATCH, 8, 52, "{}");
    stale.options.add(option::IF_MATCH, *b"12345678");
    assert_eq!(site.ask(&stale).await.code, Code::PRECONDITION_FAILED);
    assert_eq!(site.stored().len(), 3);
    site.ask(&with(Code::PUT, 9, 0, "21.5 C")).await;
    assert_eq!(site.ask(&with(Code::PATCH, 10, 52, "{}")).await.code, Code::UNPROCESSABLE_ENTITY);
}

/// Of two patches at once neither is lost: the second one is told to try again.
#[tokio::test(start_paused = true)]
async fn two_patches_at_once_are_not_made_of_one_value() {
    let mut site = Site::manual(Params::default());
    let with = |code, id, format: u32, payload| {
        let mut message = with_payload(request(code, id, "ps/t"), payload);
        message.options.add_uint(option::CONTENT_FORMAT, format);
        message
    };
    site.receive(peer(1), &with(Code::PUT, 1, 50, "{}").encode());
    site.settle().await;
    site.store.complete_next(1);
    site.settle().await;
    site.sent_to(peer(1));
    for id in [2, 3] {
        site.receive(peer(id), &with(Code::PATCH, id, 52, r#"{"a":1}"#).encode());
    }
    site.settle().await;
    assert_eq!(site.sent_to(peer(3)).remove(0).code, Code::CONFLICT);
}

#[tokio::test(start_paused = true)]
async fn the_query_may_name_id_time_and_expiry() {
    let mut site = Site::new();
    let mut post = with_payload(request(Code::POST, 1, "ps/t"), "x");
    for argument in ["id=m-17", "time=2026-09-21T14:00:00Z", "expiry=60"] {
        post.options.add(option::URI_QUERY, argument);
    }
    assert_eq!(site.ask(&post).await.code, Code::CHANGED);
    let stored = site.stored();
    let event = &stored[0].event;
    assert_eq!(event.id.as_deref(), Some("m-17"));
    assert_eq!(event.time, Some(Timestamp(1_789_999_200_000)));
    assert_eq!(event.expires, Some(event.received.after(Duration::from_secs(60))));
    let mut bad = with_payload(request(Code::POST, 2, "ps/t"), "x");
    bad.options.add(option::URI_QUERY, "expiry=soon");
    assert_eq!(site.ask(&bad).await.code, Code::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_says_when_to_come_again() {
    let mut site = Site::small(600);
    let mut codes = Vec::new();
    for id in 0..10 {
        let answer = site.ask(&with_payload(request(Code::POST, id, "ps/t"), "0123456789")).await;
        if answer.code == Code::SERVICE_UNAVAILABLE {
            assert_eq!(answer.options.uint(option::MAX_AGE), Some(30));
        }
        codes.push(answer.code);
    }
    let stored = codes.iter().filter(|code| **code == Code::CHANGED).count();
    assert!(stored > 0 && stored < 10, "{codes:?}");
    assert_eq!(site.stored().len(), stored);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_topic_or_no_method_of_one_is_told_so() {
    let mut site = Site::new();
    for (id, code, path, expected) in [
        (1, Code::GET, "elsewhere", Code::NOT_FOUND),
        (2, Code::POST, "ps/a+", Code::BAD_REQUEST),
        (3, Code::FETCH, "ps/a", Code::METHOD_NOT_ALLOWED),
        (4, Code(31), "ps/a", Code::METHOD_NOT_ALLOWED),
        (5, Code::POST, ".well-known/core", Code::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(site.ask(&request(code, id, path)).await.code, expected, "{path}");
    }
    assert!(site.stored().is_empty());
}

/// P1, RFC 7252 section 4.5: what was stored before the node died is answered, and not stored again.
#[tokio::test(start_paused = true)]
async fn a_copy_after_a_restart_is_answered_and_not_stored_again() {
    let mut site = Site::new();
    let post = with_payload(request(Code::POST, 1, "ps/plant/temp"), "21.5");
    let put = with_payload(request(Code::PUT, 2, "ps/plant/temp"), "22");
    for (message, code) in [(&post, Code::CHANGED), (&put, Code::CREATED)] {
        assert_eq!(site.ask(message).await.code, code);
    }
    for _ in 0..2 {
        site.pass(Duration::from_secs(100)).await;
        site = site.restart_at_the_same_time().await;
        for (message, code) in [(&post, Code::CHANGED), (&put, Code::CREATED)] {
            let answer = site.ask(message).await;
            assert_eq!((answer.kind, answer.code, answer.token), (Kind::Ack, code, message.token));
        }
        assert_eq!(site.stored().len(), 2);
    }
    // Other bytes under the same id, and a copy that comes after EXCHANGE_LIFETIME.
    site.ask(&with_payload(request(Code::POST, 1, "ps/plant/temp"), "21.6")).await;
    assert_eq!(site.stored().len(), 3);
    site.pass(Duration::from_secs(48)).await;
    let mut site = site.restart_at_the_same_time().await;
    site.ask(&post).await;
    assert_eq!(site.stored().len(), 4);
}

/// RFC 9175 section 3: a body under a Request-Tag, sent again with other message ids because its transfer was cut short.
#[tokio::test(start_paused = true)]
async fn a_tagged_body_after_a_restart_is_not_stored_again() {
    let mut site = Site::new();
    let block = |id: u16, num: u32, more| {
        let mut put = with_payload(request(Code::PUT, id, "ps/image"), "0123456789abcdef");
        put.options.add(option::BLOCK1, Block { num, more, szx: 0 }.encode());
        put.options.add(option::REQUEST_TAG, *b"t1");
        put
    };
    assert_eq!(site.ask(&block(1, 0, true)).await.code, Code::CONTINUE);
    assert_eq!(site.ask(&block(2, 1, false)).await.code, Code::CREATED);
    let mut site = site.restart_at_the_same_time().await;
    assert_eq!(site.ask(&block(3, 0, true)).await.code, Code::CONTINUE);
    assert_eq!(site.ask(&block(4, 1, false)).await.code, Code::CREATED);
    assert_eq!(site.stored().len(), 1);
}

/// P5: what is kept for copies has so many rows and no more.
#[tokio::test(start_paused = true)]
async fn what_is_kept_for_copies_is_bounded() {
    let mut site = Site::new();
    for id in 0..u32::from(records::SLOTS) + 100 {
        site.receive(peer((id / 20) as u16 + 1), &request(Code::POST, id as u16, "ps/t").encode());
        if id % 200 == 0 {
            site.settle().await;
        }
    }
    site.settle().await;
    let rows = site.store.scan(Table::Node, b"coap/r/", None, 20_000).unwrap();
    assert_eq!(rows.len(), usize::from(records::SLOTS));
}
