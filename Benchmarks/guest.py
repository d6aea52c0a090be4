#!/usr/bin/python3
"""What a guest feels: the latency of its writes while a backup job (sync=none) copies old data away before them.

qemu's storage daemon holds the guest's disk and the job; fio is the guest, through an NBD export of the disk that was
there before the job. Every write is the first to its 64 KiB, so each waits until qemu has read those 64 KiB and the
target has acknowledged them. Each round starts every target, and every job, anew, in turn, so that drift of the machine
hits all; printed are medians of the rounds, and each figure's ratio to Spillway's. All over unix sockets.

    Benchmarks/guest.py SPILLWAY [--rounds N] [--image FILE] [--directory DIR]
"""
import argparse, json, os, random, shutil, socket, statistics, subprocess, tempfile, time

from push import MIB, Server

CLUSTER = 65536
NO_JOB, FLEECING = "no-job", "qcow2-fleecing"
TARGETS = [NO_JOB, "spillway", "nbdkit-memory", "nbdkit-file", FLEECING]
# Writes of a round at each depth: half of the disk's clusters are for each.
DEPTHS = [1, 16]
BUDGETS = [("nbdkit-memory", depth, percentile, 1.1) for depth in DEPTHS for percentile in ("p50", "p99")]
BUDGETS += [(FLEECING, 16, "p99", 0.4)]


class Monitor:
    """QMP, as much of it as this needs."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self.socket.sendall((json.dumps({"execute": command, "arguments": arguments}) + "\n").encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise SystemExit(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Hypervisor:
    """qemu's storage daemon with the guest's disk as node `disk`, and the door by which the guest writes."""

    def __init__(self, image, size, directory):
        self.size, self.directory = size, directory
        self.door = os.path.join(directory, "door")
        monitor = os.path.join(directory, "qmp")
        self.log = open(os.path.join(directory, "qemu-log"), "wb")
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=q,path={monitor},server=on,wait=off",
             "--monitor", "chardev=q,mode=control",
             "--blockdev", f"driver=file,node-name=file,filename={image}",
             "--blockdev", "driver=raw,node-name=disk,file=file",
             "--nbd-server", f"addr.type=unix,addr.path={self.door},max-connections=4",
             "--export", "type=nbd,id=door,node-name=disk,name=disk,writable=on"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.door):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"qemu-storage-daemon does not start: {open(self.log.name).read()}")
            time.sleep(0.02)
        self.monitor = Monitor(monitor)

    def start_job(self, name, server):
        if name == NO_JOB:
            return
        if name == FLEECING:
            # As qemu documents it: what is not in the file is read from the disk behind it.
            file = os.path.join(self.directory, "fleece.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file, str(self.size)], check=True)
            self.monitor.execute("blockdev-add", **{
                "driver": "qcow2", "node-name": "target", "backing": "disk",
                "file": {"driver": "file", "filename": file}})
        else:
            self.monitor.execute("blockdev-add", **{
                "driver": "nbd", "node-name": "target", "export": server.export, "reconnect-delay": 30,
                "server": {"type": "unix", "path": server.socket}})
        self.monitor.execute("blockdev-backup", **{
            "job-id": "moment", "device": "disk", "target": "target", "sync": "none", "auto-dismiss": False})

    def job_lives(self, name):
        jobs = self.monitor.execute("query-jobs")
        return name == NO_JOB or [(job["status"], job.get("error")) for job in jobs] == [("running", None)]

    def stop(self):
        self.process.terminate()
        self.process.wait()


def make_disk(image, size):
    """A disk full of this machine's programs and libraries. In a hole there would be nothing to copy."""
    with open(image, "wb") as disk:
        for root, folders, names in os.walk("/usr/lib"):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        disk.write(file.read(size - disk.tell()))
                if disk.tell() == size:
                    return
    raise SystemExit("/usr/lib does not fill the disk: take a smaller --size, or an --image")


