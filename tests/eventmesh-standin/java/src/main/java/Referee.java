import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.eventmesh.client.grpc.config.EventMeshGrpcClientConfig;
import org.apache.eventmesh.client.grpc.consumer.EventMeshGrpcConsumer;
import org.apache.eventmesh.client.grpc.consumer.ReceiveMsgHook;
import org.apache.eventmesh.client.grpc.producer.EventMeshGrpcProducer;
import org.apache.eventmesh.common.enums.EventMeshProtocolType;
import org.apache.eventmesh.common.protocol.SubscriptionItem;
import org.apache.eventmesh.common.protocol.SubscriptionMode;
import org.apache.eventmesh.common.protocol.SubscriptionType;

/**
 * Publishes or subscribes with the genuine SDK and says on standard output what it saw, one line each, for a test that compares.
 *
 * publish PORT TOPIC COUNT THREADS BYTES   one CloudEvent per call; the last line is "done COUNT MILLISECONDS"
 * subscribe PORT TOPIC COUNT               "subscribed", then "event ID SOURCE TYPE CONTENT-TYPE BASE64" for each, then "done"
 */
public final class Referee {

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[1]);
        int count = Integer.parseInt(args[3]);
        if (args[0].equals("publish")) {
            publish(port, args[2], count, Integer.parseInt(args[4]), Integer.parseInt(args[5]));
        } else {
            subscribe(port, args[2], count);
        }
        // The SDK's own threads are no daemons.
        System.exit(0);
    }

    private static EventMeshGrpcClientConfig config(int port) {
        return EventMeshGrpcClientConfig.builder().serverAddr("127.0.0.1").serverPort(port).env("prod").idc("cloud").sys("app")
            .userName("u").password("p").producerGroup("referee").consumerGroup("referee").build();
    }

    private static void publish(int port, String topic, int count, int threads, int bytes) throws Exception {
        EventMeshGrpcProducer producer = new EventMeshGrpcProducer(config(port));
        byte[] data = ("{\"pad\":\"" + "x".repeat(Math.max(0, bytes - 10)) + "\"}").getBytes(StandardCharsets.UTF_8);
        AtomicInteger next = new AtomicInteger();
        AtomicInteger taken = new AtomicInteger();
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        long start = System.nanoTime();
        for (int thread = 0; thread < threads; thread++) {
            pool.submit(() -> {
                for (int n = next.getAndIncrement(); n < count; n = next.getAndIncrement()) {
                    CloudEvent event = CloudEventBuilder.v1().withId("java-" + n).withSource(URI.create("/cloud/java")).withType("t")
                        .withSubject(topic).withDataContentType("application/json").withExtension("edgetopic", "valve/1/set")
                        .withData(data).build();
                    // No answer counts as none: the test sees that one is missing.
                    if ("0".equals(producer.publish(event).getRespCode())) {
                        taken.incrementAndGet();
                    }
                }
            });
        }
        pool.shutdown();
        pool.awaitTermination(2, TimeUnit.MINUTES);
        say("done " + taken.get() + " " + (System.nanoTime() - start) / 1_000_000);
    }

    private static void subscribe(int port, String topic, int count) throws Exception {
        CountDownLatch latch = new CountDownLatch(count);
        EventMeshGrpcConsumer consumer = new EventMeshGrpcConsumer(config(port));
        consumer.init();
        consumer.registerListener(new ReceiveMsgHook<CloudEvent>() {
            @Override
            public Optional<CloudEvent> handle(CloudEvent event) {
                byte[] data = event.getData() == null ? new byte[0] : event.getData().toBytes();
                say("event " + event.getId() + " " + event.getSource() + " " + event.getType() + " " + event.getDataContentType()
                    + " " + event.getExtension("edgetopic") + " " + Base64.getEncoder().encodeToString(data));
                latch.countDown();
                return Optional.empty();
            }

            @Override
            public EventMeshProtocolType getProtocolType() {
                return EventMeshProtocolType.CLOUD_EVENTS;
            }
        });
        consumer.subscribe(List.of(new SubscriptionItem(topic, SubscriptionMode.CLUSTERING, SubscriptionType.ASYNC)));
        say("subscribed");
        if (!latch.await(1, TimeUnit.MINUTES)) {
            say("missing " + latch.getCount());
        }
        say("done");
    }

    private static synchronized void say(String line) {
        System.out.println("referee: " + line);
        System.out.flush();
    }
}
