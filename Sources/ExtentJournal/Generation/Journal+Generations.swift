internal import Bytes
internal import LMDB
internal import Threads

extension Journal {
  /// Opens a new generation of a snapshot disk, durable on return; the handle is bound to it.
  ///
  /// The open one must be closed (sealed or ended), tainted (it is then ended), or unnamed and empty (it is then ended as
  /// unused, and hidden from lists); otherwise `.usage`. The name must be free, and a base sealed and untainted.
  package func begin(_ disk: String, _ request: GenerationRequest) throws(JournalError) -> Disk {
    let (id, body) = try find(disk)
    return try inGenerationTurn(of: id) { () throws(JournalError) in
      guard body.mode == .snapshot else {
        throw JournalError(
          .usage, "disk \(disk) is a device disk; its next generation begins when the open one is sealed")
      }
      try requireNoLoss()
      try requireFreeName(request.name, of: id, disk: disk)
      let base = try base(for: request, of: id, disk)
      guard request.tag.utf8.count <= 4096 else { throw JournalError(.usage, "the tag is too long") }
      try closeNewest(of: id, disk)
      let number = ledger.lock.withLock {
        ledger.layers.keys.filter { $0.disk == id }.map(\.generation.number).max() ?? 0
      }
      let key = LayerKey(disk: id, generation: GenerationID(number: number + 1))
      let begin = BeginBody(kind: request.kind, base: base, name: request.name, tag: request.tag)
      try append(.begin, key, body: begin.encoded)
      try flush()
      guard let layer = ledger.lock.withLock({ ledger.layers[key] }) else {
        preconditionFailure("a generation is there once its record is committed")
      }
      return Disk(self, body, layer)
    }
  }

  /// The handle of the generation `name` of a disk, whatever its state; `live` is the newest one.
  package func generation(of disk: String, named name: String) throws(JournalError) -> Disk {
    let (id, body) = try find(disk)
    if name == Self.liveName { return newest(of: id, body) }
    let known = layers(of: id)
    guard let layer = known.first(where: { $0.state.name == name && !$0.state.isDropped })?.layer else {
      let names = known.map(\.state.name).filter { !$0.isEmpty }.joined(separator: ", ")
      throw JournalError(
        .usage, "disk \(disk) has no generation \(name)\(names.isEmpty ? "" : "; it has \(names)")")
    }
    return Disk(self, body, layer)
  }

  /// All generations of all disks that lists show, by disk, oldest first.
  package var generations: [Disk] {
    ledger.lock.withLock { ledger.disks }.sorted { $0.value.name < $1.value.name }.flatMap { (id, body) in
      layers(of: id).filter { !$0.state.isHidden }.map { Disk(self, body, $0.layer) }
    }
  }

  /// The name by which views ask for the newest generation.
  package static let liveName = "live"

  // MARK: - What a request needs

  private func find(_ disk: String) throws(JournalError) -> (DiskID, DiskBody) {
    let disks = ledger.lock.withLock { ledger.disks }
    guard let found = disks.first(where: { $0.value.name == disk }) else {
      let names = disks.values.map(\.name).sorted().joined(separator: ", ")
      throw JournalError(
        .usage, "the journal has no disk \(disk)\(names.isEmpty ? "" : "; it has \(names)")")
    }
    return (found.key, found.value)
  }

  /// Throws when the journal has lost records that nobody can name: one may have begun a generation.
  func requireNoLoss() throws(JournalError) {
    if let loss = ledger.lock.withLock({ ledger.loss }) {
      throw JournalError(
        .damaged,
        "the journal takes no new generations, for it has lost records: \(loss) beyond recognition")
    }
  }

  /// The generations of a disk, oldest first.
  func layers(of id: DiskID) -> [(layer: Layer, state: LayerState)] {
    ledger.lock.withLock {
      ledger.layers.values.filter { $0.key.disk == id }.sorted { $0.key < $1.key }.map { ($0, $0.state) }
    }
  }

  /// The newest generation that lists show, or the newest of all.
  func newestLayer(of id: DiskID) -> Layer {
    let all = layers(of: id)
    guard let newest = all.last(where: { !$0.state.isHidden }) ?? all.last else {
      preconditionFailure("a disk has a generation from its creation on")
    }
    return newest.layer
  }

  /// Throws unless `name` can name another generation of the disk.
  func requireFreeName(_ name: String, of id: DiskID, disk: String) throws(JournalError) {
    let isPlain = name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
        true
      default: false
      }
    }
    guard !name.isEmpty, isPlain, name.utf8.count <= 255, name != Self.liveName else {
      throw JournalError(
        .usage,
        "the name of a generation is 1 to 255 letters, digits, dots, underscores and hyphens, and not \(Self.liveName)"
      )
    }
    guard !layers(of: id).contains(where: { $0.state.name == name }) else {
      throw JournalError(.usage, "disk \(disk) has a generation \(name) already; use another name")
    }
  }

  private func base(
    for request: GenerationRequest, of id: DiskID, _ disk: String
  ) throws(JournalError) -> UInt32 {
    guard request.kind != .checkpoint else {
      throw JournalError(.usage, "checkpoints are generations of device disks, and \(disk) is none")
    }
    guard request.kind == .incremental else {
      guard request.base == nil else {
        throw JournalError(.usage, "only an incremental generation has a base")
      }
      return 0
    }
    guard let name = request.base else {
      throw JournalError(.usage, "an incremental generation needs a base")
    }
    let all = layers(of: id)
    guard let base = all.first(where: { $0.state.name == name })?.state else {
      throw JournalError(.usage, "disk \(disk) has no generation \(name) to be a base")
    }
    if let taint = base.taint {
      throw JournalError(
        .failed, "generation \(name) of \(disk) cannot be a base, for it is tainted: \(taint)")
    }
    guard base.seal != nil else {
      throw JournalError(.usage, "generation \(name) of \(disk) cannot be a base, for it is not sealed")
    }
    var depth = Self.depth(of: base, among: all.map(\.state))
    if depth >= Disk.baseDepthTarget, let layer = all.first(where: { $0.state.key == base.key })?.layer {
      try flattenInTurn(layer)
      depth = 1
    }
    guard depth <= Disk.baseDepthMax else {
      throw JournalError(
        .usage, "\(depth) generations of \(disk) stand on one another up to \(name); begin a full one")
    }
    return base.key.generation.number
  }

  /// How many generations stand on one another from `state` down.
  static func depth(of state: LayerState, among all: [LayerState]) -> Int {
    var depth = 1
    var next = state.baseKey
    while let key = next {
      depth += 1
      next = all.first { $0.key == key }?.baseKey
    }
    return depth
  }

  /// Ends the newest generation if nobody will miss it.
  private func closeNewest(of id: DiskID, _ disk: String) throws(JournalError) {
    guard let (layer, state) = layers(of: id).last, !state.isClosed else { return }
    if let taint = state.taint {
      return try append(.end, layer.key, body: Array("it was tainted: \(taint)".utf8.prefix(4096)))
    }
    guard state.name.isEmpty, try !indexHolds(layer.key) else {
      throw JournalError(
        .usage, "generation \(state.title) of disk \(disk) is open; seal it first")
    }
    // What has not reached the index is asked for where the record gets its sequence.
    try append(.end, layer.key, body: Array(LayerState.unused.utf8))
  }

  private func indexHolds(_ layer: LayerKey) throws(JournalError) -> Bool {
    while true {
      do throws(LMDBError) {
        if let answer = try index.holdsAnything(of: layer) { return answer }
      } catch {
        if !error.isDamage { throw JournalError(error) }
      }
      try index.waitUntilTrusted()
    }
  }
}
