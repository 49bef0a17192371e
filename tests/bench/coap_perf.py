#!/usr/bin/env python3
"""The node's CoAP listener beside libcoap's example server. Needs Python 3.9+, the release builds of eventmesh-edge and
tests/load, and coap-server-notls (package libcoap3-bin).

The node answers a POST when it is on disk, and hands its events on to a sink that acknowledges everything (mqtt-load sink);
libcoap's example server answers a PUT of one resource from memory. Runs are interleaved: repeat, then endpoints, then server. One JSON line per run, then the medians, and the ratio of each pair.
"""
import argparse, json, os, shutil, signal, socket, statistics, subprocess, tempfile, time

SERVERS = {
    "edge": {"method": "post", "path": "ps/load/%c"},
    "libcoap": {"method": "put", "path": "example_data"},
}


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(port, limit=60.0):
    """Until a CoAP ping is answered by a Reset."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.2)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                s.sendto(b"\x40\x00\x12\x34", ("127.0.0.1", port))
                if s.recv(16) == b"\x70\x00\x12\x34":
                    return
            except OSError:
                time.sleep(0.02)
    raise RuntimeError("no answer to a ping")


class Server:
    def __init__(self, name, bins, keep):
        self.dir = tempfile.mkdtemp(dir=keep)
        self.port = free_port()
        self.sink = None
        if name == "edge":
            up = free_port()
            sink = ["sink", "--port", str(up), "--secs", "600", "--quiet", "600"]
            self.sink = subprocess.Popen([os.path.join(bins, "mqtt-load")] + sink, stdout=subprocess.DEVNULL)
            config = os.path.join(self.dir, "node.toml")
            with open(config, "w") as f:
                f.write(f'[node]\ndata_dir = "{self.dir}/data"\n')
                f.write('[[listener]]\nkind = "mqtt"\nbind = "127.0.0.1:0"\n')
                f.write(f'[[uplink]]\nname = "up"\nkind = "mqtt"\naddresses = ["127.0.0.1:{up}"]\n')
                f.write(f'[[listener]]\nkind = "coap"\nbind = "127.0.0.1:{self.port}"\n')
            command = [os.path.join(bins, "eventmesh-edge"), "run", "--config", config]
        else:
            command = ["coap-server-notls", "-A", "127.0.0.1", "-p", str(self.port), "-v", "3"]
        out = open(os.path.join(self.dir, "log"), "w")
        self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=self.dir)
        wait(self.port)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        if self.sink:
            self.sink.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def load(bins, server, name, extra):
    command = [os.path.join(bins, "coap-load"), "--port", str(server.port), "--pid", str(server.process.pid)]
    command += ["--method", SERVERS[name]["method"], "--path", SERVERS[name]["path"]] + extra
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bins", default="target/release")
    p.add_argument("--dir", default=None, help="where data directories are made: a real disk")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--secs", type=float, default=5)
    p.add_argument("--endpoints", default="512,64,1")
    p.add_argument("--known", type=int, default=9000)
    a = p.parse_args()
    runs = {}
    for _ in range(a.repeats):
        for endpoints in map(int, a.endpoints.split(",")):
            for name in SERVERS:
                server = Server(name, a.bins, a.dir)
                try:
                    extra = ["--clients", str(endpoints), "--secs", str(a.secs)]
                    result = load(a.bins, server, name, extra)
                finally:
                    server.close()
                runs.setdefault((endpoints, name), []).append(result)
                print(json.dumps({"server": name, "load_average": os.getloadavg()[0], **result}), flush=True)
    for name in SERVERS:
        server = Server(name, a.bins, a.dir)
        try:
            # What is bounded for all of them, filled first: events in memory, requests that are known after a restart.
            load(a.bins, server, name, ["--clients", "64", "--secs", str(a.secs)])
            print(json.dumps({"server": name, **load(a.bins, server, name, ["--known", str(a.known)])}))
        finally:
            server.close()
    for endpoints in sorted({key[0] for key in runs}, reverse=True):
        median = lambda name, key: statistics.median(run[key] for run in runs[endpoints, name])
        ratios = [e["per_s"] / max(l["per_s"], 1) for e, l in zip(runs[endpoints, "edge"], runs[endpoints, "libcoap"])]
        line = {"endpoints": endpoints, "ratio_per_s": round(statistics.median(ratios), 2)}
        for name in SERVERS:
            for key in ("per_s", "cpu_us_per_request", "p50_us", "p99_us"):
                line[f"{name}_{key}"] = median(name, key)
        print(json.dumps(line))


if __name__ == "__main__":
    main()
