import Glibc

/// The real programs that tests and demo talk to, each with the Debian package that holds it.
package enum Program: String, CaseIterable, Sendable {
  case qemuStorageDaemon = "qemu-storage-daemon"
  case qemuSystem = "qemu-system-x86_64"
  case qemuImg = "qemu-img"
  case qemuNBD = "qemu-nbd"
  case nbdkit = "nbdkit"
  case nbdcopy = "nbdcopy"
  case nbdinfo = "nbdinfo"
  case fio = "fio"
  case python = "python3"
  case mke2fs = "mke2fs"
  case e2fsck = "e2fsck"
  case debugfs = "debugfs"
  case gzip = "gzip"
  case unshare = "unshare"
  case tar = "tar"
  case busybox = "busybox"
  case modprobe = "modprobe"
  case guestfish = "guestfish"
  case virtDF = "virt-df"

  /// The Debian package that brings it.
  package var debianPackage: String {
    switch self {
    case .qemuStorageDaemon: "qemu-system-common"
    case .qemuSystem: "qemu-system-x86"
    case .qemuImg, .qemuNBD: "qemu-utils"
    case .nbdkit: "nbdkit"
    case .nbdcopy, .nbdinfo: "libnbd-bin"
    case .fio: "fio"
    case .python: "python3-libnbd"
    case .mke2fs, .e2fsck, .debugfs: "e2fsprogs"
    case .gzip: "gzip"
    case .unshare: "util-linux"
    case .tar: "tar"
    case .busybox: "busybox-static"
    case .modprobe: "kmod"
    case .guestfish: "guestfish"
    case .virtDF: "guestfs-tools"
    }
  }

  /// Where it is. A missing one is an error that names its package, never a reason to skip a test.
  ///
  /// Only the system's own folders are searched: a python3 of a version manager has no libnbd, and an ordinary
  /// user's PATH lacks the folders for administrators, where mke2fs lives.
  package func path() throws(PeerError) -> String {
    for folder in ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"] {
      let candidate = "\(folder)/\(rawValue)"
      if access(candidate, X_OK) == 0 { return candidate }
    }
    throw PeerError(
      "\(rawValue) is missing: install the Debian package \(debianPackage) (`make packages`; what only guests need, `make test-vm`)"
    )
  }

  /// Runs it to its end and expects success.
  @discardableResult
  package func run(_ arguments: [String], within limit: Duration = .seconds(120)) throws -> FinishedProcess {
    try start(arguments).finish(within: limit).succeeded()
  }

  /// Starts it.
  package func start(_ arguments: [String], environment: [String: String] = [:]) throws -> ChildProcess {
    try ChildProcess(path(), arguments, environment: environment)
  }
}
