import Foundation
import Peers
import TestKit

/// A small filesystem that a test can fill.
enum FullDisk: String {
  case tmpfs
  case ext4

  static let canTmpfs = mounts(.tmpfs)
  static let canExt4 = mounts(.ext4)

  /// Whether this user, here, may mount one in a namespace of its own: root or not, containers may forbid it.
  var isPossible: Bool { self == .tmpfs ? Self.canTmpfs : Self.canExt4 }

  private static func mounts(_ filesystem: FullDisk) -> Bool {
    do {
      let directory = try TemporaryDirectory()
      let mount = directory.file("probe")
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: false)
      let command = try filesystem.launcher(mount, mebibytes: 8, left: 8) + ["/bin/true"]
      return try ChildProcess(command[0], Array(command[1...])).finish().status == .exited(0)
    } catch { return false }
  }

  /// A command line that mounts such a filesystem at `mount`, fills it with ballast but for `left` MiB and executes what
  /// follows. The file of an ext4 lies beside the mount point.
  func launcher(_ mount: String, mebibytes: Int, left: Int) throws -> [String] {
    let mounting =
      switch self {
      case .tmpfs: "mount -t tmpfs -o size=\(mebibytes)m none \"$0\""
      // Without reserved blocks and with a small journal of its own: what is free is free.
      case .ext4:
        """
        truncate -s \(mebibytes)M "$0.image" && \(try Program.mke2fs.path()) -q -t ext4 -m 0 -J size=1 "$0.image" \
          && mount -o loop "$0.image" "$0"
        """
      }
    return try inNamespace(
      mount,
      """
      { \(mounting); } >&2 || exit 99
      free=$(df -k --output=avail "$0" | tail -n 1)
      [ "$free" -le \(left * 1024) ] || head -c $(((free - \(left * 1024)) * 1024)) /dev/zero > "$0/ballast"
      """)
  }

  /// A command line that mounts the ext4 that `launcher` left, without its ballast, and executes what follows.
  func launcherAgain(_ mount: String) throws -> [String] {
    try inNamespace(mount, "{ mount -o loop \"$0.image\" \"$0\" && rm \"$0/ballast\"; } >&2 || exit 99")
  }

  private func inNamespace(_ mount: String, _ script: String) throws -> [String] {
    let asRoot = geteuid() == 0 ? [] : ["--map-root-user"]
    return try [Program.unshare.path()] + asRoot + [
      "--mount", "/bin/sh", "-c", script + "\nexec \"$@\"", mount,
    ]
  }
}
