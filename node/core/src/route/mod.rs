//! Routes: which stream takes an event, and which CloudEvents `type` it leaves with.
//!
//! A [`Router`] is an ordered list of checked routes; the first one with a filter that matches the topic wins. What no
//! route takes goes to the default stream or, without one, to local subscribers only. Topics that start with `$` belong
//! to the node: no wildcard at the start of a filter and no default stream takes them [MQTT-4.7.2-1], a filter that
//! names them does.
//!
//! The stream is decided once, at the commit. The `type` is looked up again on the way out, so that a wrong one can be
//! corrected for events that are already stored.

use crate::Text;
use crate::event::Via;
use crate::mapping::default_kind;
use crate::ports::store::StreamId;
use crate::topic::TopicFilter;

/// One route as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Filters; any of them is enough.
    pub topics: Vec<TopicFilter>,
    /// Where matching events go.
    pub stream: StreamId,
    /// CloudEvents `type`; `None` for the default of the way the event came in ([`default_kind`]).
    pub kind: Option<Text>,
}

/// Why a list of routes is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A route without filters never matches.
    #[error("route {route} has no topics; name at least one filter, `#` takes everything")]
    NoTopics {
        /// Its place in the list, from 0.
        route: usize,
    },
    /// A route reads nothing, so there is nothing to share.
    #[error("route {route} has the shared subscription {filter}; use the filter without `$share/NAME/`")]
    Shared {
        /// Its place in the list, from 0.
        route: usize,
        /// The filter.
        filter: TopicFilter,
    },
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed<'a> {
    /// The stream that takes it.
    pub stream: StreamId,
    /// CloudEvents `type` if the route gives one.
    pub kind: Option<&'a Text>,
    /// The route's place in the list; `None` for the default stream.
    pub index: Option<usize>,
}

/// Checked routes, ready to be asked for every event.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: Vec<Route>,
    /// All filters of all routes in order of precedence.
    matchers: Vec<Matcher>,
    default_stream: Option<StreamId>,
}

/// A filter with the part before its first wildcard beside it: nearly every filter that does not match is told by one
/// comparison of bytes.
#[derive(Clone, Debug)]
struct Matcher {
    literal: Box<str>,
    shape: Shape,
    filter: TopicFilter,
    route: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// No wildcard: the literal is the topic.
    Exact,
    /// `literal/#`: the literal, or anything below it.
    Below,
    /// Anything else: starts with the literal, then ask the filter.
    General,
}

impl Router {
    /// Checks the routes and makes a router.
    ///
    /// - `default_stream`: takes what no route takes; `None` leaves that to local subscribers
    ///
    /// # Errors
    /// [`RouteError`] for a route without topics or with a shared subscription.
    pub fn new(routes: Vec<Route>, default_stream: Option<StreamId>) -> Result<Router, RouteError> {
        let mut matchers = Vec::new();
        for (route, Route { topics, .. }) in routes.iter().enumerate() {
            if topics.is_empty() {
                return Err(RouteError::NoTopics { route });
            }
            for filter in topics {
                if filter.share().is_some() {
                    return Err(RouteError::Shared { route, filter: filter.clone() });
                }
                matchers.push(Matcher::new(filter, route));
            }
        }
        Ok(Router { routes, matchers, default_stream })
    }

    /// The first route that takes this topic, else the default stream, else nothing.
    #[must_use]
    pub fn route(&self, topic: &str) -> Option<Routed<'_>> {
        if let Some((index, route)) = self.find(topic) {
            return Some(Routed { stream: route.stream, kind: route.kind.as_ref(), index: Some(index) });
        }
        let stream = self.default_stream.filter(|_| !topic.starts_with('$'))?;
        Some(Routed { stream, kind: None, index: None })
    }

    /// CloudEvents `type` for the way out: the route's, else the default of the way it came in.
    #[must_use]
    pub fn kind_for(&self, topic: &str, via: Via) -> Text {
        let named = self.find(topic).and_then(|(_, route)| route.kind.clone());
        named.unwrap_or_else(|| Text::from_static(default_kind(via)))
    }

    /// All routes, in order of precedence.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn find(&self, topic: &str) -> Option<(usize, &Route)> {
        let index = self.matchers.iter().find(|m| m.matches(topic))?.route;
        self.routes.get(index).map(|route| (index, route))
    }
}

impl Matcher {
    fn new(filter: &TopicFilter, route: usize) -> Matcher {
        let text = filter.filter();
        let (literal, shape) = match text.find(['+', '#']) {
            None => (text, Shape::Exact),
            Some(at) if at > 0 && text.get(at..) == Some("#") => {
                (text.get(..at - 1).unwrap_or_default(), Shape::Below)
            }
            Some(at) => (text.get(..at).unwrap_or_default(), Shape::General),
        };
        Matcher { literal: literal.into(), shape, filter: filter.clone(), route }
    }

