//! GET.

use crate::site::{Site, request, with_payload};
use eventmesh_edge_coap::option::Block;
use eventmesh_edge_coap::{Code, Message, option};

#[tokio::test(start_paused = true)]
async fn a_value_has_etag_and_content_format_and_is_not_sent_twice() {
    let mut site = Site::new();
    let mut put = with_payload(request(Code::PUT, 1, "ps/t"), "{}");
    put.options.add_uint(option::CONTENT_FORMAT, 50);
    site.ask(&put).await;
    let answer = site.ask(&request(Code::GET, 2, "ps/t")).await;
    assert_eq!((answer.code, answer.options.uint(option::CONTENT_FORMAT)), (Code::CONTENT, Some(50)));
    let etag = answer.options.first(option::ETAG).unwrap().to_vec();
    let mut again = request(Code::GET, 3, "ps/t");
    again.options.add(option::ETAG, etag.clone());
    let answer = site.ask(&again).await;
    assert_eq!((answer.code, answer.payload.len()), (Code::VALID, 0));
    assert_eq!(answer.options.first(option::ETAG), Some(&etag[..]));
}

#[tokio::test(start_paused = true)]
async fn accept_is_kept_to() {
    let mut site = Site::new();
    let mut put = with_payload(request(Code::PUT, 1, "ps/t"), "{}");
    put.options.add_uint(option::CONTENT_FORMAT, 50);
    site.ask(&put).await;
    site.publish("bare", "text", true).await;
    for (id, path, accept, expected) in [
        (2, "ps/t", 50, Code::CONTENT),
        (3, "ps/t", 60, Code::NOT_ACCEPTABLE),
        (4, "ps/bare", 0, Code::CONTENT),
        (5, "ps/bare", 42, Code::CONTENT),
        (6, "ps/bare", 50, Code::NOT_ACCEPTABLE),
        (7, ".well-known/core", 50, Code::NOT_ACCEPTABLE),
    ] {
        let mut get = request(Code::GET, id, path);
        get.options.add_uint(option::ACCEPT, accept);
        assert_eq!(site.ask(&get).await.code, expected, "{path} {accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_shows_for_how_long_it_is_good() {
    let mut site = Site::new();
    let mut put = with_payload(request(Code::PUT, 1, "ps/t"), "x");
    put.options.add(option::URI_QUERY, "expiry=30");
    site.ask(&put).await;
    site.pass(std::time::Duration::from_secs(10)).await;
    assert_eq!(site.ask(&request(Code::GET, 2, "ps/t")).await.options.uint(option::MAX_AGE), Some(20));
    site.pass(std::time::Duration::from_secs(21)).await;
    assert_eq!(site.ask(&request(Code::GET, 3, "ps/t")).await.code, Code::NOT_FOUND);
}

/// RFC 6690 section 4.1.
#[tokio::test(start_paused = true)]
async fn the_node_says_what_it_offers() {
    let mut site = Site::new();
    let answer = site.ask(&request(Code::GET, 1, ".well-known/core")).await;
    assert_eq!(answer.options.uint(option::CONTENT_FORMAT), Some(40));
    let mut filtered = request(Code::GET, 2, ".well-known/core");
    filtered.options.add(option::URI_QUERY, "rt=core.ps");
    let answer = site.ask(&filtered).await;
    assert_eq!(answer.payload, "</ps>;rt=\"core.ps\";ct=40;obs");
}

/// RFC 8132 section 2.
#[tokio::test(start_paused = true)]
async fn a_filter_may_be_fetched() {
    let mut site = Site::new();
    site.publish("plant/1/temp", "1", true).await;
    let mut fetch = with_payload(request(Code::FETCH, 1, "ps"), "plant/+/temp");
    let answer = site.ask(&fetch).await;
    assert_eq!((answer.code, &answer.payload[..]), (Code::CONTENT, &b"</ps/plant/1/temp>;obs"[..]));
    fetch.id = 2;
    fetch.options.add_uint(option::CONTENT_FORMAT, 50);
    assert_eq!(site.ask(&fetch).await.code, Code::UNSUPPORTED_CONTENT_FORMAT);
}

#[tokio::test(start_paused = true)]
async fn topics_with_a_value_are_listed_by_filter() {
    let mut site = Site::new();
    for topic in ["plant/1/temp", "plant/2/temp", "plant/2/hum", "a b"] {
        site.publish(topic, "1", true).await;
    }
    let mut get = request(Code::GET, 1, "ps");
    get.options.add(option::URI_QUERY, "topic=plant/+/temp");
    assert_eq!(site.ask(&get).await.payload, "</ps/plant/1/temp>;obs,</ps/plant/2/temp>;obs");
    let mut get = request(Code::GET, 2, "ps");
    get.options.add(option::URI_QUERY, "topic=+");
    assert_eq!(site.ask(&get).await.payload, "</ps/a%20b>;obs");
}

/// All blocks of an answer.
async fn fetch(site: &mut Site, get: &Message, szx: u8) -> Vec<u8> {
    let (mut whole, mut etags) = (Vec::new(), std::collections::BTreeSet::new());
    for num in 0.. {
        let mut get = get.clone();
        get.id += num as u16;
        get.options.add(option::BLOCK2, Block { num, more: false, szx }.encode());
        let answer = site.ask(&get).await;
        assert_eq!(answer.code, Code::CONTENT, "block {num}");
        whole.extend(&answer.payload);
        etags.extend(answer.options.first(option::ETAG).map(<[u8]>::to_vec));
        let block = answer.options.first(option::BLOCK2).and_then(Block::decode).unwrap();
        if !block.more {
            break;
        }
    }
    assert!(etags.len() <= 1, "blocks of several lists");
    whole
}

/// RFC 6690 section 4.1 and RFC 7959 section 2.4: every block is one of the filtered list.
#[tokio::test(start_paused = true)]
async fn a_filtered_discovery_is_the_same_in_blocks() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    for (index, filter) in
        ["rt=core.ps", "rt=edge.mailbox", "href=/d", "obs", "rt=nothing", "ct=40"].iter().enumerate()
    {
        let mut get = request(Code::GET, 100 + 1_000 * index as u16, ".well-known/core");
        get.options.add(option::URI_QUERY, *filter);
        let whole = site.ask(&get).await.payload;
        for szx in 0..3 {
            get.id += 100;
            assert_eq!(fetch(&mut site, &get, szx).await, whole, "{filter} in blocks of {}", 16 << szx);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_whole_however_long_it_is() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    for number in 0..1_000 {
        site.publish(&format!("plant/{number:04}/temp"), "1", true).await;
    }
    let mut get = request(Code::GET, 100, "ps");
    get.options.add(option::URI_QUERY, "topic=plant/+/temp");
    let list = String::from_utf8(fetch(&mut site, &get, 6).await).unwrap();
    let links: Vec<&str> = list.split(',').collect();
    assert_eq!(links.len(), 1_000);
    for (number, link) in links.iter().enumerate() {
        assert_eq!(*link, format!("</ps/plant/{number:04}/temp>;obs"));
    }
}

/// What changes while a list is fetched is not in the blocks that follow.
#[tokio::test(start_paused = true)]
async fn the_blocks_of_a_list_are_of_one_list() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    for number in 0..100 {
        site.publish(&format!("b/{number:03}"), "1", true).await;
    }
    let block = |num| {
        let mut get = request(Code::GET, 100 + num as u16, "ps");
        get.options.add(option::URI_QUERY, "topic=#");
        get.options.add(option::BLOCK2, Block { num, more: false, szx: 6 }.encode());
        get
    };
    let first = site.ask(&block(0)).await;
    site.publish("a/first of all", "1", true).await;
    site.pass(std::time::Duration::from_secs(5)).await;
    site.sent_to(crate::site::peer(1));
    let second = site.ask(&block(1)).await;
    assert_eq!(first.options.first(option::ETAG), second.options.first(option::ETAG));
    let both = [first.payload, second.payload].concat();
    assert!(String::from_utf8(both).unwrap().contains("</ps/b/000>;obs,</ps/b/001>;obs"));
    let new = site.ask(&block(0)).await;
    assert!(new.payload.starts_with(b"</ps/a/first%20of%20all>"));
    // A client that has the list is told so.
    let mut again = request(Code::GET, 200, "ps");
    again.options.add(option::URI_QUERY, "topic=#");
    again.options.add(option::ETAG, new.options.first(option::ETAG).unwrap());
    assert_eq!(site.ask(&again).await.code, Code::VALID);
}
