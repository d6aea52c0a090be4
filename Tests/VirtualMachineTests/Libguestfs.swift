import Peers

/// libguestfs: a small Linux in a qemu of its own that reads somebody else's disk.
enum Libguestfs {
  /// Without libvirt, and without KVM even where it is offered: one that does not work hangs it.
  static let environment = ["LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"]

  /// Its words for an NBD export on a unix socket.
  static func disk(_ export: String, socket: String) -> [String] {
    ["--format=raw", "-a", "nbd:///\(export)?socket=\(socket)"]
  }

  /// Packs all files of the filesystem on `disk` into `archive`.
  static func pack(_ disk: [String], into archive: String) throws {
    try Program.guestfish.start(
      ["--ro"] + disk + ["-m", "/dev/sda", "tar-out", "/", archive], environment: environment
    ).finish(within: .seconds(400)).succeeded()
  }
}
