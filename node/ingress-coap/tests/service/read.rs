//! GET.

use crate::site::{Site, request, with_payload};
use eventmesh_edge_coap::{Code, option};

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
