package import ExtentJournal
package import QEMUMonitor

// Whether a job lives, from what the monitor says of it. A value without I/O: JobWatch asks.
//
// Invariant: `alive` means that the very job that was first seen lived when the question was answered. A name alone does
// not say so, for another job may have it next:
//
// - A job that Spillway started carries a UUID in its id, so nothing else has its name.
// - Any other is the same as long as the monitor was never lost and no event told of its end, or of the beginning of one
//   with its name. Events that came before a reply are looked at before it, in their order.
//
// Dead is for good. A job that ended before it was first seen is dead too: what it wrote may be in the journal, and a
// successor's moment is another.

/// What is known of one job.
package struct JobLiveness: Sendable {
  /// The job's id.
  package let job: String
  /// What is known.
  package private(set) var state: SourceState
  /// What a test breaks.
  package var hooks = TestHooks()
  private let isOurs: Bool

  /// The words of qemu for a job whose filter is in place. `waiting` and `pending` are before its finalisation, which
  /// removes it.
  private static let livingStatuses: Set = ["running", "paused", "ready", "standby", "waiting", "pending"]
  private static let endedStatuses: Set = ["aborting", "concluded", "null", "undefined"]

  /// Nothing was asked yet. `wasSeen` by an earlier daemon, whose conversation with the monitor is over.
  package init(job: String, wasSeen: Bool) {
    self.job = job
    isOurs = Self.isOurs(job)
    if !wasSeen {
      state = .awaited
    } else if isOurs {
      state = .unknown("the monitor has not been asked about job \(job) yet")
    } else {
      state = .dead("an earlier daemon saw job \(job), and nobody can say whether it is still the same")
    }
  }

  /// Whether the id is one that Spillway gave: `spillway-UUID-DISK`.
  package static func isOurs(_ job: String) -> Bool {
    let prefix = "spillway-"
    guard job.hasPrefix(prefix) else { return false }
    let rest = Array(job.utf8.dropFirst(prefix.utf8.count))
    guard rest.count > 37, rest[36] == UInt8(ascii: "-") else { return false }
    return rest[..<36].enumerated().allSatisfy { index, byte in
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"): true
      case UInt8(ascii: "-"): [8, 13, 18, 23].contains(index)
      default: false
      }
    }
  }

  /// An answer: the events that came before it (nil: some are lost), and the jobs there are.
  package mutating func note(_ events: [QMPEvent]?, then jobs: [QEMUJob]) {
    if isDead { return }
    if !hooks.has(.successorJob) {
      if let events {
        for event in events { note(event) }
      } else if !isOurs, state != .awaited {
        end("more happened in the monitor than was kept, so that job \(job) may be another")
      }
      if isDead { return }
    }
    guard let status = jobs.first(where: { $0.id == job })?.status else {
      if state != .awaited { end("job \(job) is gone") }
      return
    }
    if Self.livingStatuses.contains(status) {
      state = .alive
    } else if Self.endedStatuses.contains(status) || state != .awaited {
      end("job \(job) is \(status)")
    }
  }

  private mutating func note(_ event: QMPEvent) {
    switch event.name {
    case "JOB_STATUS_CHANGE":
      guard event.data["id"]?.string == job, let status = event.data["status"]?.string else { return }
      if Self.endedStatuses.contains(status) && status != "undefined" {
        end("job \(job) has ended (\(status))")
      } else if status == "created", state != .awaited {
        end("job \(job) has ended, and another has its name")
      }
    case "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED":
      if event.data["device"]?.string == job { end("job \(job) has ended") }
    default: return
    }
  }

  /// The conversation with the monitor has broken off.
  package mutating func loseMonitor(_ reason: String) {
    guard !isDead, state != .awaited else { return }
    if isOurs || hooks.has(.successorJob) {
      state = .unknown("the monitor was lost and job \(job) cannot be asked about: \(reason)")
    } else {
      end("the monitor was lost, and with it the identity of job \(job): \(reason)")
    }
  }

  private var isDead: Bool { if case .dead = state { true } else { false } }

  private mutating func end(_ reason: String) {
    if !isDead { state = .dead(reason) }
  }
}
