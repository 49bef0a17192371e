"""paho against the node on the port given: QoS 0, 1 and 2 both ways, MQTT 3.1.1 and 5, retained, wildcards."""
import sys
import threading

import paho.mqtt.client as mqtt

PORT = int(sys.argv[1])
WAIT = 30


def make(client_id, version):
    if hasattr(mqtt, "CallbackAPIVersion"):  # paho 2
        return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version)
    return mqtt.Client(client_id=client_id, protocol=version)


def connect(client):
    up = threading.Event()
    client.on_connect = lambda *args: up.set()
    client.connect("127.0.0.1", PORT, keepalive=30)
    client.loop_start()
    assert up.wait(WAIT), "no CONNACK"
    return client


def roundtrip(version, name):
    got, seen, subscribed = [], threading.Event(), threading.Event()
    subscriber = make(f"paho-sub-{name}", version)

    def on_message(_client, _user, message):
        got.append((message.topic, message.payload, message.qos, message.retain))
        if len(got) == 4:
            seen.set()

    subscriber.on_message = on_message
    subscriber.on_subscribe = lambda *args: subscribed.set()
    publisher = connect(make(f"paho-pub-{name}", version))
    publisher.publish(f"{name}/retained", b"kept", qos=1, retain=True).wait_for_publish(WAIT)
    connect(subscriber).subscribe(f"{name}/#", qos=2)
    assert subscribed.wait(WAIT), "no SUBACK"
    for qos in (0, 1, 2):
        publisher.publish(f"{name}/level/{qos}", bytes([qos, 0, 255]), qos=qos).wait_for_publish(WAIT)
    assert seen.wait(WAIT), f"{name}: only {got}"
    expected = {(f"{name}/retained", b"kept", 1, True)}
    expected |= {(f"{name}/level/{q}", bytes([q, 0, 255]), q, False) for q in (0, 1, 2)}
    assert set(got) == expected, f"{name}: {got}"
    for client in (publisher, subscriber):
        client.disconnect()
        client.loop_stop()


roundtrip(mqtt.MQTTv311, "v311")
roundtrip(mqtt.MQTTv5, "v5")
print("paho: both versions, QoS 0, 1, 2, retained")
