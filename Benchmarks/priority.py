#!/usr/bin/python3
"""What a full backup job costs readers of the source, and what its yielding to them brings.

Usage: priority.py SPILLWAY [MEBIBYTES]

A qemu pushes a whole disk as fast as it goes while one client reads 4 KiB at random over the view. With `static` nothing
yields, and nobody is asked whether a job lives; with `job=` the job is slowed down while reads are under way, and every
read is confirmed. Both in turn, three rounds; figures are of the reads that took the source or waited beside it."""

import json, os, random, shutil, socket, statistics, subprocess, sys, tempfile, time
import nbd

SPILLWAY, SIZE = sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else 1024) << 20
READ_SECONDS = 4


class Monitor:
    def __init__(self, path):
        deadline = time.monotonic() + 20
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try: self.socket.connect(path); break
            except OSError:
                if time.monotonic() > deadline: raise
                time.sleep(0.02)
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer: return answer["return"]
            if "error" in answer: raise RuntimeError(answer["error"]["desc"])


def make_image(path):
    """The beginnings of the files below /usr/lib, as guests have them."""
    with open(path, "wb") as image:
        left = SIZE
        for folder, folders, names in os.walk("/usr/lib"):
            folders.sort()
            for name in sorted(names):
                file = os.path.join(folder, name)
                if left and os.path.isfile(file) and not os.path.islink(file):
                    with open(file, "rb") as part: left -= image.write(part.read(min(left, 4 << 20)))
        image.truncate(SIZE)


def run(folder, kind):
    journal = f"{folder}/journal"
    shutil.rmtree(journal, ignore_errors=True)
    qemu = subprocess.Popen([
        "qemu-storage-daemon",
        "--chardev", f"socket,id=a,path={folder}/a.sock,server=on,wait=off", "--monitor", "chardev=a,mode=control",
        "--chardev", f"socket,id=b,path={folder}/b.sock,server=on,wait=off", "--monitor", "chardev=b,mode=control",
        "--blockdev", f"driver=file,node-name=file,filename={folder}/disk.raw",
        "--blockdev", "driver=raw,node-name=src,file=file",
        "--nbd-server", f"addr.type=unix,addr.path={folder}/live.sock",
        "--export", "type=nbd,id=live,node-name=src,name=live"])
    monitor = Monitor(f"{folder}/a.sock")
    source = f"vda=nbd+unix:///live?socket={folder}/live.sock," + ("static" if kind == "static" else "job=push")
    more = [] if kind == "static" else ["--qmp", f"{folder}/b.sock"]
    daemon = subprocess.Popen(
        [SPILLWAY, "serve", "-j", journal, "--disk", f"vda={SIZE},mode=snapshot", "--source", source] + more,
        stderr=subprocess.PIPE, text=True)
    while "ready" not in daemon.stderr.readline(): pass
    view = nbd.NBD()
    view.connect_uri(f"nbd+unix:///vda@live?socket={journal}/view.sock")
    monitor.ask("blockdev-add", driver="nbd", **{"node-name": "target"}, export="vda",
                server={"type": "unix", "path": f"{journal}/ingest.sock"})
    monitor.ask("blockdev-backup", **{"job-id": "push", "auto-dismiss": False}, device="src", target="target", sync="full")
    begun, latencies, running = time.monotonic(), [], True
    while running and time.monotonic() < begun + READ_SECONDS:
        for _ in range(50):
            at = random.randrange(SIZE // 4096) * 4096
            before = time.monotonic()
            view.pread(4096, at)
            latencies.append((time.monotonic() - before) * 1e6)
        running = monitor.ask("query-jobs")[0]["status"] == "running"
    read_seconds = time.monotonic() - begun
    while monitor.ask("query-jobs")[0]["status"] == "running": time.sleep(0.02)
    seconds = time.monotonic() - begun
    status = json.loads(subprocess.run([SPILLWAY, "status", "-j", journal, "--json"], capture_output=True, text=True).stdout)
    for process in (daemon, qemu):
        process.terminate(); process.wait()
    latencies.sort()
    at = lambda share: latencies[int(len(latencies) * share)]
    return {"reads/s": len(latencies) / read_seconds, "p50 us": at(0.5), "p99 us": at(0.99),
            "job s": seconds, "of the source": status["readsFromSource"] / len(latencies)}


with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
    make_image(f"{folder}/disk.raw")
    rounds = {"static": [], "job": []}
    for _ in range(3):
        for kind in rounds: rounds[kind].append(run(folder, kind))
    names = list(rounds["job"][0])
    print("| median of 3 | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for kind, label in (("static", "the job goes on"), ("job", "the job yields, reads are confirmed")):
        print(f"| {label} | " + " | ".join(f"{statistics.median(r[n] for r in rounds[kind]):.2f}" for n in names) + " |")
