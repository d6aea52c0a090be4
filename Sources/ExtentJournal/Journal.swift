/// A journal directory, opened for writing by this process.
package final class Journal: Sendable {
  /// Opens (or creates) the journal in `directory`, recovers what a crash left, and starts its threads.
  package static func open(
    _ directory: String, options: JournalOptions, log: @escaping JournalLog
  ) throws(JournalError) -> Journal { fatalError() }

  /// The disk `name`, created if the journal has none of that name. A `byteCount` or `mode` that contradicts
  /// the journal is `.usage`. `byteCount` nil takes the journal's; `mode` nil takes the journal's (new: device).
  package func disk(_ name: String, byteCount: UInt64?, mode: DiskMode?) throws(JournalError) -> Disk {
    fatalError()
  }

  /// All disks, by name.
  package var disks: [Disk] { fatalError() }

  /// Returns when everything acknowledged so far survives power loss.
  package func flush() throws(JournalError) { fatalError() }

  /// As `flush`, and everything is in the index, so that another process can read all of it (replay).
  package func checkpoint() throws(JournalError) { fatalError() }

  package func status() -> JournalStatus { fatalError() }

  /// Fails every parked read; later reads that would wait fail too. First step of a shutdown.
  package func stopWaiting() { fatalError() }

  /// Spills, syncs, commits the index, marks the journal as closed cleanly and ends the threads.
  /// No other call may run or follow.
  package func close() throws(JournalError) { fatalError() }
}

/// One disk of a journal.
package final class Disk: Sendable {
  package var name: String { fatalError() }
  package var byteCount: UInt64 { fatalError() }
  package var mode: DiskMode { fatalError() }
  /// Marks the stream of the open generation as complete; what never arrived is settled now.
  package func complete() throws(JournalError) { fatalError() }
  package var isComplete: Bool { fatalError() }
}

/// A journal read by a process that does not own it: what was in the index when it was opened, for good.
/// Works beside a daemon (after `checkpoint`) and changes nothing.
package final class JournalReader: Sendable {
  package static func open(_ directory: String, log: @escaping JournalLog) throws(JournalError)
    -> JournalReader
  { fatalError() }
  /// The admin address that a daemon recorded in `directory`, and whether one holds the journal now.
  package static func owner(of directory: String) throws(JournalError) -> (
    isServed: Bool, adminAddress: String?
  ) { fatalError() }
  /// Status as far as the files tell (fields that only a daemon knows are 0).
  package func status() -> JournalStatus { fatalError() }
}

/// Writes a generation of a journal to a raw file.
package enum Replay {
  /// Writes the open generation of disk `name` to `output`, sparse. Refuses a tainted or incomplete one...
  package static func toRawFile(
    from reader: JournalReader, disk name: String, output: String, force: Bool, tainted: Bool,
    progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) { fatalError() }
}
