internal import Bytes
internal import CSupport
internal import ExtentJournal
internal import FoundationEssentials
internal import Glibc
internal import QEMUMonitor

// The runtime directory of a session: its lock, its record, its sockets.
//
// The directory is named for the monitor's address, so that the next session on the same virtual machine finds what the
// last one left. The lock says whether its owner lives: the parent holds it, and the engine inherits it, so that it is
// free only when both are gone. The record is replaced as a whole and synced before what it says is done.

/// The runtime directory of a session, held under its lock.
package final class SessionRecord {
  /// The directory's path.
  package let path: String
  /// The descriptor that holds the lock, for the engine to inherit.
  package let lockDescriptor: Int32

  private var recordPath: String { path + "/session.json" }

  /// Takes the directory for the monitor at `address`, and makes it if it is not there. Throws when another session has
  /// it.
  package init(for address: MonitorAddress, in place: String? = nil) throws(ServiceError) {
    let parent = place ?? Self.defaultPlace
    path = parent + "/" + Self.key(address)
    // Others may pass through: qemu runs as a user of its own often enough. They see no names.
    try Self.makeDirectory(parent, mode: 0o711)
    try Self.makeDirectory(path, mode: 0o711)
    // SAFETY: the path is read during the call only.
    lockDescriptor = unsafe spw_open(path + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard lockDescriptor >= 0 else { throw Self.cannot("make", path + "/lock", errno) }
    guard flock(lockDescriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw .failed(
        "another session of spillway uses \(address); wait for its end (its files are in \(path))")
    }
  }

  deinit { close(lockDescriptor) }

  /// Where runtime directories lie: for root `/run/spillway`, else in the user's own runtime directory.
  package static var defaultPlace: String {
    let variables = ProcessInfo.processInfo.environment
    if let told = variables["SPILLWAY_RUNTIME_DIR"], !told.isEmpty { return told }
    if geteuid() == 0 { return "/run/spillway" }
    if let own = variables["XDG_RUNTIME_DIR"], !own.isEmpty { return own + "/spillway" }
    return "/tmp/spillway-\(geteuid())"
  }

  private static func key(_ address: MonitorAddress) -> String {
    let bytes = Array(address.description.utf8)
    // SAFETY: the span is used within the call only.
    let hash = unsafe Checksum.xxh3(bytes.span.bytes, seed: 0)
    let digits = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// What the last session left here; nil when it left nothing.
  package func read() throws(ServiceError) -> SessionPlan? {
    guard let bytes = FileManager.default.contents(atPath: recordPath) else { return nil }
    guard let value = JSONValue(parsing: Array(bytes)) else {
      throw .failed("the record \(recordPath) is no session's; look at it and remove it")
    }
    return try value.decoded(as: SessionPlan.self)
  }

  /// The plan whose record lies in the runtime directory `path`.
  static func plan(in path: String) throws(ServiceError) -> SessionPlan {
    guard let bytes = FileManager.default.contents(atPath: path + "/session.json"),
      let value = JSONValue(parsing: Array(bytes))
    else { throw .failed("there is no record of a session in \(path)") }
    return try value.decoded(as: SessionPlan.self)
  }

  /// Stores `plan`, durably and as a whole.
  package func write(_ plan: SessionPlan) throws(ServiceError) {
    let bytes = Array(try JSONValue(encoding: plan).text(isPretty: true).utf8)
    let draft = recordPath + ".next"
    // SAFETY: paths and bytes are read during the calls only.
    let file = unsafe spw_open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw Self.cannot("write", draft, errno) }
    let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress, $0.count) }
    let isSynced = count == bytes.count && fdatasync(file) == 0
    let number = errno
    close(file)
    guard isSynced else { throw Self.cannot("write", draft, number) }
    guard unsafe rename(draft, recordPath) == 0 else { throw Self.cannot("write", recordPath, errno) }
  }

  /// Makes the folder for qemu's own socket, and lets its user have it and the ingest socket.
  func admit(user: uid_t?, plan: SessionPlan) throws(ServiceError) {
    try Self.makeDirectory(plan.sourceDirectory, mode: 0o700)
    guard let user, user != geteuid(), geteuid() == 0 else { return }
    for file in [plan.sourceDirectory, plan.ingestSocket] {
      // SAFETY: the path is read during the call only.
      guard unsafe chown(file, user, gid_t.max) == 0 else { throw Self.cannot("hand over", file, errno) }
    }
  }

  /// The session is over: the record and everything else but the lock go.
  package func remove(_ plan: SessionPlan) { Self.removeFiles(plan) }

  /// As `remove`, for whoever inherited the lock.
  static func removeFiles(_ plan: SessionPlan) {
    // SAFETY: the paths are read during the calls only.
    for file in [plan.sourceSocket, plan.ingestSocket, plan.viewSocket, plan.adminSocket, plan.monitorSocket]
    {
      unsafe unlink(file)
    }
    unsafe rmdir(plan.sourceDirectory)
    if plan.isTemporary { removeJournal(plan.journal) }
    // Who was killed while writing the record has left a draft of it.
    for name in ["session.json.next", "session.json"] { unsafe unlink(plan.runtimeDirectory + "/" + name) }
  }

  /// Removes a temporary journal with all that belongs to it; what cannot be removed stays, and is told.
  private static func removeJournal(_ path: String) {
    // SAFETY: the path is read during the call only.
    guard unsafe access(path, F_OK) == 0 else { return }
    do {
      try Journal.removeRing(of: path)
      try FileManager.default.removeItem(atPath: path)
    } catch {
      StandardError.printLine("the temporary journal \(path) could not be removed: \(error)")
    }
  }

  private static func makeDirectory(_ path: String, mode: mode_t) throws(ServiceError) {
    // SAFETY: the path is read during the calls only.
    if unsafe mkdir(path, mode) == 0 {
      unsafe chmod(path, mode)
      return
    }
    let number = errno
    var information = stat()
    guard number == EEXIST, unsafe lstat(path, &information) == 0, information.st_mode & S_IFMT == S_IFDIR,
      information.st_uid == geteuid() || path.hasSuffix("/qemu")
    else { throw cannot("make", path, number) }
  }

  private static func cannot(_ what: String, _ path: String, _ number: Int32) -> ServiceError {
    .failed("cannot \(what) \(path) (\(SystemError.text(number)))")
  }
}
