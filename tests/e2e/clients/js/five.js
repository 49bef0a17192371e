// MQTT.js in the scenario of tests/e2e/tests/five.rs: subscribe, say "ready", wait for a line, publish, see what all publish.
import mqtt from "mqtt";

const [port, name, version, expected] = process.argv.slice(2);
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
  clientId: name,
  protocolVersion: Number(version),
  clean: true,
  keepalive: 30,
});
const seen = new Set();
const give = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => give(`only ${[...seen].join(", ")}`), 60_000).unref();
client.on("error", give);
client.on("message", (topic, payload, packet) => {
  seen.add(`${topic} ${payload} ${packet.qos}`);
  if (seen.size === Number(expected)) {
    [...seen].sort().forEach((line) => console.log(line));
    client.end(false, {}, () => process.exit(0));
  }
});
client.on("connect", () => {
  client.subscribe("five/#", { qos: 2 }, (error, granted) => {
    if (error || granted[0].qos !== 2) give(`SUBACK ${error}`);
    console.log("ready");
  });
});
process.stdin.once("data", () => {
  for (const qos of [0, 1, 2]) client.publish(`five/${name}/${qos}`, `${name} says ${qos}`, { qos });
});
