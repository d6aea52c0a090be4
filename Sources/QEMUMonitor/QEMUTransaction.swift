/// What happens at one instant of a guest's disks, or not at all.
package struct QEMUTransaction: Sendable, Equatable {
  /// One thing that happens.
  package enum Action: Sendable, Equatable {
    /// A backup job starts.
    case backup(QEMUBackup)
    /// A bitmap begins to record, unless disabled.
    case addBitmap(
      String, node: String, granularity: Int64? = nil, isPersistent: Bool = false, isDisabled: Bool = false)
    /// What the bitmaps have marked is marked in another.
    case mergeBitmaps([String], into: String, node: String)
    /// A bitmap marks what is written from now on.
    case enableBitmap(String, node: String)
    /// A bitmap marks nothing more.
    case disableBitmap(String, node: String)
  }

  /// All of it, in order: later actions see the earlier ones.
  package var actions: [Action]
  /// Whether its jobs also end together: one that fails takes the others with it.
  package var isGrouped: Bool

  /// A transaction of `actions`.
  package init(_ actions: [Action], isGrouped: Bool = false) {
    self.actions = actions
    self.isGrouped = isGrouped
  }

  /// The arguments of the command `transaction`.
  package var arguments: JSONValue {
    let actions = actions.map { action -> JSONValue in
      let (name, data) = action.wireForm
      return ["type": .string(name), "data": data]
    }
    guard isGrouped else { return ["actions": .array(actions)] }
    return ["actions": .array(actions), "properties": ["completion-mode": "grouped"]]
  }
}

extension QEMUTransaction.Action {
  /// The command of the same name, and its arguments.
  var wireForm: (name: String, arguments: JSONValue) {
    switch self {
    case .backup(let backup):
      return ("blockdev-backup", backup.arguments)
    case .addBitmap(let name, let node, let granularity, let isPersistent, let isDisabled):
      var arguments: [String: JSONValue] = ["node": .string(node), "name": .string(name)]
      if let granularity { arguments["granularity"] = .integer(granularity) }
      // Left out when false: qemu before 2.10 or 4.0 does not know them.
      if isPersistent { arguments["persistent"] = true }
      if isDisabled { arguments["disabled"] = true }
      return ("block-dirty-bitmap-add", .object(arguments))
    case .mergeBitmaps(let bitmaps, let target, let node):
      return (
        "block-dirty-bitmap-merge",
        [
          "node": .string(node), "target": .string(target),
          "bitmaps": .array(bitmaps.map { .string($0) }),
        ]
      )
    case .enableBitmap(let name, let node):
      return ("block-dirty-bitmap-enable", ["node": .string(node), "name": .string(name)])
    case .disableBitmap(let name, let node):
      return ("block-dirty-bitmap-disable", ["node": .string(node), "name": .string(name)])
    }
  }
}

extension Monitor {
  /// Runs `transaction`: when this returns all of it has happened, when it throws nothing has.
  ///
  /// A refusal before the command was run is one; after a lost connection nobody knows.
  package func run(_ transaction: QEMUTransaction) throws(QMPError) {
    try execute("transaction", arguments: transaction.arguments)
  }
}
