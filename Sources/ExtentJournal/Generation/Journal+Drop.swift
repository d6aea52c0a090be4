internal import Bytes
internal import Threads

// How generations go. A drop is one record; from its commit on nobody finds the generation. The next index commit gives
// those that stand on it what they show of it, by reference (IndexTables+Merge), and lets them stand on what it stood on.
// After that its rows are buried, and swept away some at a time: a reader that looked up before may still go through
// them, so the burial waits for earlier readers (Indexer.bury).

extension Journal {
  /// Drops the generation `name` of a disk, durably: what others show of it they keep. Its space is freed in the
  /// background.
  ///
  /// `.usage` for the open generation, for the newest one, and while one that stands on it is open. One that
  /// is tainted and that others stand on throws `.failed`.
  package func drop(_ name: String, of disk: String) throws(JournalError) {
    let handle = try generation(of: disk, named: name)
    try inGenerationTurn(of: handle.layer.key.disk) { () throws(JournalError) in
      try dropInTurn(handle.layer, disk)
    }
    try indexer.run()
  }

  /// Has each disk keep as many sealed generations as the options say.
  package func applyRetention() throws(JournalError) {
    guard options.keptGenerations != nil else { return }
    for disk in disks {
      try inGenerationTurn(of: disk.layer.key.disk) { () throws(JournalError) in try retainInTurn(disk) }
    }
  }

  /// Drops what is older than the newest sealed generations that are to be kept. What cannot be dropped now is logged: the
  /// next seal tries again. The caller has the disk's generation turn.
  func retainInTurn(_ disk: Disk) throws(JournalError) {
    guard let count = options.keptGenerations else { return }
    let all = layers(of: disk.layer.key.disk)
    let sealed = all.filter { $0.state.seal != nil }
    guard sealed.count > count, let oldest = sealed.suffix(count).first else { return }
    var isChanged = false
    for (layer, state) in all where layer.key < oldest.layer.key && state.isClosed && !state.isDropped {
      do throws(JournalError) {
        try dropInTurn(layer, disk.name)
        isChanged = true
        log(.info, "dropped generation \(state.title) of disk \(disk.name): the newest \(count) are kept")
      } catch {
        guard error.kind == .usage || error.kind == .failed, ledger.lock.withLock({ ledger.failure == nil })
        else { throw error }
        log(.warning, "generation \(state.title) of disk \(disk.name) is kept: \(error.message)")
      }
    }
    if isChanged { try indexer.run() }
  }

  /// The caller has the disk's generation turn, and runs the indexer after it.
  func dropInTurn(_ layer: Layer, _ disk: String) throws(JournalError) {
    try settleMerges()
    let all = layers(of: layer.key.disk)
    guard let state = all.first(where: { $0.layer === layer })?.state, !state.isDropped else { return }
    guard state.isClosed else {
      throw JournalError(
        .usage, "generation \(state.title) of disk \(disk) is open and cannot be dropped; seal it first")
    }
    guard all.last?.layer !== layer else {
      throw JournalError(
        .usage,
        "generation \(state.title) is the newest of disk \(disk) and cannot be dropped; begin the next one first"
      )
    }
    let dependents = all.filter { $0.state.baseKey == layer.key && !$0.state.isDropped }
    for (_, dependent) in dependents where !dependent.isClosed {
      throw JournalError(
        .usage, "generation \(dependent.title) stands on \(state.title) and is open; seal it first")
    }
    if let taint = state.taint, let dependent = dependents.first?.state {
      throw JournalError(
        .failed,
        "generation \(dependent.title) stands on \(state.title), which is tainted: \(taint); drop \(dependent.title) first"
      )
    }
    let body = MergeBody(
      from: layer.key.generation.number, newBase: state.base,
      dependents: dependents.map(\.layer.key.generation.number))
    try append(.drop, layer.key, body: body.encoded)
    try flush()
  }

  /// Has the index follow every drop and merge so far, one that a crash came after included: until then memory does not know
  /// who will stand on what.
  private func settleMerges() throws(JournalError) {
    if ledger.lock.withLock({ !ledger.unsettled.isEmpty }) { try checkpoint() }
  }

  /// Has the generation `layer` take in by reference all that it shows of others, so that it stands on none. The caller has
  /// the disk's generation turn.
  func flattenInTurn(_ layer: Layer) throws(JournalError) {
    try settleMerges()
    var base = ledger.lock.withLock { layer.state.baseKey }
    while let from = base {
      let next = ledger.lock.withLock { ledger.layers[from]?.state.base ?? 0 }
      let body = MergeBody(
        from: from.generation.number, newBase: next, dependents: [layer.key.generation.number])
      try append(.merge, layer.key, body: body.encoded)
      base = next == 0 ? nil : LayerKey(disk: layer.key.disk, generation: GenerationID(number: next))
    }
    try flush()
    try indexer.run()
  }
}
