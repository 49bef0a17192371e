//! The three services over tonic.

use crate::check::{self, Refusal};
use crate::message::{answer, text, with_status};
use crate::proto::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use crate::proto::heartbeat_service_server::{HeartbeatService, HeartbeatServiceServer};
use crate::proto::publisher_service_server::{PublisherService, PublisherServiceServer};
use crate::proto::{CloudEvent, CloudEventBatch};
use crate::state::{Reply, State};
use prost::Message as _;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The runtime's limit for one message, envelope included.
const MESSAGE_MAX_BYTES: usize = 4_194_304;

/// Serves until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>) {
    // Without Nagle's algorithm, as grpc-java serves: with it every answer waits for the acknowledgement of the last one.
    // tonic's own limit answers with another status than the runtime's, so its limit is larger and ours is checked.
    let served = tonic::transport::Server::builder()
        .add_service(
            PublisherServiceServer::new(Service(state.clone()))
                .max_decoding_message_size(4 * MESSAGE_MAX_BYTES),
        )
        .add_service(ConsumerServiceServer::new(Service(state.clone())))
        .add_service(HeartbeatServiceServer::new(Service(state)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    if let Err(error) = served {
        eprintln!("stand-in: {error}");
    }
}

struct Service(Arc<State>);

type Answer = Result<Response<CloudEvent>, Status>;

impl Service {
    fn refused(&self, refusal: &Refusal) -> CloudEvent {
        let id = (refusal.code == 14).then(|| self.0.number());
        answer(refusal.code, &refusal.message, id)
    }

    fn success(&self, message: &str) -> CloudEvent {
        answer(0, &format!("success {message}"), Some(self.0.number()))
    }

    fn take(&self, event: CloudEvent) -> Result<CloudEvent, Refusal> {
        check::header(&event)?;
        check::publish_body(&event)?;
        check::adapt(&event)?;
        let topic = text(&event, "subject").unwrap_or_default().to_owned();
        let number = self.0.store(event)?;
        Ok(self.success(&format!("SendResult[topic={topic}, messageId={number}]")))
    }
}

fn unimplemented(method: &str) -> Status {
    let service = "org.apache.eventmesh.cloudevents.v1.PublisherService";
    Status::unimplemented(format!("Method {service}/{method} is unimplemented"))
}

fn check_size(bytes: usize) -> Result<(), Status> {
    if bytes > MESSAGE_MAX_BYTES {
        let message = format!("gRPC message exceeds maximum size {MESSAGE_MAX_BYTES}: {bytes}");
        return Err(Status::resource_exhausted(message));
    }
    Ok(())
}

#[tonic::async_trait]
impl PublisherService for Service {
    async fn publish(&self, request: Request<CloudEvent>) -> Answer {
        let event = request.into_inner();
        check_size(event.encoded_len())?;
        match self.0.next_reply() {
            Reply::Usual => {}
            Reply::Late(wait) => tokio::time::sleep(wait).await,
            Reply::Code(code, message) => return Ok(Response::new(answer(code, &message, None))),
            Reply::Event(event) => return Ok(Response::new(*event)),
            Reply::Grpc(status, message) => return Err(Status::new(status.into(), message)),
            Reply::Hang => return std::future::pending().await,
            Reply::StoredAndSilent => {
                drop(self.take(event));
                return std::future::pending().await;
            }
        }
        Ok(Response::new(self.take(event).unwrap_or_else(|refusal| self.refused(&refusal))))
    }

    async fn request_reply(&self, request: Request<CloudEvent>) -> Answer {
        Ok(Response::new(with_status(request.into_inner(), 22, "Request is not supported")))
    }

    async fn publish_one_way(&self, _: Request<CloudEvent>) -> Result<Response<()>, Status> {
        Err(unimplemented("publishOneWay"))
    }

    /// Checks all of them first, then answers before it knows what becomes of any.
    async fn batch_publish(&self, request: Request<CloudEventBatch>) -> Answer {
        let events = request.into_inner().events;
        if events.is_empty() {
            return Err(Status::unknown("Application error processing RPC"));
        }
        for event in &events {
            if let Err(refusal) = check::header(event).and_then(|()| check::publish_body(event)) {
                return Ok(Response::new(self.refused(&refusal)));
            }
        }
        for event in events {
            drop(check::adapt(&event).and_then(|()| self.0.store(event)));
        }
        Ok(Response::new(self.success("batch publish success")))
    }

    async fn batch_publish_one_way(&self, _: Request<CloudEventBatch>) -> Result<Response<()>, Status> {
        Err(unimplemented("batchPublishOneWay"))
    }
}

#[tonic::async_trait]
impl ConsumerService for Service {
    /// Webhook: accepted where it is complete; nothing is ever posted.
    async fn subscribe(&self, request: Request<CloudEvent>) -> Answer {
        let event = request.into_inner();
        let refusal = match check::subscription(&event) {
            Err(refusal) => refusal,
            Ok(_) if text(&event, "url").is_some() => {
                return Ok(Response::new(self.success("subscribe success")));
            }
            Ok(_) => Refusal { code: 7, message: "eventMesh CloudEvent[body] err, ".to_owned() },
        };
        Ok(Response::new(self.refused(&refusal)))
    }

    type subscribeStreamStream = UnboundedReceiverStream<Result<CloudEvent, Status>>;

    async fn subscribe_stream(
        &self,
        request: Request<Streaming<CloudEvent>>,
    ) -> Result<Response<Self::subscribeStreamStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (state, stream) = (self.0.clone(), self.0.number());
        tokio::spawn(take_subscriptions(state, request.into_inner(), stream, sender));
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn unsubscribe(&self, request: Request<CloudEvent>) -> Answer {
        let event = request.into_inner();
        match check::subscription(&event) {
            Err(refusal) => Ok(Response::new(self.refused(&refusal))),
            Ok(items) => {
                self.0.unsubscribe(text(&event, "consumergroup").unwrap_or_default(), &items);
                Ok(Response::new(self.success("unsubscribe success")))
            }
        }
    }
}

/// Reads the request side: each message subscribes; its end ends the stream, because the sender goes with it.
async fn take_subscriptions(
    state: Arc<State>,
    mut requests: Streaming<CloudEvent>,
    stream: u64,
    sender: mpsc::UnboundedSender<Result<CloudEvent, Status>>,
) {
    // The clients hold the senders, so that removing a client ends its stream even while the request side is open.
    let mut kept = Some(sender);
    loop {
        let event = match requests.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return state.request_side_closed(stream),
            // Cancelled, or the connection is gone: it stays registered, and events that are routed to it vanish.
            Err(_) => return,
        };
        // A reply to a request: nothing waits for it here.
        if text(&event, "submessagetype") == Some("subscription_reply") {
            continue;
        }
        let Some(sender) = kept.take().or_else(|| state.sender_of(stream)) else { return };
        match check::subscription(&event) {
            Ok(items) => {
                state.subscribe(&event, &items, stream, &sender);
                drop(sender.send(Ok(with_status(event, 0, "subscribe success"))));
            }
            Err(refusal) => drop(sender.send(Ok(answer(refusal.code, &refusal.message, None)))),
        }
    }
}

#[tonic::async_trait]
impl HeartbeatService for Service {
    async fn heartbeat(&self, request: Request<CloudEvent>) -> Answer {
        let event = request.into_inner();
        let answered = match check::heartbeat(&event) {
            Err(refusal) => self.refused(&refusal),
            Ok(topics) => match self.0.heartbeat(&event, &topics) {
                0 => self.success("heartbeat success"),
                30 => answer(30, "client needs to resubscribe.", None),
                code => answer(code, "scripted", None),
            },
        };
        Ok(Response::new(answered))
    }
}
