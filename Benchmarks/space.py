#!/usr/bin/python3
"""How many bytes on disk: Spillway against raw and qcow2 files, nbdkit's file and its compressed memory.

Every store takes the same requests over a unix socket, ends with a flush, and is measured: what its files take on disk
(du), or for nbdkit's memory what its process holds. Spillway is measured as it stands after the flush, after
`spillway compact`, and after `spillway compact --recompress`, which is what an idle daemon does by itself. "qcow2-zstd" is
what `qemu-img convert -c` makes of the qcow2 afterwards: nobody can write to it.

    Benchmarks/space.py SPILLWAY [--size MIB] [--image FILE] [--directory DIR]
"""
import argparse, os, random, shutil, subprocess, tempfile, time

import nbd

from push import MIB, make_image

BLOCK = 64 << 10


class Store:
    """A store under test, served at a socket of its own."""

    def __init__(self, name, home, size, spillway, releases):
        self.name, self.home, self.spillway = name, home, spillway
        os.mkdir(home)
        self.store, self.socket = os.path.join(home, "store"), os.path.join(home, "s")
        self.view = self.export = ""
        if name == "spillway":
            mode = "snapshot" if releases else "device"
            self.export, self.view = "d", f"nbd+unix:///d@live?socket={self.socket}"
            command = [spillway, "serve", "-j", self.store, "--disk", f"d={size},mode={mode}", "--listen",
                       f"unix:{self.socket}", "--view", f"unix:{self.socket}v", "--admin", f"unix:{self.socket}a",
                       "--allow-release"]
        elif name == "nbdkit-memory-zstd":
            command = ["nbdkit", "-f", "-U", self.socket, "memory", str(size), "allocator=zstd"]
        elif name in ("raw", "nbdkit-file"):
            with open(self.store, "wb") as file:
                file.truncate(size)
            command = ["nbdkit", "-f", "-U", self.socket, "file", self.store] if name == "nbdkit-file" else \
                ["qemu-nbd", "-t", "-k", self.socket, "-f", "raw", "--discard=unmap", self.store]
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.store, str(size)], check=True)
            command = ["qemu-nbd", "-t", "-k", self.socket, "-f", "qcow2", "--discard=unmap", self.store]
        self.log = open(os.path.join(home, "log"), "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.connect().shutdown()
            except nbd.Error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} does not start: {open(self.log.name).read()}")
                time.sleep(0.02)

    @property
    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def connect(self, view=False):
        handle = nbd.NBD()
        handle.connect_uri(self.view if view and self.view else self.uri)
        return handle

    def on_disk(self):
        if self.name == "nbdkit-memory-zstd":
            for line in open(f"/proc/{self.process.pid}/status"):
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        words = subprocess.run(["du", "-s", "-B1", self.store], check=True, capture_output=True, text=True).stdout
        return int(words.split()[0])

    def figures(self):
        """By the name of its row, bytes on disk."""
        found = {self.name: self.on_disk()}
        if self.name == "spillway":
            for title, options in ("spillway, compacted", []), ("spillway, recompressed", ["--recompress"]):
                subprocess.run([self.spillway, "compact", "-j", self.store, *options], check=True, stdout=subprocess.DEVNULL)
                found[title] = self.on_disk()
        self.process.terminate()
        self.process.wait()
        if self.name == "qcow2":
            small = os.path.join(self.home, "small")
            subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "-f", "qcow2",
                            self.store, small], check=True)
            found["qcow2-zstd"] = os.stat(small).st_blocks * 512
        return found


def image_push(store, image, rng):
    subprocess.run(["nbdcopy", "--flush", image, store.uri], check=True)


def paced_push(store, image, rng):
    """The data of the image in pieces of 256 KiB, at 250 MB/s at most."""
    handle = store.connect()
    start, sent, offset = time.monotonic(), 0, 0
    with open(image, "rb") as file:
        size = os.path.getsize(image)
        while offset < size:
            piece = file.read(min(4 * BLOCK, size - offset))
            if piece.count(0) != len(piece):
                handle.pwrite(piece, offset)
                sent += len(piece)
                time.sleep(max(0, start + sent / 250e6 - time.monotonic()))
            offset += len(piece)
    handle.flush()
    handle.shutdown()


