/// A job that copies the state of a node at the instant of its start to a target.
///
/// It is never dismissed by itself, so that how it ended can be asked for.
package struct QEMUBackup: Sendable, Equatable {
  /// What of the disk is copied.
  package enum Content: Sendable, Equatable {
    /// Everything.
    case full
    /// Only what the guest is about to overwrite. Such a job has no end of its own.
    case beforeWrites
    /// What the bitmap has marked.
    case marked(bitmap: String, BitmapFate)
  }

  /// What becomes of the bitmap that a job copied by.
  package enum BitmapFate: String, Sendable, Equatable {
    /// It starts over when the job ends well, and is unchanged when not.
    case clearedOnSuccess = "on-success"
    /// What was copied is cleared, however the job ends.
    case cleared = "always"
    /// It is as it would have been without the job.
    case kept = "never"
  }

  /// What the job is called.
  package var id: String
  /// The node whose disk is copied.
  package var node: String
  /// The node that takes the copy, of the same size.
  package var target: String
  /// What is copied.
  package var content: Content
  /// Bytes a second; 0 is as many as it can.
  package var bytesPerSecond: Int64 = 0
  /// Whether it waits in `pending` for `finalizeJob` when all is copied.
  package var waitsForFinalize = false
  /// Requests in flight at most; nil is qemu's own choice (unknown to qemu before 6.0: then nil).
  package var workersMax: Int? = nil
  /// Bytes of a request at most; nil is qemu's own choice (as above).
  package var chunkBytesMax: Int? = nil

  /// The job `id`, from `node` to `target`.
  package init(id: String, node: String, target: String, _ content: Content) {
    self.id = id
    self.node = node
    self.target = target
    self.content = content
  }

  /// The arguments of the command `blockdev-backup`.
  package var arguments: JSONValue {
    var arguments: [String: JSONValue] = [
      "job-id": .string(id), "device": .string(node), "target": .string(target), "auto-dismiss": false,
    ]
    switch content {
    case .full: arguments["sync"] = "full"
    case .beforeWrites: arguments["sync"] = "none"
    case .marked(let bitmap, .clearedOnSuccess):
      // The word that also qemu before 4.2 knows.
      arguments["sync"] = "incremental"
      arguments["bitmap"] = .string(bitmap)
    case .marked(let bitmap, let fate):
      arguments["sync"] = "bitmap"
      arguments["bitmap"] = .string(bitmap)
      arguments["bitmap-mode"] = .string(fate.rawValue)
    }
    if bytesPerSecond > 0 { arguments["speed"] = .integer(bytesPerSecond) }
    if waitsForFinalize { arguments["auto-finalize"] = false }
    var performance: [String: JSONValue] = [:]
    if let workersMax { performance["max-workers"] = .integer(Int64(workersMax)) }
    if let chunkBytesMax { performance["max-chunk"] = .integer(Int64(chunkBytesMax)) }
    if !performance.isEmpty { arguments["x-perf"] = .object(performance) }
    return .object(arguments)
  }
}
