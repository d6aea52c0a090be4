internal import Bytes

/// What a session sets up in qemu and on this machine, decided before the first command is sent (docs/inspection.md).
///
/// The record of a session is its plan: whoever tears down, the parent, the engine or a later session, does so by these ids.
package struct SessionPlan: Codable, Sendable {
  /// What the session is for.
  package enum Purpose: String, Codable, Sendable {
    /// A moment to look at; what the guest does not overwrite stays on the live disk.
    case inspect
    /// A moment to keep.
    case backup
  }

  /// Random; every id in qemu carries it.
  package var session: String
  /// What it is for.
  package var purpose: Purpose
  /// The monitor of its virtual machine.
  package var monitor: MonitorAddress
  /// The journal directory.
  package var journal: String
  /// Whether the journal goes with the session.
  package var isTemporary: Bool
  /// Where record and sockets lie.
  package var runtimeDirectory: String
  /// The NBD server of qemu's that runs already and is used, as an NBD URI; nil: the session starts one.
  package var foreignServer: String?
  /// Its disks, in the order of the command line.
  package var disks: [SessionDisk]
  /// What happens to the guest's writes when the journal's disk is full, as a word of WhenFull.
  package var whenFull: String
  /// How long a write may wait for room before it is dropped, and for an engine that is started again.
  package var stallBudgetMilliseconds: UInt64
  /// What the journal may take on disk, in bytes; nil: what there is.
  package var quotaBytes: UInt64?
  /// How many sealed generations of each disk are kept; nil: all.
  package var keptGenerations: Int?
  /// Whether what a view has shown is released.
  package var isReadOnce = false
  /// Bytes a second that each job may copy; 0 is as many as it can.
  package var bytesPerSecond: Int64 = 0
  /// What the engine logs, as a word of Logger.Level.
  package var logLevel: String
  /// The numbers of the generations in the journal, once the engine has begun them (`SessionCommands.layers`).
  package var layers = ""
  /// The agent of the guest, while that may be frozen.
  package var frozen: AgentAddress?
  /// Whether the jobs have been started and the live disks exported: from then on the engine reads them.
  package var isSetUp = false

  /// The socket of the ingest exports, which qemu connects to.
  package var ingestSocket: String { runtimeDirectory + "/ingest.sock" }
  /// The socket of the views, which COMMAND connects to.
  package var viewSocket: String { runtimeDirectory + "/view.sock" }
  /// The engine's admin socket.
  package var adminSocket: String { runtimeDirectory + "/admin.sock" }
  /// Where the engine asks the monitor, through the parent.
  package var monitorSocket: String { runtimeDirectory + "/monitor.sock" }
  /// The folder that belongs to qemu's user, who makes a socket in it.
  package var sourceDirectory: String { runtimeDirectory + "/qemu" }
  /// The socket of qemu's NBD server, if the session starts it.
  package var sourceSocket: String { sourceDirectory + "/source.sock" }

  /// The tag of the session's generations: which backup they are of, and how many disks it has.
  package var tag: String { "\(session)/\(disks.count)" }

  /// Where the live disk `disk` is exported.
  package func sourceURI(of disk: SessionDisk) -> String {
    guard let foreignServer else { return "nbd+unix:///\(disk.export)?socket=\(sourceSocket)" }
    return Self.uri(foreignServer, export: disk.export)
  }

  /// The NBD URI `server` with `export` in the place of its export's name.
  static func uri(_ server: String, export: String) -> String {
    let query = server.firstIndex(of: "?") ?? server.endIndex
    var head = server[..<query]
    if let scheme = head.firstRange(of: "://") {
      let authorityEnd = head[scheme.upperBound...].firstIndex(of: "/") ?? head.endIndex
      head = head[..<authorityEnd]
    }
    return "\(head)/\(export)\(server[query...])"
  }
}

/// One disk of a session.
package struct SessionDisk: Codable, Sendable {
  /// Its name in the journal.
  package var name: String
  /// The node in qemu that the guest's device writes to.
  package var node: String
  /// Size in bytes.
  package var byteCount: UInt64
  /// The generation that the session fills.
  package var generation: String
  /// `full`, `incremental` or `cow`.
  package var kind: String
  /// The generation that an incremental is on top of.
  package var base: String?
  /// Whether qemu can keep bitmaps of this node on disk.
  package var keepsBitmaps = false
  /// Id of the job.
  package var job: String
  /// Name of the NBD node that the job writes to (at most 31 bytes).
  package var target: String
  /// Id and name of the export of the live disk.
  package var export: String

  /// The disk number `index` of session `session`, in the ids of qemu.
  package init(
    name: String, node: String, byteCount: UInt64, generation: String, kind: String, base: String?,
    session: String, index: Int
  ) {
    self.name = name
    self.node = node
    self.byteCount = byteCount
    self.generation = generation
    self.kind = kind
    self.base = base
    let short = session.prefix(8)
    job = "spillway-\(session)-\(name)"
    target = "spillway-\(short)-\(index)"
    export = "spillway-\(short)-\(index)"
  }

  /// The bitmap that records what changes from this generation's moment on.
  package var bitmap: String { Self.bitmap(of: generation) }
  /// The bitmap that an incremental copies by.
  package var baseBitmap: String? { base.map(Self.bitmap(of:)) }
  /// The frozen copy of it that the engine reads.
  package var frozenBitmap: String { "\(target)-frozen" }

  /// The bitmap of `generation`, in every node that was backed up.
  package static func bitmap(of generation: String) -> String { "spillway-\(generation)" }
}

/// How to reach the monitor of a virtual machine.
package enum MonitorAddress: Codable, Sendable, Hashable, CustomStringConvertible {
  /// A QMP socket.
  case qmp(path: String)
  /// A libvirt domain, by name, id or UUID.
  case libvirt(domain: String)

  /// As people write it, and as the runtime directory is named for.
  package var description: String {
    switch self {
    case .qmp(let path): path
    case .libvirt(let domain): "libvirt:\(domain)"
    }
  }
}