    fn matches(&self, topic: &str) -> bool {
        let Some(rest) = topic.strip_prefix(&*self.literal) else { return false };
        match self.shape {
            Shape::Exact => rest.is_empty(),
            Shape::Below => rest.is_empty() || rest.starts_with('/'),
            Shape::General => self.filter.matches(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.to_owned()).unwrap()
    }

    fn route(topics: &[&str], stream: u16, kind: Option<&'static str>) -> Route {
        Route {
            topics: topics.iter().map(|t| filter(t)).collect(),
            stream: StreamId(stream),
            kind: kind.map(Text::from_static),
        }
    }

    fn router(default_stream: Option<u16>) -> Router {
        let routes = vec![
            route(&["plant/+/temp", "plant/all"], 1, Some("com.example.temperature.v1")),
            route(&["plant/#"], 2, None),
            route(&["$SYS/broker/#"], 3, None),
        ];
        Router::new(routes, default_stream.map(StreamId)).unwrap()
    }

    fn stream_of(router: &Router, topic: &str) -> Option<(u16, Option<usize>)> {
        router.route(topic).map(|r| (r.stream.0, r.index))
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let router = router(None);
        assert_eq!(stream_of(&router, "plant/7/temp"), Some((1, Some(0))));
        assert_eq!(stream_of(&router, "plant/all"), Some((1, Some(0))));
        assert_eq!(stream_of(&router, "plant/7/humidity"), Some((2, Some(1))));
        assert_eq!(stream_of(&router, "plant"), Some((2, Some(1))));
        assert_eq!(stream_of(&router, "plants"), None);
    }

    #[test]
    fn what_no_route_takes_goes_to_the_default_stream_or_stays_local() {
        assert_eq!(stream_of(&router(Some(9)), "other"), Some((9, None)));
        assert_eq!(stream_of(&router(None), "other"), None);
        assert_eq!(stream_of(&Router::default(), "other"), None);
    }

    #[test]
    fn dollar_topics_are_routed_only_by_name() {
        let all = Router::new(vec![route(&["#", "+/broker/load"], 1, None)], Some(StreamId(9))).unwrap();
        assert_eq!(stream_of(&all, "$SYS/broker/load"), None);
        assert_eq!(stream_of(&router(Some(9)), "$SYS/broker/load"), Some((3, Some(2))));
        assert_eq!(stream_of(&router(Some(9)), "$SYS/other"), None);
    }

    #[test]
    fn the_type_comes_from_the_route_or_from_the_way_in() {
        let router = router(None);
        assert_eq!(router.kind_for("plant/7/temp", Via::Mqtt5), "com.example.temperature.v1");
        assert_eq!(router.kind_for("plant/7/humidity", Via::Mqtt5), "io.eventmesh.edge.mqtt.publish");
        assert_eq!(router.kind_for("elsewhere", Via::Mqtt3), "io.eventmesh.edge.mqtt.publish");
        assert_eq!(router.kind_for("elsewhere", Via::Coap), default_kind(Via::Coap));
    }

    #[test]
    fn a_route_that_can_never_match_is_refused() {
        let shared = Router::new(vec![route(&["a"], 1, None), route(&["$share/g/a"], 1, None)], None);
        assert!(matches!(shared, Err(RouteError::Shared { route: 1, .. })), "{shared:?}");
        assert_eq!(
            Router::new(vec![route(&[], 1, None)], None).unwrap_err(),
            RouteError::NoTopics { route: 0 }
        );
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "ab", "b", "", "$x", "é"])
    }

    prop_compose! {
        fn any_filter()(
            levels in prop::collection::vec(prop_oneof![3 => level(), 1 => Just("+")], 1..4),
            hash: bool,
        ) -> String {
            let text = levels.join("/");
            if hash { format!("{text}/#") } else { text }
        }
    }

    proptest! {
        #[test]
        fn the_router_agrees_with_the_filters_asked_in_turn(
            filters in prop::collection::vec(any_filter().prop_filter("not empty", |f| !f.is_empty()), 1..8),
            topic in prop::collection::vec(level(), 1..5).prop_map(|l| l.join("/")),
        ) {
            let routes: Vec<_> = filters.iter().map(|f| route(&[f], 1, None)).collect();
            let expected = filters.iter().position(|f| filter(f).matches(&topic));
            let router = Router::new(routes, None).unwrap();
            prop_assert_eq!(router.route(&topic).and_then(|r| r.index), expected);
        }
    }
}
