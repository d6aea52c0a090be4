internal import Threads

/// One disk of a journal: the handle through which its open generation is written and read.
///
/// All methods may be called from any thread.
package final class Disk: Sendable {
  let journal: Journal
  private let body: DiskBody
  /// The generation that the handle is bound to.
  let layer: Layer

  init(_ journal: Journal, _ body: DiskBody, _ layer: Layer) {
    self.journal = journal
    self.layer = layer
    self.body = body
  }

  /// The numbers of disk and generation.
  package var key: LayerKey { layer.key }
  /// As it was given when the disk was added; unique within the journal.
  package var name: String { body.name }
  /// Size in bytes, a multiple of 512.
  package var byteCount: UInt64 { body.byteCount }
  /// Fixed when the disk was added.
  package var mode: DiskMode { body.mode }

  /// Whether the stream of the open generation has ended.
  package var isComplete: Bool {
    journal.ledger.lock.withLock { layer.isComplete }
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

  /// A write or zeroing was acknowledged after `nanoseconds`. For the status.
  package func noteAcknowledgement(nanoseconds: UInt64) { journal.acknowledgements.note(nanoseconds) }

  /// A number for one reader, to drop its parked reads by.
  package func newOwner() -> UInt64 { journal.ledger.newOwner() }

  /// Drops every parked read of `owner`: they are not woken any more. The reader is gone.
  package func dropParked(owner: UInt64) {
    journal.readAhead.forget(owner: owner)
    journal.ledger.lock.withLock { layer.source }?.forget(owner: owner)
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
