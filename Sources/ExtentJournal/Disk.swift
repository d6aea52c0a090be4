internal import Threads

/// One disk of a journal: the handle through which its open generation is written and read.
///
/// All methods may be called from any thread.
package final class Disk: Sendable {
  let journal: Journal
  let id: DiskID
  private let body: DiskBody

  init(_ journal: Journal, _ id: DiskID, _ body: DiskBody) {
    self.journal = journal
    self.id = id
    self.body = body
  }

  package var name: String { body.name }
  /// Size in bytes, a multiple of 512.
  package var byteCount: UInt64 { body.byteCount }
  package var mode: DiskMode { body.mode }

  /// The layer that takes writes. (Until seals exist a disk has one.)
  var layer: Layer {
    let key = LayerKey(disk: id, generation: GenerationID(number: 1))
    guard let layer = journal.ledger.lock.withLock({ journal.ledger.layers[key] }) else {
      preconditionFailure("a disk has an open generation from its creation on")
    }
    return layer
  }

  /// Whether the stream of the open generation has ended.
  package var isComplete: Bool {
    let layer = layer
    return journal.ledger.lock.withLock { layer.isComplete }
  }

  /// Marks the stream of the open generation as complete, durably: what never arrived is settled now. Does nothing
  /// when it is complete already.
  package func complete() throws(JournalError) {
    guard !isComplete else { return }
    try journal.append(.complete, layer.key)
    try journal.flush()
  }

  /// Returns when everything acknowledged before the call, on any disk of the journal, survives power loss.
  package func flush() throws(JournalError) { try journal.flush() }

  /// A number for one reader, to drop its parked reads by.
  package func newOwner() -> UInt64 { journal.ledger.newOwner() }

  /// Drops every parked read of `owner`: they are not woken any more.
  package func dropParked(owner: UInt64) {
    let layer = layer
    journal.ledger.lock.withLock {
      _ = journal.ledger.woken(layer.parked.take { $0.owner == owner })
    }
  }
}

/// Reads that a write has served. Wake them once the write's acknowledgement is on its way: the writer gates a guest.
package struct Arrivals: Sendable {
  let reads: [ParkedRead]

  /// Whether anybody waits.
  package var isEmpty: Bool { reads.isEmpty }

  /// Wakes them, on the calling thread.
  package func wake() {
    for read in reads { read.wake(.retry) }
  }
}
