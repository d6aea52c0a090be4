// Mistakes that a journal makes when a test asks for them, so that the tests can show that they would notice, and
// places where a test may hold a thread of the journal. A proof that nobody has seen fail proves little.
//
// Package.swift defines PLANTED_BUGS for debug builds only. Without it TestHooks is empty, `has` is the constant false
// and `reach` does nothing: of both the released program holds the names of two types, and no instruction that asks
// for them.

/// A mistake for a journal to make, named for what it leaves out.
package enum PlantedBug: String, CaseIterable, Sendable {
  /// Rule A: the index is committed before the segments are synced.
  case indexBeforeSync
  /// Rule B: ring space is reused without waiting for the readers that looked before.
  case ringReusedUnderReaders
  /// Rule B, the other half: a reader looks up and copies without an epoch.
  case readerWithoutEpoch
  /// Rule D: records are taken over from the ring in the order of their places, not of their sequences.
  case ringReplayedInPlaceOrder
  /// Rule E: a FLUSH is answered when everything is written, though not synced.
  case flushWithoutSync
  /// Rule E: a write is acknowledged before its commit word is stored.
  case ackBeforeCommitWord
  /// Rule F: a sync that failed is tried again, and believed when it then succeeds.
  case syncRetried
  /// A group counts by its headers alone: neither its payloads nor the chain are compared.
  case halfBatchAccepted
  /// A reservation leaves the commit word as the last lap left it.
  case staleCommitWord
  /// A contradicting write breaks its generation without the word in the ring that outlives the process.
  case taintWordLeftOut
  /// The index takes what is published while half a batch is.
  case indexWhilePublishing
  /// The source: the journal is looked in first, the source is read, and nobody looks again.
  case lookBeforeSource
  /// The source: what the index says is looked up before the source is read.
  case staleSnapshot
  /// The source: whether the generation is broken is not looked at after the source was read.
  case taintNotChecked
  /// The source: a job is known by its name alone, so that one that follows it passes for it.
  case successorJob
  /// What is outside the bitmap is recorded over what has arrived.
  case baseOverArrived
  /// What falls to the base is read from the base of the base.
  case baseOfBaseRead
  /// A write sets what was released.
  case tombstoneOverwritten
  /// The rows of a dropped generation go while a reader that looked before goes through them.
  case buriedUnderReaders
  /// A write that was reserved before a checkpoint was closed is committed to it.
  case writtenBehindSeal
  /// Recovery believes the generation that the ring names, though it was closed at the write's sequence.
  case ringNamesGeneration
  /// A generation that was opened on a checkpoint is served without falling to it.
  case checkpointLeftOpen
  /// A seal is answered before it survives power loss.
  case sealNotFlushed
  /// Rule B, of segments: a reader leaves its epoch before it has read its frames.
  case framesReadOutsideEpoch
  /// Rule B, of segments: space is freed without waiting for the readers that looked before.
  case freedUnderReaders
  /// Rule C: what was moved is freed before the index that names the copy is durable.
  case freedBeforeIndex
  /// Rule C: a move takes the place of what is in the index now, whatever that is.
  case moveWithoutCompare
  /// Records without payload go with their segment, whatever a rebuild makes of what they hid.
  case recordsForgotten
  /// What a segment of moved data says of batches that are durable goes with it.
  case durabilityForgotten
  /// History: what a commit supersedes is not held.
  case pastNotHeld
  /// History: records without payload go when the present needs them no more.
  case pastRecordsForgotten
  /// History: segments behind the horizon are treated like any other.
  case pastSegmentsTouched
  /// History: of a frame that the past needs only what is live is moved.
  case pastFramesMoved
}

/// What a test does to one journal. Set before its threads start; see the note at the top of the file.
package struct TestHooks: Sendable {
  #if PLANTED_BUGS
    /// The mistake to make; unless told otherwise the one that SPILLWAY_PLANTED_BUG in the environment names.
    package var bug = PlantedBug.ofEnvironment
    /// Called at each stage, on the thread that reaches it and with whatever locks it holds.
    package var atStage: (@Sendable (Stage) -> Void)?

    /// Nothing planted, unless by the environment.
    package init() {}

    /// Whether to make this mistake.
    package func has(_ bug: PlantedBug) -> Bool { self.bug == bug }

    func reach(_ stage: Stage) {
      Failpoint.pass(stage)
      atStage?(stage)
    }
  #else
    /// Nothing can be planted.
    package init() {}

    /// Never.
    @inline(__always) package func has(_ bug: PlantedBug) -> Bool { false }

    @inline(__always) func reach(_ stage: Stage) {}
  #endif
}

#if PLANTED_BUGS
  internal import Glibc

  extension PlantedBug {
    /// What the environment names: the tests of the real program plant by it.
    fileprivate static let ofEnvironment: PlantedBug? = {
      // SAFETY: the environment's string is terminated, and copied at once.
      guard let text = unsafe getenv("SPILLWAY_PLANTED_BUG") else { return nil }
      return unsafe PlantedBug(rawValue: String(cString: text))
    }()
  }
#endif
