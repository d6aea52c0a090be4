internal import Bytes
internal import ExtentJournal
internal import QEMUMonitor

/// What an inspection cost and gave, as its last line says.
struct SessionReport {
  /// One paragraph for people; nil when nobody could be asked.
  let text: String?
  /// Whether writes of the guest were dropped, so that COMMAND may have seen less than it knows.
  let isTainted: Bool

  /// Asks the engine of `session`, which still runs. After a restart it counts from there.
  init(_ session: Session) {
    do throws(ServiceError) {
      let status = try session.engine.ask("status").decoded(as: JournalStatus.self)
      text = Self.render(status, session.plan)
      isTainted = Self.isTainted(status, session.plan)
    } catch {
      text = nil
      isTainted = false
    }
  }

  /// Whether a generation of the session of `plan` is broken. The journal may hold others.
  private static func isTainted(_ status: JournalStatus, _ plan: SessionPlan) -> Bool {
    status.disks.contains { $0.generations.contains { $0.tainted && $0.tag == plan.tag } }
  }

  /// The report of what `status` counted.
  private static func render(_ status: JournalStatus, _ plan: SessionPlan) -> String {
    let stall = status.acknowledgements
    var sentences = [
      "caught \(stall.count) writes of the guest, \(ByteCount.text(status.writtenBytes + status.zeroedBytes)) "
        + "(\(ByteCount.text(status.zeroedBytes)) zeroes), stored \(ByteCount.text(status.storedBytes))"
    ]
    if stall.count > 0 {
      sentences.append(
        "they waited p50 \(DurationText.span(nanoseconds: stall.medianNanoseconds)), "
          + "p99 \(DurationText.span(nanoseconds: stall.p99Nanoseconds)), "
          + "at most \(DurationText.span(nanoseconds: stall.maxNanoseconds))")
    }
    sentences.append(
      "reads: \(status.readsFromSource) from the live disk (\(ByteCount.text(status.sourceBytes))), "
        + "\(status.readsFromJournal) from the journal, \(status.waitedReads) waited")
    if isTainted(status, plan) {
      sentences.append("the view is TAINTED: writes of the guest were dropped")
    }
    return sentences.joined(separator: "; ")
  }
}