def cow_churn(store, image, rng):
    """The old bytes of the clusters that a guest touches first, in any order: half of the image."""
    handle = store.connect()
    with open(image, "rb") as file:
        blocks = list(range(os.path.getsize(image) // BLOCK))
        rng.shuffle(blocks)
        for block in blocks[:len(blocks) // 2]:
            handle.pwrite(os.pread(file.fileno(), BLOCK, block * BLOCK), block * BLOCK)
    handle.flush()
    handle.shutdown()


def overwrites(store, image, rng):
    """An eighth of the disk, written eight times, 64 KiB at a time."""
    write_over(store, image, rng, BLOCK, 8)


def random_4k(store, image, rng):
    """An eighth of the disk, written twice over, 4 KiB at a time and uniformly at random."""
    write_over(store, image, rng, 4096, 2)


def write_over(store, image, rng, block, times):
    handle = store.connect()
    size = os.path.getsize(image)
    count = size // 8 // block
    with open(image, "rb") as file:
        for _ in range(count * times):
            content = os.pread(file.fileno(), block, rng.randrange(size // block) * block)
            handle.pwrite(content, rng.randrange(count) * block)
    handle.flush()
    handle.shutdown()


def read_and_release(store, image, rng):
    """The image is pushed, then read from start to end and trimmed behind the reader."""
    image_push(store, image, rng)
    handle = store.connect(view=True)
    size = os.path.getsize(image) // MIB * MIB
    for offset in range(0, size, MIB):
        handle.pread(MIB, offset)
        handle.trim(MIB, offset)
    handle.flush()
    handle.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spillway")
    parser.add_argument("--image", help="raw image to push (default: an ext4 of /usr/lib)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the image that is made (default 1024)")
    parser.add_argument("--directory", help="where stores lie (default: the temporary directory)")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="spillway-space-", dir=options.directory)
    stores = ["spillway", "raw", "qcow2", "nbdkit-file", "nbdkit-memory-zstd"]
    try:
        image = options.image or make_image(directory, options.size * MIB)
        sparse = os.path.join(directory, "sparse")
        with open(image, "rb") as source, open(sparse, "wb") as target:
            target.truncate(1024 * MIB)
            for index in range(12):
                target.seek(index * 85 * MIB)
                target.write(os.pread(source.fileno(), MIB, index * 3 * MIB + 8 * MIB))
        print(f"image: {os.path.getsize(image) / MIB:.0f} MiB, {os.stat(image).st_blocks * 512 / MIB:.0f} MiB allocated")
        table = {}
        work = [("OS image", image_push, image), ("OS image, 250 MB/s", paced_push, image),
                ("sparse push", image_push, sparse), ("copy-before-write", cow_churn, image),
                ("64 KiB overwrites", overwrites, image), ("random 4 KiB", random_4k, image),
                ("release as you read", read_and_release, image)]
        for title, body, content in work:
            size = (os.path.getsize(content) + 511) // 512 * 512
            for name in stores:
                store = Store(name, os.path.join(directory, "run"), size, options.spillway, body is read_and_release)
                try:
                    body(store, content, random.Random(title))
                    for row, figure in store.figures().items():
                        table.setdefault(row, {})[title] = figure
                finally:
                    if store.process.poll() is None:
                        store.process.kill()
                        store.process.wait()
                    shutil.rmtree(store.home)
        titles = [title for title, _, _ in work]
        print("\n| MiB on disk | " + " | ".join(titles) + " |")
        print("|---" * (len(titles) + 1) + "|")
        for row, figures in table.items():
            print(f"| {row} | " + " | ".join(f"{figures[title] / MIB:.1f}" for title in titles) + " |")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
