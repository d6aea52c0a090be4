extension Monitor {
  /// Adds the node `node`: the NBD export `export` at a unix socket, as a job's target.
  ///
  /// When the server goes away qemu tries for `reconnectSeconds` to reach it again, and requests wait that long; 0 fails
  /// them at once. Where qemu does not know the option (before 4.2) it is left out.
  package func addNBDTarget(
    _ node: String, atUnixSocket path: String, export: String, reconnectSeconds: Int, openSeconds: Int = 10,
    _ schema: QEMUSchema
  ) throws(QMPError) {
    var arguments: [String: JSONValue] = [
      "driver": "nbd", "node-name": .string(node), "export": .string(export), "discard": "unmap",
      "server": ["type": "unix", "path": .string(path)],
    ]
    if schema.has("blockdev-add", argument: "reconnect-delay") {
      arguments["reconnect-delay"] = .integer(Int64(reconnectSeconds))
    }
    if schema.has("blockdev-add", argument: "open-timeout") {
      arguments["open-timeout"] = .integer(Int64(openSeconds))
    }
    try execute("blockdev-add", arguments: .object(arguments))
  }

  /// Removes the node `node`, which nobody uses. An NBD target is flushed and told goodbye by that.
  ///
  /// False when there is none.
  @discardableResult
  package func removeNode(_ node: String) throws(QMPError) -> Bool {
    do throws(QMPError) {
      try execute("blockdev-del", arguments: ["node-name": .string(node)])
      return true
    } catch .refused(_, _, let text) where text.contains("Failed to find node") {
      return false
    }
  }
}
