/// A node served by qemu's own NBD server, for readers.
package struct QEMUExport: Sendable, Equatable {
  /// What qemu calls it; unique in this qemu.
  package var id: String
  /// The node that it shows.
  package var node: String
  /// What NBD clients call it.
  package var name: String
  /// A frozen bitmap that it offers as `qemu:dirty-bitmap:NAME`; an enabled one is refused.
  package var bitmap: String?
  /// Whether clients may write.
  package var isWritable: Bool

  /// A read-only export of `node`, called `name` by clients too, unless told.
  package init(
    id: String, node: String, name: String? = nil, bitmap: String? = nil, isWritable: Bool = false
  ) {
    self.id = id
    self.node = node
    self.name = name ?? id
    self.bitmap = bitmap
    self.isWritable = isWritable
  }
}

extension Monitor {
  /// Starts qemu's NBD server on a unix socket.
  ///
  /// qemu has one: when it runs, whoever started it, that is `nbdServerRunning`, and qemu does not tell where it listens.
  /// `connectionsMax` of 0 is no limit (nothing else is known to qemu before 5.2).
  package func startNBDServer(
    atUnixSocket path: String, connectionsMax: Int = 0, _ schema: QEMUSchema
  ) throws(QMPError) {
    var arguments: [String: JSONValue] = ["addr": ["type": "unix", "data": ["path": .string(path)]]]
    if schema.has("nbd-server-start", argument: "max-connections") {
      arguments["max-connections"] = .integer(Int64(connectionsMax))
    }
    do throws(QMPError) {
      try execute("nbd-server-start", arguments: .object(arguments))
    } catch .refused(_, _, let text) where text.contains("already running") {
      throw .nbdServerRunning
    }
  }

  /// Stops qemu's NBD server, with all its exports. False when none ran.
  @discardableResult
  package func stopNBDServer() throws(QMPError) -> Bool {
    do throws(QMPError) {
      try execute("nbd-server-stop")
      return true
    } catch .refused(_, _, let text) where text.contains("not running") {
      return false
    }
  }

  /// Adds `export` to qemu's NBD server, which runs.
  package func addExport(_ export: QEMUExport, _ schema: QEMUSchema) throws(QMPError) {
    var arguments: [String: JSONValue] = [
      "name": .string(export.name), "writable": .bool(export.isWritable),
    ]
    guard schema.has("block-export-add") else {
      // qemu before 5.2: one bitmap, and the name is the id.
      arguments["device"] = .string(export.node)
      if let bitmap = export.bitmap { arguments["bitmap"] = .string(bitmap) }
      try execute("nbd-server-add", arguments: .object(arguments))
      return
    }
    arguments["type"] = "nbd"
    arguments["id"] = .string(export.id)
    arguments["node-name"] = .string(export.node)
    if let bitmap = export.bitmap { arguments["bitmaps"] = [.string(bitmap)] }
    try execute("block-export-add", arguments: .object(arguments))
  }

  /// Removes `export`, cutting its clients off, and returns when it is gone: only then do its node and its bitmap belong
  /// to nobody. No error when it does not exist.
  package func removeExport(
    _ export: QEMUExport, _ schema: QEMUSchema, within limit: Duration = .seconds(30)
  ) throws(QMPError) {
    guard schema.has("block-export-add") else {
      // In the old command removal by force is done when it returns.
      do throws(QMPError) {
        try execute("nbd-server-remove", arguments: ["name": .string(export.name), "mode": "hard"])
      } catch .refused(_, _, let text) where text.contains("not found") {
      }
      return
    }
    guard try exportIDs().contains(export.id) else { return }
    do throws(QMPError) {
      try execute("block-export-del", arguments: ["id": .string(export.id), "mode": "hard"])
    } catch {
      // It may be going already; then its end is all that is awaited.
      guard case .refused = error, try isShuttingDown(export.id) else { throw error }
    }
    try wait(
      for: "end of export \(export.id)",
      atEach: { $0.name == "BLOCK_EXPORT_DELETED" && $0.data["id"]?.string == export.id }, within: limit
    ) { () throws(QMPError) in
      try !exportIDs().contains(export.id)
    }
  }

  /// The ids of all exports, whoever added them (qemu from 5.2 on).
  package func exportIDs() throws(QMPError) -> [String] {
    try execute("query-block-exports").array?.compactMap { $0["id"]?.string } ?? []
  }

  /// Whether the export `id` is gone or about to be.
  private func isShuttingDown(_ id: String) throws(QMPError) -> Bool {
    let exports = try execute("query-block-exports").array ?? []
    return exports.first { $0["id"]?.string == id }?["shutting-down"]?.bool ?? true
  }
}
