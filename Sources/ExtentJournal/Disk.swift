internal import Threads

/// One disk of a journal: the handle through which a generation of it is written and read.
///
/// The handle of a snapshot disk is bound to a generation. That of a device disk follows: it is of the generation that is
/// open whenever it is asked, unless it was asked for by a generation's name.
///
/// All methods may be called from any thread.
package final class Disk: Sendable {
  let journal: Journal
  private let body: DiskBody
  private let bound: Layer
  private let open: OpenGeneration?

  /// A handle that is bound to `layer`, or with `open` follows that.
  init(_ journal: Journal, _ body: DiskBody, _ layer: Layer, following open: OpenGeneration? = nil) {
    self.journal = journal
    bound = layer
    self.open = open
    self.body = body
  }

  /// The generation that the handle is of now. What belongs together is done with one answer: of a device disk the next may
  /// be another. May be asked under the ledger's lock, under which it does not change.
  var layer: Layer { open?.layer ?? bound }

  /// Whether the handle is of whatever generation is open.
  var isFollowing: Bool { open != nil }

  /// A handle of the same disk that is bound to `layer`.
  func bound(to layer: Layer) -> Disk { Disk(journal, body, layer) }

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

  /// Fetches nothing for `owner` any more, who read what writers see and is gone.
  package func forgetReader(_ owner: UInt64) { journal.readAhead.forget(owner: owner) }

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
