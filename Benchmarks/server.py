#!/usr/bin/python3
"""Requests to an NBD server: what Spillway costs beside nbdkit and qemu-nbd.

Each round starts every server anew and runs the same jobs on each, in turn, so that drift of the machine hits all: fio
(ioengine=nbd), nbdcopy and `qemu-img bench` over a unix socket. Printed are medians of the rounds, and in brackets each
figure's ratio to Spillway's. CPU is the server's own, user and system, per GiB moved.

    Benchmarks/server.py SPILLWAY [--rounds N] [--size MIB] [--seconds N] [--directory DIR]
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

import nbd

MIB, GIB = 1 << 20, 1 << 30
TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """A server under test, started anew for each round."""

    NAMES = ["spillway", "nbdkit-memory", "nbdkit-null", "nbdkit-file", "qemu-nbd-raw", "qemu-nbd-qcow2"]

    def __init__(self, name, directory, size, spillway):
        self.name, self.home = name, os.path.join(directory, name)
        os.mkdir(self.home)
        self.socket, self.export = os.path.join(self.home, "s"), ""
        with open(os.path.join(self.home, "log"), "wb") as log:
            self.process = subprocess.Popen(
                self.command(size, spillway), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                handle = nbd.NBD()
                handle.connect_uri(self.uri)
                return handle.shutdown()
            except nbd.Error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} does not start: {open(self.home + '/log').read()}")
                time.sleep(0.02)

    def command(self, size, spillway):
        store = os.path.join(self.home, "store")
        if self.name == "spillway":
            self.export = "d"
            return [spillway, "serve", "-j", store, "--disk", f"d={size}", "--listen", f"unix:{self.socket}",
                    "--log-level", "warning"]
        if self.name in ("nbdkit-memory", "nbdkit-null"):
            return ["nbdkit", "-f", "-U", self.socket, self.name[7:], f"size={size}"]
        if self.name == "nbdkit-file":
            with open(store, "wb") as file:
                file.truncate(size)
            return ["nbdkit", "-f", "-U", self.socket, "file", store]
        format = self.name[9:]
        subprocess.run(["qemu-img", "create", "-q", "-f", format, store, str(size)], check=True)
        return ["qemu-nbd", "-t", "-e", "8", "-k", self.socket, "-f", format, store]

    @property
    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    @property
    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.home)


def fio(server, pattern, block, depth, options):
    """Runs one job; its MB/s, IOPS, p50 and p99 (µs), and the bytes moved."""
    size = [f"--size={options.size}M"]
    size += ["--time_based", f"--runtime={options.seconds}"] if pattern.startswith("rand") else []
    output = subprocess.run(
        ["fio", "--name=j", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={pattern}", f"--bs={block}",
         f"--iodepth={depth}", "--randseed=7", "--buffer_compress_percentage=50", "--refill_buffers",
         "--output-format=json"] + size,
        check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=server.home).stdout
    text = output.decode()
    job = json.loads(text[text.index("{"):])["jobs"][0]["read" if "read" in pattern else "write"]
    percentiles = job["clat_ns"]["percentile"]
    return {"MB/s": job["bw_bytes"] / 1e6, "IOPS": job["iops"], "p50 us": percentiles["50.000000"] / 1e3,
            "p99 us": percentiles["99.000000"] / 1e3, "bytes": job["io_bytes"]}


def timed(byte_count, *command):
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"MB/s": byte_count / 1e6 / (time.monotonic() - start), "bytes": byte_count}


def jobs(options):
    """Name, the figures that it is for, and what runs it. The first one fills the disk."""
    def of(pattern, block, depth):
        return lambda server, image: fio(server, pattern, block, depth, options)
    size = options.size * MIB
    requests = 20000
    return [
        ("write 256k, 8 in flight", ["MB/s"], of("write", "256k", 8)),
        ("write 64k, 1 in flight", ["MB/s", "p50 us", "p99 us"], of("write", "64k", 1)),
        ("randwrite 4k, 1 in flight", ["IOPS", "p50 us", "p99 us"], of("randwrite", "4k", 1)),
        ("randwrite 4k, 16 in flight", ["IOPS", "p50 us", "p99 us"], of("randwrite", "4k", 16)),
        ("read 256k, 8 in flight", ["MB/s"], of("read", "256k", 8)),
        ("randread 4k, 1 in flight", ["IOPS", "p50 us", "p99 us"], of("randread", "4k", 1)),
        ("randread 4k, 16 in flight", ["IOPS", "p50 us", "p99 us"], of("randread", "4k", 16)),
        ("nbdcopy in", ["MB/s"], lambda server, image: timed(
            size, "nbdcopy", "--connections=2", "--flush", image, server.uri)),
        ("nbdcopy out", ["MB/s"], lambda server, image: timed(
            size, "nbdcopy", "--connections=2", server.uri, "null:")),
        ("qemu-img bench 64k, 8 deep", ["MB/s"], lambda server, image: timed(
            requests * 65536, "qemu-img", "bench", "-f", "raw", "-c", str(requests), "-d", "8", "-s", "64k",
            server.uri)),
    ]


def table(figures, names):
    print("| median | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for (job, figure), by_server in figures.items():
        own = statistics.median(by_server["spillway"])
        cells = []
        for name in names:
            value = statistics.median(by_server[name])
            ratio = "" if name == "spillway" or own == 0 else f" ({value / own:.2f})"
            cells.append(f"{value:,.{0 if value >= 100 else 2}f}{ratio}")
        print(f"| {job}: {figure} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spillway")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, metavar="MIB")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--directory")
    parser.add_argument("--only", action="append", help="a server; may be repeated")
    options = parser.parse_args()
    names = [name for name in Server.NAMES if not options.only or name in options.only or name == "spillway"]
    figures = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        image = os.path.join(directory, "image")
        with open(image, "wb") as file:
            block = os.urandom(MIB // 2)
            for _ in range(options.size):
                file.write(block + bytes(index % 7 for index in range(0, 64)) * (MIB // 128))
        for turn in range(options.rounds):
            servers = {name: Server(name, directory, options.size * MIB, options.spillway) for name in names}
            try:
                for job, wanted, run in jobs(options):
                    for name in names:
                        before = servers[name].cpu_seconds
                        result = run(servers[name], image)
                        result["CPU s/GiB"] = (servers[name].cpu_seconds - before) / (result["bytes"] / GIB)
                        for figure in wanted + ["CPU s/GiB"]:
                            figures.setdefault((job, figure), {}).setdefault(name, []).append(result[figure])
                        print(f"round {turn + 1} {name} {job}", file=sys.stderr)
            finally:
                for server in servers.values():
                    server.stop()
    table(figures, names)


if __name__ == "__main__":
    main()
