internal import Synchronization

/// Where reads of views got their bytes, since the journal was opened.
final class SourceCounters: Sendable {
  /// Reads that took bytes from a source, or that were kept of one.
  let readsFromSource = Atomic<UInt64>(0)
  /// Reads that needed no source.
  let readsFromJournal = Atomic<UInt64>(0)
  /// Bytes that sources were read for.
  let sourceBytes = Atomic<UInt64>(0)
  /// Reads that failed on account of a source or its job.
  let sourceErrors = Atomic<UInt64>(0)
}

extension Atomic<UInt64> {
  /// Adds `count`; the order among counters means nothing.
  func add(_ count: UInt64 = 1) { add(count, ordering: .relaxed) }

  /// The count.
  var count: UInt64 { load(ordering: .relaxed) }
}