def write(door, directory, size, depth, count, seed):
    """fio's percentiles of `count` writes of 4 KiB, each to 64 KiB of its own, in the depth's own half of the disk."""
    rng = random.Random(seed)
    clusters = size // CLUSTER // 2
    chosen = rng.sample(range(DEPTHS.index(depth) * clusters, (DEPTHS.index(depth) + 1) * clusters), count)
    # fio's own random offsets come twice when they are aligned to more than the block: a list is sure.
    writes = os.path.join(directory, f"writes-{depth}")
    with open(writes, "w") as file:
        file.write("fio version 2 iolog\ndisk add\ndisk open\n")
        file.writelines(f"disk write {c * CLUSTER + rng.randrange(CLUSTER // 4096) * 4096} 4096\n" for c in chosen)
    answer = subprocess.run(
        ["fio", "--name=guest", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={door}", f"--size={size}",
         f"--read_iolog={writes}", "--replay_no_stall=1", f"--iodepth={depth}", "--refill_buffers",
         "--percentile_list=50:99:99.9", "--output-format=json"],
        check=True, capture_output=True, text=True).stdout
    told = json.loads(answer[answer.index("{"):])["jobs"][0]["write"]
    if told["total_ios"] != count:
        raise SystemExit(f"fio wrote {told['total_ios']} times instead of {count}")
    percentiles = told["clat_ns"]["percentile"]
    return {
        "p50": percentiles["50.000000"] / 1000, "p99": percentiles["99.000000"] / 1000,
        "p99.9": percentiles["99.900000"] / 1000, "writes/s": told["iops"]}


def measure(name, options, image, size, directory, seed):
    """One round of one target: a row of figures."""
    server = None
    if name not in (NO_JOB, FLEECING):
        server = Server(name, directory, size, mode="snapshot")
        server.start(options.spillway)
    hypervisor = Hypervisor(image, size, directory)
    hypervisor.start_job(name, server)
    row = {}
    for depth in DEPTHS:
        for figure, value in write(hypervisor.door, directory, size, depth, options.writes, seed).items():
            row[f"{depth} in flight, {figure}{' us' if figure[0] == 'p' else ''}"] = value
    # A job that failed copies nothing: its guest would look quick.
    if not hypervisor.job_lives(name):
        raise SystemExit(f"{name}: the job failed: {hypervisor.monitor.execute('query-jobs')}")
    hypervisor.stop()
    if server:
        server.stop()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spillway")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--writes", type=int, default=1500, help="writes of a round at each depth (default 1500)")
    parser.add_argument("--image", help="raw image for the guest's disk; it is written to (default: /usr/lib)")
    parser.add_argument("--size", type=int, default=512, help="MiB of the disk that is made (default 512)")
    parser.add_argument("--directory", help="where disks and targets are (default: the temporary directory)")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="spillway-bench-", dir=options.directory)
    figures = {}
    try:
        image = options.image or os.path.join(directory, "disk")
        if not options.image:
            make_disk(image, options.size * MIB)
        size = os.path.getsize(image) // CLUSTER * CLUSTER
        os.truncate(image, size)
        if options.writes > size // 2 // CLUSTER:
            raise SystemExit("--writes: the disk has not so many clusters")
        # The guest's disk is read from memory: what is left is the path of the copy.
        with open(image, "rb") as file:
            while file.read(16 * MIB):
                pass
        for turn in range(options.rounds):
            # Nobody is always first.
            for name in TARGETS[turn % len(TARGETS):] + TARGETS[:turn % len(TARGETS)]:
                work = os.path.join(directory, f"{turn}-{name}")
                os.mkdir(work)
                os.sync()
                for figure, value in measure(name, options, image, size, work, turn + 1).items():
                    figures.setdefault(figure, {}).setdefault(name, []).append(value)
                shutil.rmtree(work)
        report(options, figures)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def report(options, figures):
    medians = {f: {name: statistics.median(v) for name, v in values.items()} for f, values in figures.items()}
    print("| " + " | ".join([f"median of {options.rounds}"] + TARGETS) + " |")
    print("|---" * (len(TARGETS) + 1) + "|")
    for figure, values in medians.items():
        cells = [f"{values[n]:.0f}" if n == "spillway" else f"{values[n]:.0f} ({values[n] / values['spillway']:.2f})"
                 for n in TARGETS]
        print("| " + " | ".join([figure] + cells) + " |")
    print("\n| Spillway / other | in flight | ratio of medians | ratios of the rounds | budget |")
    print("|---" * 5 + "|")
    for other, depth, percentile, budget in BUDGETS:
        figure = f"{depth} in flight, {percentile} us"
        pairs = sorted(a / b for a, b in zip(figures[figure]["spillway"], figures[figure][other]))
        ratio = medians[figure]["spillway"] / medians[figure][other]
        verdict = "kept" if ratio <= budget else "missed"
        print(f"| {other}, {percentile} | {depth} | {ratio:.2f} | {pairs[0]:.2f}–{pairs[-1]:.2f} "
              f"| ≤ {budget}: {verdict} |")


if __name__ == "__main__":
    main()
