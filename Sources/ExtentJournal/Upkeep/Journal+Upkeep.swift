internal import BlockFile
internal import LMDB
internal import Threads

extension Journal {
  /// Gives back everything that nobody needs: brings the index up to date, frees dead space and compacts, until there is
  /// nothing more to do or `isCancelled` says so; with `recompresses` all that was compressed in a hurry is compressed harder, too,
  /// however young, unless a stream comes in. Returns what was done. Blocks; one caller works at a time.
  ///
  /// Throws `.noSpace` when what has to be moved first finds no room; the journal is as good as before.
  package func upkeep(
    recompresses: Bool = false, isCancelled: () -> Bool = { false }
  ) throws(JournalError) -> UpkeepReport {
    try checkpoint()
    return try upkeeper.run(
      yields: false, coldNanoseconds: recompresses ? 0 : nil, isCancelled: isCancelled)
  }

  /// Counts again what the index counts as live. Nil when it is right, else what is not. Nobody commits meanwhile.
  package func livenessFlaw() throws(JournalError) -> String? {
    try indexer.inTurn { (tables) throws(JournalError) in
      do throws(LMDBError) { return try tables.livenessFlaw() } catch { throw JournalError(error) }
    } ?? nil
  }

  /// What the segments take and what of it is needed.
  package func spaceStatus() throws(JournalError) -> SpaceStatus {
    var status = SpaceStatus()
    status.segmentBytes = try store.usage().byteCount
    let sums = try indexer.inTurn { (tables) throws(JournalError) in try upkeeper.liveSums(tables) } ?? [:]
    let known = upkeeper.liveBytesOfSegments
    for (segment, sum) in sums {
      if let found = known[segment], found.sum == sum {
        status.liveBytes += found.liveBytes
      } else {
        status.liveBytes += UInt64(sum.kibibytes) * 1024
      }
    }
    status.deadBytes = status.segmentBytes - min(status.segmentBytes, status.liveBytes)
    status.reserveBytes = admission.reserveByteCount
    status.upkeep = upkeeper.doneSoFar
    return status
  }
}
