import Foundation
import Peers
import TestKit
import Testing

// The guest does one thing: round after round it writes a file, syncs, gives it its name, writes the number of the round
// over the one before in place, removes the file of 500 rounds ago, syncs, and says on its console that the round
// is done. So at any instant it is known what a crash at that instant must leave: every file of the rounds that were
// announced (and are not that old) in full, and nothing of a round that had not begun. The copies in place
// and the blocks of removed files, which are used again, are old bytes that only the journal has.

/// A running Linux that writes to its disk all the time. For one thread at a time.
final class LinuxGuest {
  let machine: QEMUMachine
  /// The raw image of its disk, which has one ext4 filesystem and no partitions.
  let image: String
  private let orders: FileHandle

  static let imageBytes: UInt64 = 96 << 20
  /// How many rounds a file lives.
  static let keptRounds = 500

  /// Boots it and returns when it has begun to write.
  init(in directory: TemporaryDirectory) throws {
    image = directory.file("guest.raw")
    try Self.makeFilesystem(image, in: directory)
    let boot = try Initramfs(running: Self.program, in: directory)
    let pipe = directory.file("orders")
    for end in ["in", "out"] {
      guard mkfifo("\(pipe).\(end)", 0o600) == 0 else {
        throw PeerError("cannot make the pipe \(pipe).\(end)")
      }
    }
    machine = try QEMUMachine(
      [.init(image)], in: directory, name: "guest",
      processor: [
        "-m", "256", "-no-reboot", "-kernel", boot.kernel, "-initrd", boot.archive,
        "-append", "console=ttyS0 quiet panic=-1",
        "-chardev", "file,id=console,path=/dev/stdout", "-serial", "chardev:console",
        "-chardev", "pipe,id=orders,path=\(pipe)", "-serial", "chardev:orders",
      ])
    // Both ends: it never blocks, and the pipe lives as long as we do.
    guard let orders = FileHandle(forUpdatingAtPath: "\(pipe).in") else {
      throw PeerError("cannot open the pipe \(pipe).in")
    }
    self.orders = orders
    try waitForRound(1, within: .seconds(180))
  }

  /// The last round that it said was done; its file was on the disk before it said so.
  var lastRound: Int { machine.child.errorLines.compactMap(Self.round).last ?? 0 }

  /// Waits until round `number` is done: the guest can write.
  func waitForRound(_ number: Int, within limit: Duration = .seconds(120)) throws {
    try machine.child.waitForErrorLine(containing: "guest: wrote \(number)\r", within: limit)
  }

  /// Has it do `count` rounds more.
  func waitForMoreRounds(_ count: Int) throws { try waitForRound(lastRound + count) }

  /// Has it make a file `name` at the top of its disk, and returns the round at whose beginning it did.
  func make(_ name: String) throws -> Int {
    try orders.write(contentsOf: Data("\(name)\n".utf8))
    let said = try machine.child.waitForErrorLine(
      containing: "guest: made \(name) in round ", within: .seconds(60))
    guard let round = said.split(whereSeparator: \.isWhitespace).last.flatMap({ Int($0) }) else {
      throw PeerError("the guest says: \(said)")
    }
    return round
  }

  /// What its kernel complained of: a failed request, a damaged filesystem.
  var complaints: [String] {
    machine.child.errorLines.filter { line in
      [
        "I/O error", "EXT4-fs error", "EXT4-fs warning", "Remounting", "blocked for more", "Kernel panic",
        "Oops",
      ]
      .contains(where: line.contains)
    }
  }

  /// Expects the file that it made at the beginning of `round` on its own disk, once its qemu has ended: that it was not
  /// in a view says something only then.
  func expectOnDisk(
    _ name: String, madeInRound round: Int, _ location: SourceLocation = #_sourceLocation
  ) throws {
    let found = try Program.debugfs.run(["-R", "cat /\(name)", image]).outputText
    #expect(found == "made in round \(round)\n", sourceLocation: location)
  }

  /// The bytes of the file that it writes in `round`.
  static func content(ofRound round: Int) -> [UInt8] {
    let line = Array("file \(round) of the guest\n".utf8)
    let byteCount = 4000 * (1 + round % 16)
    return Array(repeatElement(line, count: byteCount / line.count + 1).joined().prefix(byteCount))
  }

  private static func round(_ line: String) -> Int? {
    guard line.hasPrefix("guest: wrote ") else { return nil }
    return Int(line.dropFirst("guest: wrote ".count).filter(\.isNumber))
  }

  private static func makeFilesystem(_ image: String, in directory: TemporaryDirectory) throws {
    let tree = directory.file("guest-tree")
    let files = FileManager.default
    try files.createDirectory(atPath: "\(tree)/written", withIntermediateDirectories: true)
    try Data(repeating: 0x2e, count: 4096).write(to: URL(fileURLWithPath: "\(tree)/round"))
    try Program.mke2fs.run(["-q", "-t", "ext4", "-d", tree, image, "\(imageBytes >> 10)k"])
  }

  private static let program = """
    /bin/busybox --install -s /bin
    mount -t proc none /proc
    mount -t sysfs none /sys
    mount -t devtmpfs none /dev
    mount -t ext4 /dev/vda /disk || { echo "guest: has no disk"; poweroff -f; }
    stty -echo < /dev/ttyS1
    while read -r order; do echo "$order" > /order.new; mv /order.new /order; done < /dev/ttyS1 &
    n=0
    while :; do
      n=$((n + 1))
      if [ -f /order ]; then
        order=$(cat /order)
        rm /order
        echo "made in round $n" > "/disk/$order"
        sync
        echo "guest: made $order in round $n"
      fi
      yes "file $n of the guest" | head -c $((4000 * (1 + n % 16))) > /disk/new
      sync
      mv /disk/new "/disk/written/$n"
      yes "round $n" | head -c 4096 | dd of=/disk/round bs=4096 conv=notrunc 2> /dev/null
      rm -f "/disk/written/$((n - \(keptRounds)))"
      sync
      echo "guest: wrote $n"
    done

    """
}
