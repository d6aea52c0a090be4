#!/usr/bin/python3
"""How fast, how small: Spillway against the servers that people use as targets today.

Each round starts every server anew and runs the same work on each, in turn, so that drift of the machine hits all.
Printed are medians of the rounds, and each figure's ratio to Spillway's. All on this machine, over unix sockets.

    Benchmarks/push.py SPILLWAY [--rounds N] [--image FILE] [--directory DIR]
"""
import argparse, os, random, shutil, signal, statistics, subprocess, tempfile, time

import nbd

MIB = 1 << 20


class Server:
    """A server under test: how to start it, where it keeps its bytes."""

    def __init__(self, name, directory, size, mode="device"):
        self.name, self.size, self.mode = name, size, mode
        self.home = os.path.join(directory, name)
        os.mkdir(self.home)
        self.socket = os.path.join(self.home, "s")
        self.process = None

    def command(self, spillway):
        store = os.path.join(self.home, "store")
        if self.name == "spillway":
            self.export = "d"
            return [spillway, "serve", "-j", store, "--disk", f"d={self.size},mode={self.mode}",
                    "--listen", f"unix:{self.socket}", "--view", f"unix:{self.socket}v",
                    "--admin", f"unix:{self.socket}a"]
        self.export = ""
        if self.name == "nbdkit-memory":
            return ["nbdkit", "-f", "-U", self.socket, "memory", str(self.size)]
        if self.name == "nbdkit-file":
            with open(store, "wb") as file:
                file.truncate(self.size)
            return ["nbdkit", "-f", "-U", self.socket, "file", store]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", store, str(self.size)], check=True)
        return ["qemu-nbd", "-t", "-e", "8", "-k", self.socket, "-f", "qcow2", store]

    def start(self, spillway):
        log = open(os.path.join(self.home, "log"), "wb")
        self.process = subprocess.Popen(self.command(spillway), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.connect().shutdown()
            except nbd.Error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} does not start: {open(log.name).read()}")
                time.sleep(0.02)

    @property
    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def connect(self):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        return handle

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stored(self):
        words = subprocess.run(["du", "-s", "-B1", self.home], check=True, capture_output=True, text=True).stdout
        return int(words.split()[0])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def latencies(server, block, count, rng):
    """Microseconds until the ack, one write in flight, half of each block compressible."""
    handle = server.connect()
    payload = rng.randbytes(block // 2) + bytes(range(256)) * (block // 512)
    times = []
    for index in range(count):
        start = time.perf_counter_ns()
        handle.pwrite(payload, index * block % (server.size - block) // block * block)
        times.append((time.perf_counter_ns() - start) / 1000)
    handle.shutdown()
    times.sort()
    return times[count // 2], times[count * 99 // 100]


def push(server, image):
    """MB/s of data of a whole image by nbdcopy (two connections), its final flush included."""
    data = os.stat(image).st_blocks * 512
    before = server.cpu_seconds()
    start = time.monotonic()
    subprocess.run(["nbdcopy", "--flush", "--connections=2", image, server.uri], check=True)
    seconds = time.monotonic() - start
    return data / 1e6 / seconds, (server.cpu_seconds() - before) / (data / (1 << 30))


def make_image(directory, size):
    """An ext4 image of this machine's programs and libraries: what a guest's disk looks like."""
    tree = os.path.join(directory, "tree")
    os.mkdir(tree)
    total = 0
    for root, _, names in os.walk("/usr/lib"):
        for name in sorted(names):
            path = os.path.join(root, name)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            total += os.path.getsize(path)
            if total > size * 6 // 10:
                break
            target = tree + root
            os.makedirs(target, exist_ok=True)
            shutil.copyfile(path, os.path.join(target, name))
        if total > size * 6 // 10:
            break
    image = os.path.join(directory, "image")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image, f"{size // 1024}k"], check=True)
    shutil.rmtree(tree)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spillway")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", help="raw image to push (default: an ext4 of /usr/lib)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the image that is made (default 1024)")
    parser.add_argument("--directory", help="where servers store (default: the temporary directory)")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="spillway-bench-", dir=options.directory)
    figures = {}
    try:
        image = options.image or make_image(directory, options.size * MIB)
        size = (os.path.getsize(image) + 511) // 512 * 512
        print(f"image: {size / MIB:.0f} MiB, {os.stat(image).st_blocks * 512 / MIB:.0f} MiB of it allocated")
        for turn in range(options.rounds):
            rng = random.Random(turn)
            for name in ["spillway", "nbdkit-memory", "nbdkit-file", "qemu-nbd-qcow2"]:
                work = os.path.join(directory, f"round-{turn}-{name}")
                os.mkdir(work)
                server = Server(name, work, size)
                server.start(options.spillway)
                rate, cpu = push(server, image)
                stored = server.stored() / MIB
                row = {"push MB/s": rate, "push CPU s/GiB": cpu, "stored MiB": stored}
                for block, count in [(65536, 3000), (4096, 10000)]:
                    p50, p99 = latencies(server, block, count, rng)
                    row[f"ack {block // 1024} KiB p50 us"], row[f"ack {block // 1024} KiB p99 us"] = p50, p99
                server.stop()
                shutil.rmtree(work)
                for figure, value in row.items():
                    figures.setdefault(figure, {}).setdefault(name, []).append(value)
        names = list(next(iter(figures.values())))
        print("| " + " | ".join(["median of %d" % options.rounds] + names) + " |")
        print("|---" * (len(names) + 1) + "|")
        for figure, values in figures.items():
            own = statistics.median(values["spillway"])
            cells = []
            for name in names:
                median = statistics.median(values[name])
                if name == "nbdkit-memory" and figure == "stored MiB":
                    cells.append("in memory")
                else:
                    cells.append(f"{median:.1f}" if name == "spillway" else f"{median:.1f} ({median / own:.2f})")
            print("| " + " | ".join([figure] + cells) + " |")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
