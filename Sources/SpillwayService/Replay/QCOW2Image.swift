internal import Bytes
internal import Glibc
internal import NBDSource

/// A qcow2 file that is written through a qemu-nbd of our own, over a socket that nobody else can reach.
///
/// It inherits the listening socket, to which we are connected before it starts: there is no moment to wait for, and when it
/// dies the connection breaks. It ends when we hang up.
final class QCOW2Image {
  private let server: ToolProgram
  private let target: NBDTarget

  /// Makes `path`, which is there and empty, a qcow2 file for a disk of `byteCount` bytes.
  static func make(_ path: String, byteCount: UInt64) throws(ServiceError) {
    let start = ChildProgram.Start(
      try program("qemu-img"), ["create", "-q", "-f", "qcow2", path, String(byteCount)])
    try ToolProgram(start, name: "qemu-img").finish()
  }

  /// Opens the qcow2 file at the absolute path `path` for writing. `undo` gets a way to end its server from any thread.
  init(
    opening path: String, undo: (@escaping @Sendable () -> Void) -> Void
  ) throws(ServiceError) {
    let program = try Self.program("qemu-nbd")
    let folder = try Self.privateFolder()
    let socket = folder + "/nbd"
    defer {
      unsafe unlink(socket)
      unsafe rmdir(folder)
    }
    let listening = try StreamSocket.listen(path: socket, backlog: 1).duplicate()
    let connection = try StreamSocket.connect(path: socket).duplicate()
    var start = ChildProgram.Start.shell("LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", variables: [:])
    start.arguments += [
      "sh", program, "--format=qcow2", "--discard=unmap", "--cache=writeback", "--", path,
    ]
    start.descriptors = [(ours: listening, its: 3)]
    do throws(ServiceError) {
      defer { Glibc.close(listening) }
      server = try ToolProgram(start, name: "qemu-nbd")
    } catch {
      Glibc.close(connection)
      throw error
    }
    let server = server
    undo { server.terminate() }
    do throws(SourceError) {
      target = try NBDTarget(adopting: connection, named: path)
    } catch {
      let said = server.end()
      throw .failed(said.isEmpty ? error.message : said)
    }
  }

  /// Bytes of its disk.
  var byteCount: UInt64 { target.byteCount }

  /// What a replay writes to. `isFresh`: it was just made.
  func image(isFresh: Bool) -> ExportImage { ExportImage(target, isFresh: isFresh) }

  /// Hangs up and waits until the file is closed in order.
  func close() throws(ServiceError) {
    target.close()
    try server.finish()
  }

  /// Ends the server, whatever is unfinished. Returns what it said.
  @discardableResult
  func abandon() -> String {
    target.close()
    return server.end()
  }

  private static func program(_ name: String) throws(ServiceError) -> String {
    guard let path = ToolProgram.path(of: name) else {
      throw .failed("a .qcow2 is written by \(name), which is not there; install the package qemu-utils")
    }
    return path
  }

  /// Throws unless all programs are there.
  static func requirePrograms() throws(ServiceError) {
    for name in ["qemu-img", "qemu-nbd"] { _ = try program(name) }
  }

  private static func privateFolder() throws(ServiceError) -> String {
    // SAFETY: getenv's text is copied at once; mkdtemp changes the letters of the array that it is lent.
    let told = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? ""
    // A socket's path has 107 bytes at most.
    let place = (1...80).contains(told.utf8.count) ? told : "/tmp"
    var template = Array("\(place)/spillway-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else {
      throw .failed("no directory for a socket can be made in \(place): \(SystemError.text(errno))")
    }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
