"""paho in the scenario of tests/e2e/tests/five.rs: subscribe, say "ready", wait for a line, publish, see what all publish."""
import sys
import threading

import paho.mqtt.client as mqtt

port, name, version, expected = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
seen, complete, subscribed = set(), threading.Event(), threading.Event()


def on_message(_client, _user, message):
    seen.add(f"{message.topic} {message.payload.decode()} {message.qos}")
    if len(seen) == expected:
        complete.set()


if hasattr(mqtt, "CallbackAPIVersion"):  # paho 2
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
else:
    client = mqtt.Client(client_id=name, protocol=version)
client.on_message = on_message
client.on_connect = lambda *args: client.subscribe("five/#", qos=2)
client.on_subscribe = lambda *args: subscribed.set()
client.connect("127.0.0.1", port, keepalive=30)
client.loop_start()
assert subscribed.wait(30), "no SUBACK"
print("ready", flush=True)
sys.stdin.readline()
for qos in (0, 1, 2):
    client.publish(f"five/{name}/{qos}", f"{name} says {qos}", qos=qos).wait_for_publish(30)
assert complete.wait(60), f"only {seen}"
print("\n".join(sorted(seen)))
client.disconnect()
client.loop_stop()
