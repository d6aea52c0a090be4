internal import BlockFile
internal import Bytes
internal import Glibc

// Places at which a debug build ends itself with SIGKILL: SPILLWAY_FAILPOINT=STAGE[:n] in the environment names the
// stage and, from 1, which time it is reached. The tests of kills aim with it. SPILLWAY_HOLD=STAGE:FIFO names a stage at
// which the thread that reaches it first waits: for somebody to open FIFO for writing, and then to close it. In a release build `pass` does nothing
// and the environment is not looked at (PlantedBug.swift says how that is arranged).

/// A stage in the life of a record or of a journal.
package enum Stage: String, Sendable {
  /// The payload lies in the ring, its commit word is still 0.
  case recordFilled
  /// The commit word is stored; nobody was told.
  case recordTrue
  /// The spiller took a batch.
  case batchTaken
  /// Its frames are compressed.
  case batchPacked
  /// The first half of its group is written.
  case groupHalfWritten
  /// All of its group is written.
  case groupWritten
  /// Some of its extents are published, and not all.
  case publishing
  /// All of it is published; the ring still holds it.
  case batchPublished
  /// Its ring space was given back.
  case ringRetired
  /// Segments are about to be synced.
  case syncBegun
  /// They are.
  case synced
  /// An index commit begins.
  case indexBegun
  /// A slice of it that is not the last is committed.
  case indexSliceCommitted
  /// All of it is committed.
  case indexCommitted
  /// The next superblock lies beside the one in force.
  case superblockWritten
  /// It has taken its place.
  case superblockReplaced
  /// A closing journal has everything in the index.
  case closeCommitted
  /// It is marked as closed cleanly; its ring is still there.
  case closeMarked
  /// A read has looked up where its bytes are and has copied none.
  case readPlanned
  /// It has copied what lies in the ring, and no frame.
  case framesWanted
  /// Ring space waits for a reader.
  case reclaimWaits
  /// An index commit waits for a batch to be published whole.
  case indexWaits
  /// Records that upkeep moved are durable.
  case moved
  /// Frames that it copied are durable; the index does not know it.
  case copied
  /// The index knows it; nothing is freed.
  case relocated
  /// A segment, or runs of it, are about to be freed.
  case freeing
  /// They are.
  case freed
  /// Freeing waits for a reader.
  case freeingWaits
  /// A generation is broken in the ring's header and in memory; its record is not written.
  case taintMarked
  /// The journal was looked in, and the source is about to be read.
  case sourceWanted
  /// A reader looks into a base.
  case baseWanted
  /// The source gave its bytes; neither the job was asked nor the journal looked in.
  case sourceRead
  /// A replay has written everything; nothing is synced, and a file has not got its name.
  case replayWritten
  /// A write, zeroing or release was compared with what is there, edges included; it is not committed.
  case writeCompared
  /// A checkpoint is closed and the next generation takes the writes; nothing of it need be durable.
  case checkpointOpened
  /// It was read back and summed up; it has no seal.
  case checkpointSummed
  /// A generation is pre-sealed, durably.
  case generationPreSealed
  /// A generation is sealed, durably.
  case generationSealed
  /// A session's record is stored and its generations are begun; qemu was told nothing.
  case sessionBegun
  /// The transaction of a session has been carried out; nothing is exported.
  case sessionMoment
  /// Every job of a backup is pending.
  case backupCopied
  /// All its generations are pre-sealed.
  case backupPreSealed
  /// All its jobs have concluded.
  case backupFinalized
  /// All its generations are sealed; the bitmaps of their bases are there.
  case backupSealed
}

/// The stages, as a session's two processes pass them. See the note above.
package enum Failpoint {
  #if PLANTED_BUGS
    private static let aim: Aim? = Aim()

    private static let hold: Hold? = Hold()

    /// Ends the process if this is the stage, and the time, that the environment names; waits if it is held here.
    package static func pass(_ stage: Stage) {
      hold?.wait(at: stage)
      guard let aim, aim.isHit(stage) else { return }
      kill(getpid(), SIGKILL)
    }

    /// Writes the first half of a group (whole blocks of 4096) and ends the process, if that is the stage.
    static func passHalfway(
      _ file: any BlockFile, _ group: AlignedBuffer, byteCount: Int, at offset: UInt64
    ) throws(FileError) {
      guard let aim, aim.isHit(.groupHalfWritten) else { return }
      let half = byteCount / 2 / AlignedBuffer.alignment * AlignedBuffer.alignment
      if half > 0 { try file.write(group, byteCount: half, at: offset) }
      kill(getpid(), SIGKILL)
    }
  #else
    /// Nothing.
    package static func pass(_ stage: Stage) {}

    @inline(__always) static func passHalfway(
      _ file: any BlockFile, _ group: AlignedBuffer, byteCount: Int, at offset: UInt64
    ) throws(FileError) {}
  #endif
}

#if PLANTED_BUGS
  internal import Synchronization

  /// Where the environment has a thread wait, once.
  private final class Hold: Sendable {
    private let stage: Stage
    private let path: String
    private let isOver = Atomic(false)

    init?() {
      // SAFETY: the environment's string is terminated, and copied at once.
      guard let text = unsafe getenv("SPILLWAY_HOLD") else { return nil }
      let parts = unsafe String(cString: text).split(separator: ":", maxSplits: 1)
      guard parts.count == 2, let stage = Stage(rawValue: String(parts[0])) else { return nil }
      self.stage = stage
      path = String(parts[1])
    }

    func wait(at reached: Stage) {
      guard reached == stage, !isOver.exchange(true, ordering: .relaxed) else { return }
      let fifo = unsafe open(path, O_RDONLY)
      guard fifo >= 0 else { return }
      var byte: UInt8 = 0
      // SAFETY: one byte of room for one byte. It ends when the writer has closed.
      while unsafe read(fifo, &byte, 1) > 0 {}
      close(fifo)
    }
  }

  /// What the environment says.
  private final class Aim: Sendable {
    private let stage: Stage
    private let passesLeft: Atomic<Int>

    init?() {
      // SAFETY: the environment's string is terminated, and copied at once.
      guard let text = unsafe getenv("SPILLWAY_FAILPOINT") else { return nil }
      let parts = unsafe String(cString: text).split(separator: ":")
      guard let name = parts.first, let stage = Stage(rawValue: String(name)) else { return nil }
      self.stage = stage
      passesLeft = Atomic(parts.count > 1 ? Int(parts[1]) ?? 1 : 1)
    }

    func isHit(_ reached: Stage) -> Bool {
      reached == stage && passesLeft.subtract(1, ordering: .relaxed).newValue == 0
    }
  }
#endif
