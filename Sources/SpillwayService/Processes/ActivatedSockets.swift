internal import Glibc
internal import NBDServer

/// The sockets that systemd, or who acts as it, has opened for this process: sd_listen_fds(3).
///
/// They start at descriptor 3, LISTEN_FDS says how many there are, and LISTEN_PID whom they are for. By its name in
/// LISTEN_FDNAMES (FileDescriptorName= of the socket unit) a socket is for readers: `view`, or what ends in `view.socket`,
/// which is the name that a unit has by itself. All others show every export.
enum ActivatedSockets {
  /// One socket.
  struct Socket {
    let descriptor: Int32
    let address: ListenAddress
    let showsViewsOnly: Bool
  }

  private static let firstDescriptor: Int32 = 3
  private static let countMax: Int32 = 64

  /// The sockets, closed in programs that are started, and the variables gone. For the only thread of the process.
  static func take() throws(ServiceError) -> [Socket] {
    defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsafe unsetenv(name) } }
    guard let process = variable("LISTEN_PID").flatMap({ pid_t($0) }), process == getpid() else { return [] }
    guard let count = variable("LISTEN_FDS").flatMap({ Int32($0) }), (0...countMax).contains(count) else {
      throw .usage("LISTEN_FDS is no number from 0 to \(countMax)")
    }
    let names = variable("LISTEN_FDNAMES")?.split(separator: ":", omittingEmptySubsequences: false) ?? []
    var sockets: [Socket] = []
    for index in 0..<Int(count) {
      let descriptor = firstDescriptor + Int32(index)
      guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
        throw .usage("LISTEN_FDS promises descriptor \(descriptor), which is not open")
      }
      let name = index < names.count ? names[index] : ""
      do throws(ServerError) {
        sockets.append(
          Socket(
            descriptor: descriptor, address: try ListenAddress(listening: descriptor),
            showsViewsOnly: name == "view" || name.hasSuffix("view.socket")))
      } catch {
        throw .usage("LISTEN_FDS: \(error.description)")
      }
    }
    return sockets
  }

  private static func variable(_ name: String) -> String? {
    // SAFETY: there is no other thread that could change the environment meanwhile.
    unsafe getenv(name).map { unsafe String(cString: $0) }
  }
}
