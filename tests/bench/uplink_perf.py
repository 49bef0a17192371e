#!/usr/bin/env python3
"""What the way up costs, for the whole node: from the store to acknowledged. Needs the release build of the node, `mqtt-load`
(tests/load) and `uplink-sink` (tests/eventmesh-standin); `--referee` names the class path of the Java SDK (Referee).

Each measurement fills a node whose upstream is away, then lets `uplink-sink`, a process of its own that acknowledges at once, appear at the
address: events a second from the first to the last one there, CPU of the node's process meanwhile (/proc/PID/stat), losses, order, and how
long it took from the listener's first moment to the first event.

  local    EventMesh, `sequence`, 10 sources
  java     the genuine Java SDK 1.10.0 publishing with 8 threads to the same sink
  far      as local, 100 ms round trip
  strict   EventMesh, `strict`, 1,000 keys, 100 ms round trip
  http     HTTP, batches of 100
  outage   from the upstream's return to the first event, after outages of several lengths, with the node's own defaults

Runs are interleaved (repeat, then scenario); one JSON line per result, then a table of medians beside the goals.
"""
import argparse, json, os, shutil, socket, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from broker_perf import cpu, proc_field, wait_connack

NODE = """[node]
name = "bench"
data_dir = "{dir}/data"
[log]
level = "warn"
[telemetry]
enabled = false
[[listener]]
kind = "mqtt"
bind = "127.0.0.1:{port}"
auth = "anonymous"
max_connections = 20000
[[uplink]]
name = "up"
{uplink}
"""
MESH = 'kind = "eventmesh"\naddresses = ["127.0.0.1:{up}"]\norder = "{order}"\n'
HTTP = 'kind = "http"\nurls = ["http://127.0.0.1:{up}/events"]\nmode = "batch"\nbatch_events = 100\n'
# So that the measurement does not wait for the next attempt.
SOON = 'retry_max = "500 ms"\n'


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    """A node on a fresh directory, under load whenever it is asked for."""

    def __init__(self, a, uplink):
        self.a, self.port, self.up = a, free_port(), free_port()
        self.dir = tempfile.mkdtemp(prefix="up", dir=a.work)
        text = NODE.format(dir=self.dir, port=self.port, uplink=uplink.replace("{up}", str(self.up)))
        with open(os.path.join(self.dir, "node.toml"), "w") as f:
            f.write(text)
        log = open(os.path.join(self.dir, "out.log"), "ab")
        program = os.path.join(a.bin, "eventmesh-edge")
        self.p = subprocess.Popen([program, "run", "--config", os.path.join(self.dir, "node.toml")],
                                  stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_connack(self.port, proc=self.p)

    def fill(self, events, clients, inflight=50):
        load = [os.path.join(self.a.bin, "mqtt-load"), "pub", "--port", self.port, "--clients", clients, "--inflight", inflight,
                "--payload", 200, "--count", events, "--quiet", 20, "--content", "telemetry"]
        r = subprocess.run([str(word) for word in load], capture_output=True, text=True, timeout=600)
        acked = json.loads(r.stdout)["acked"]
        # What the fill began in the background (sealing, checkpoints) ends first.
        last = -1.0
        while cpu(self.p.pid) != last:
            last = cpu(self.p.pid)
            time.sleep(1)
        return acked

    def close(self):
        self.p.terminate()
        try:
            self.p.wait(20)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Sink:
    def __init__(self, a, kind, port, events, delay=0, quiet=60):
        words = [os.path.join(a.bin, "uplink-sink"), kind, port, events, delay, quiet]
        self.p = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.p.stdout.readline())["port"]

    def result(self):
        return json.loads(self.p.communicate(timeout=600)[0])


def drain(a, uplink, kind, events, clients, delay=0, inflight=50):
    node = Node(a, uplink)
    try:
        acked = node.fill(events, clients, inflight)
        before = cpu(node.p.pid)
        sink = Sink(a, kind, node.up, acked, delay)
        out = sink.result()
        time.sleep(0.5)
        spent = cpu(node.p.pid) - before
        out.update(case=f"{events} events, {delay} ms", cpu_us_per_event=round(spent * 1e6 / max(1, out["distinct"]), 2),
                   rss_peak_mib=round(proc_field(node.p.pid, "status", "VmHWM:") / 1024, 1))
        return out
    finally:
        node.close()


def local(a):
    return drain(a, MESH.replace("{order}", "sequence") + SOON, "grpc", a.events, 10)


