internal import Bytes
internal import Threads

extension Journal {
  /// The disk `name`, created if the journal has none of that name.
  ///
  /// A `byteCount` (a positive multiple of 512) or `mode` that contradicts the journal is `.usage`, and so is an
  /// unknown name without a size. `mode` nil takes the journal's (new: device). A new disk is durable on return.
  package func disk(_ name: String, byteCount: UInt64?, mode: DiskMode?) throws(JournalError) -> Disk {
    let known = ledger.lock.withLock { ledger.disks.first { $0.value.name == name } }
    if let (id, body) = known {
      if let byteCount, byteCount != body.byteCount {
        throw JournalError(
          .usage,
          "disk \(name) has \(body.byteCount) bytes in this journal, not \(byteCount); leave the size out or use another name"
        )
      }
      if let mode, mode != body.mode {
        throw JournalError(
          .usage,
          "disk \(name) is a \(body.mode.rawValue) disk in this journal, not \(mode.rawValue); leave the mode out or use another name"
        )
      }
      return newest(of: id, body)
    }
    guard let byteCount else {
      throw JournalError(.usage, "the journal has no disk \(name); give its size")
    }
    guard byteCount > 0, byteCount % Sector.byteCount == 0 else {
      throw JournalError(.usage, "the size of disk \(name) is no positive multiple of 512")
    }
    guard byteCount <= Self.diskBytesMax else {
      throw JournalError(.usage, "disk \(name) is larger than a journal can address (128 PiB)")
    }
    return try create(DiskBody(mode: mode ?? .device, byteCount: byteCount, name: name))
  }

  private func create(_ body: DiskBody) throws(JournalError) -> Disk {
    if let loss = ledger.lock.withLock({ ledger.loss }) {
      throw JournalError(
        .damaged,
        "disk \(body.name) may be among what the journal has lost: \(loss) beyond recognition; replay what is left and use a new journal"
      )
    }
    let id = ledger.lock.withLock { DiskID(number: (ledger.disks.keys.max()?.number ?? 0) + 1) }
    try append(.disk, LayerKey(disk: id, generation: GenerationID(number: 1)), body: body.encoded)
    try finishCreations()
    try flush()
    return newest(of: id, body)
  }

  /// Opens the first generation of disks that have none: new ones, and those that a crash left half made.
  @discardableResult
  func finishCreations() throws(JournalError) -> [LayerKey] {
    var begun: [LayerKey] = []
    for (id, body) in ledger.lock.withLock({ ledger.disks }) {
      let layer = LayerKey(disk: id, generation: GenerationID(number: 1))
      guard ledger.lock.withLock({ ledger.layers[layer] == nil }) else { continue }
      let kind: GenerationKind = body.mode == .snapshot ? .full : .checkpoint
      try append(.begin, layer, body: BeginBody(kind: kind, base: 0, name: "").encoded)
      begun.append(layer)
    }
    return begun
  }

  /// The handle of a disk's newest generation that lists show; of a device disk one that follows.
  func newest(of id: DiskID, _ body: DiskBody) -> Disk {
    Disk(self, body, newestLayer(of: id), following: ledger.lock.withLock { ledger.open[id] })
  }

  /// All disks, by name, with their newest generations that lists show.
  package var disks: [Disk] {
    ledger.lock.withLock { ledger.disks }
      .map { newest(of: $0.key, $0.value) }.sorted { $0.name < $1.name }
  }
}
