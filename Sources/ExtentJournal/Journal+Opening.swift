internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// What is looked up and made before a journal is there.

extension Journal {
  /// Where the horizon of a journal is. In a new one it is before the first record, and that is written down: who loses an
  /// index has none. Nil for those.
  static func horizon(
    _ opened: Recovery.OpenedIndex, _ store: SegmentStore, _ index: Index
  ) throws(JournalError) -> Horizon? {
    if let known = opened.horizon { return known }
    let segments: [UInt64]
    do throws(FileError) { segments = try store.list() + store.list(.moved) } catch {
      throw JournalError(error)
    }
    guard segments.isEmpty, opened.applied.batch == 0 else { return nil }
    let start = Horizon(sequence: 0, timeNanoseconds: WallClock.nanoseconds())
    do throws(LMDBError) { try index.current.setHorizon(start) } catch { throw JournalError(error) }
    return start
  }

  /// What a journal takes on disk. What cannot be asked counts as nothing: then the filesystem is the bound.
  static func owned(
    _ store: SegmentStore, _ index: Index, _ pastIndexes: PastIndexes
  ) -> @Sendable () -> (segments: UInt64, index: UInt64) {
    let segments: @Sendable () -> UInt64 = {
      do throws(FileError) { return try store.ownedByteCount() } catch { return 0 }
    }
    // Asks for all names once, before anybody writes.
    _ = segments()
    return {
      (segments(), index.usedByteCount + pastIndexes.byteCount)
    }
  }

  /// A directory with segments and no superblock is somebody's journal that lost its head, not a new one.
  static func refuseOrphans(_ store: SegmentStore, _ directory: JournalDirectory) throws(JournalError) {
    let segments: [UInt64]
    do throws(FileError) { segments = try store.list() } catch { throw JournalError(error) }
    guard segments.isEmpty else {
      throw JournalError(
        .damaged,
        "\(directory.path) has segments but no journal superblock; restore \(directory.path)/journal from a copy"
      )
    }
  }

  /// A new ring: of the size asked for if shared memory has room, smaller down to 16 MiB, else in the journal's own
  /// directory.
  static func makeRing(
    _ options: JournalOptions, _ host: JournalHost, _ directory: JournalDirectory, _ uuid: JournalUUID,
    _ log: JournalLog
  ) throws(JournalError) -> SpoolFile {
    let spoolBytesMin = host.spoolBytesMin
    let wanted = max(options.spoolByteCount, spoolBytesMin) / 4096 * 4096
    for (place, smallest) in [
      (options.spoolDirectory, spoolBytesMin), (directory.path, wanted), (directory.path, spoolBytesMin),
    ] {
      var size = place == directory.path && smallest == spoolBytesMin ? spoolBytesMin : wanted
      while size >= smallest {
        do throws(FileError) {
          let file = try SpoolFile.create(directory: place, capacity: size, journal: uuid)
          if size != wanted || place != options.spoolDirectory {
            log(
              .warning,
              "the spool has \(ByteCount.text(size)) in \(place): there was no room for \(ByteCount.text(wanted)) in \(options.spoolDirectory)"
            )
          }
          return file
        } catch {
          log(.debug, "\(error)")
        }
        size = size / 2 / 4096 * 4096
      }
    }
    throw JournalError(
      .noSpace,
      "no room for a spool of 16 MiB, neither in \(options.spoolDirectory) nor in \(directory.path); free some space or name another --spool-dir"
    )
  }
}
