/// What the tests read of `spillway status --json`.
///
/// Written down here once more, and not taken from the journal's own type: the names are a promise to scripts,
/// and a test that shared the type would follow any change of them.
package struct SpillwayStatus: Decodable, Sendable {
  /// A disk and its generations, oldest first.
  package struct Disk: Decodable, Sendable {
    /// What tests ask of a generation.
    package struct Generation: Decodable, Sendable {
      package var name: String?
      package var kind: String
      package var state: String
      package var isComplete: Bool
      package var tainted: Bool
    }
    package var name: String
    package var byteCount: UInt64
    package var mode: String
    package var generations: [Generation]
  }

  package var isServed: Bool
  package var wasClosed: Bool
  package var writtenBytes: UInt64
  package var zeroedBytes: UInt64
  package var storedBytes: UInt64
  package var segmentCount: UInt64
  package var segmentBytes: UInt64
  package var indexBytes: UInt64
  package var parkedReads: UInt64
  package var waitedReads: UInt64
  package var longestWaitNanoseconds: UInt64
  package var readsFromSource: UInt64
  package var readsFromJournal: UInt64
  package var sourceBytes: UInt64
  package var sourceErrors: UInt64
  package var isStalled: Bool
  package var horizonSequence: UInt64?
  package var historyBytes: UInt64
  package var disks: [Disk]

  /// Whether the stream of the newest generation of disk `name` is complete.
  package func isComplete(_ name: String) -> Bool {
    disks.first { $0.name == name }?.generations.last?.isComplete ?? false
  }
}
