extension Monitor {
  /// Adds a bitmap to `node`. See `QEMUTransaction.Action.addBitmap` for doing it at a job's own instant.
  package func addBitmap(
    _ name: String, on node: String, granularity: Int64? = nil, isPersistent: Bool = false,
    isDisabled: Bool = false
  ) throws(QMPError) {
    try executeAlone(
      .addBitmap(
        name, node: node, granularity: granularity, isPersistent: isPersistent, isDisabled: isDisabled))
  }

  /// Removes the bitmap `name` from `node`. False when there is none.
  @discardableResult
  package func removeBitmap(_ name: String, from node: String) throws(QMPError) -> Bool {
    do throws(QMPError) {
      try execute(
        "block-dirty-bitmap-remove", arguments: ["node": .string(node), "name": .string(name)])
      return true
    } catch .refused(_, _, let text) where text.contains("not found") {
      return false
    }
  }

  /// Marks in `target` what any of `bitmaps`, of the same node, has marked.
  package func mergeBitmaps(
    _ bitmaps: [String], into target: String, on node: String
  ) throws(QMPError) {
    try executeAlone(.mergeBitmaps(bitmaps, into: target, node: node))
  }

  /// Runs one action that is a command too.
  private func executeAlone(_ action: QEMUTransaction.Action) throws(QMPError) {
    let (command, arguments) = action.wireForm
    try execute(command, arguments: arguments)
  }
}