def far(a):
    return drain(a, MESH.replace("{order}", "sequence") + SOON, "grpc", a.events, 10, delay=100)


def strict(a):
    return drain(a, MESH.replace("{order}", "strict") + SOON, "grpc", a.events // 4, 1000, delay=100, inflight=1)


def http(a):
    return drain(a, HTTP + SOON, "http", a.events, 10)


def java(a):
    if not a.referee:
        return {"case": "no --referee: skipped"}
    events = 40_000
    sink = Sink(a, "grpc", 0, events)
    words = ["java", "-cp", a.referee, "Referee", "publish", str(sink.port), "eventmesh-edge", str(events), "8", "200"]
    # The SDK writes its log where it is started.
    said = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=a.work).stdout
    done = [line.split() for line in said.splitlines() if line.startswith("referee: done")]
    out = sink.result()
    taken, millis = int(done[0][2]), int(done[0][3])
    out.update(case=f"{events} events, 8 threads", taken=taken, publisher_per_s=round(taken * 1000 / millis))
    return out


def outage(a):
    """The longest and the median of a few returns; with the defaults, so the attempts grow apart as they do in the field."""
    waits = []
    for seconds in a.outages:
        node = Node(a, MESH.replace("{order}", "sequence"))
        try:
            node.fill(1000, 1)
            time.sleep(seconds)
            waits.append(Sink(a, "grpc", node.up, 1000).result()["first_after_s"])
        finally:
            node.close()
    return {"case": f"after {a.outages} s", "first_after_s": max(waits), "all_s": waits}


SCENARIOS = {f.__name__: f for f in (local, java, far, strict, http, outage)}


def table(rows):
    def median(scenario, key):
        values = [row[key] for row in rows if row["scenario"] == scenario and isinstance(row.get(key), (int, float))]
        return statistics.median(values) if values else None

    lines, rate = [], median("local", "events_per_s")

    def line(what, goal, value, ok):
        if value is not None:
            lines.append(f"| {what} | {goal} | {value} | {'' if ok else 'missed'} |")

    sdk = median("java", "publisher_per_s")
    if rate and sdk:
        line("EventMesh, local, against the Java SDK with 8 threads", ">= 10 x", f"{rate:.0f}/s, {sdk:.0f}/s: {rate / sdk:.1f} x", rate / sdk >= 10)
    slow = median("far", "events_per_s")
    if rate and slow:
        line("the same, 100 ms away", ">= 0.8 x", f"{slow:.0f}/s: {slow / rate:.2f} x", slow / rate >= 0.8)
    keyed, late = median("strict", "events_per_s"), median("strict", "out_of_order")
    if keyed:
        line("strict, 1,000 keys, 100 ms", ">= 5,000/s, in order", f"{keyed:.0f}/s, {late:.0f} out of order", keyed >= 5000 and late == 0)
    for scenario, goal in (("local", 15), ("http", 6)):
        spent = median(scenario, "cpu_us_per_event")
        if spent:
            line(f"CPU per event, {scenario}", f"<= {goal} us", f"{spent:.1f} us", spent <= goal)
    first = median("outage", "first_after_s")
    if first:
        line("upstream back to first event", "<= 1 s", f"{first:.2f} s", first <= 1)
    missing = sum(row.get("missing", 0) for row in rows)
    line("missing, all runs", "0", missing, missing == 0)
    return "\n".join(["| figure | goal | measured (median) | |", "|---|---|---|---|", *lines])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", required=True, help="where the programs are")
    ap.add_argument("--work", default=None, help="directory for data, on the disk to be measured")
    ap.add_argument("--out", default="uplinks.jsonl")
    ap.add_argument("--scenarios", default=",".join(SCENARIOS))
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--events", type=int, default=400_000)
    ap.add_argument("--outages", type=lambda s: [float(x) for x in s.split(",")], default=[0.5, 5, 20])
    ap.add_argument("--referee", help="class path of Referee and the Java SDK")
    a = ap.parse_args()
    a.work = os.path.abspath(a.work) if a.work else tempfile.gettempdir()
    rows = []
    for rep in range(a.repeats):
        for scenario in a.scenarios.split(","):
            row = SCENARIOS[scenario](a)
            row.update(scenario=scenario, rep=rep, loadavg=os.getloadavg()[0])
            rows.append(row)
            print(json.dumps(row), flush=True)
            with open(a.out, "a") as f:
                f.write(json.dumps(row) + "\n")
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
