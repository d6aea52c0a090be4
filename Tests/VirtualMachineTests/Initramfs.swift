import Foundation
import Peers
import TestKit

/// Kernel and first filesystem of a guest: Debian's kernel, the modules that a virtio disk needs, busybox and one script.
struct Initramfs {
  /// The kernel's file, which qemu starts.
  let kernel: String
  /// The archive that the kernel unpacks into memory.
  let archive: String

  /// Packs `script` as the guest's first process. Uses the newest of the kernels installed here.
  init(running script: String, in directory: TemporaryDirectory) throws {
    let files = FileManager.default
    let kernels = try files.contentsOfDirectory(atPath: "/boot").filter { $0.hasPrefix("vmlinuz-") }
    guard let newest = kernels.max(by: { $0.compare($1, options: .numeric) == .orderedAscending }) else {
      throw PeerError("there is no kernel in /boot: install linux-image-cloud-amd64 (`make test-vm` does)")
    }
    kernel = "/boot/\(newest)"
    archive = directory.file("initramfs")
    let version = String(newest.dropFirst("vmlinuz-".count))

    let root = directory.file("initramfs-root")
    for folder in ["bin", "proc", "sys", "dev", "disk"] {
      try files.createDirectory(atPath: "\(root)/\(folder)", withIntermediateDirectories: true)
    }
    try files.copyItem(atPath: Program.busybox.path(), toPath: "\(root)/bin/busybox")
    var names: [String] = []
    for module in try Self.modules(["virtio_pci", "virtio_blk", "ext4"], of: version) {
      let name = module.split(separator: "/").last.map(String.init) ?? module
      guard !names.contains(name) else { continue }
      names.append(name)
      try files.copyItem(atPath: module, toPath: "\(root)/\(name)")
    }
    let insertion = names.map { "/bin/busybox insmod /\($0)\n" }.joined()
    try Data("#!/bin/busybox sh\n\(insertion)\(script)".utf8).write(to: URL(fileURLWithPath: "\(root)/init"))
    try files.setAttributes([.posixPermissions: 0o755], ofItemAtPath: "\(root)/init")
    try ChildProcess(
      "/bin/sh", ["-c", "cd \"$0\" && find . | cpio --quiet -o -H newc > \"$1\"", root, archive]
    ).finish().succeeded()
  }

  /// The files of kernel modules and of all that they stand on, in the order of insertion; built-in ones have none.
  private static func modules(_ wanted: [String], of version: String) throws -> [String] {
    var found: [String] = []
    for name in wanted {
      let told = try Program.modprobe.run(["--show-depends", "--set-version", version, name])
      for line in told.outputText.split(separator: "\n") where line.hasPrefix("insmod ") {
        found.append(String(line.split(separator: " ")[1]))
      }
    }
    return found
  }
}
