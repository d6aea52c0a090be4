internal import Bytes
package import ExtentJournal

/// `spillway status` for people.
package enum StatusText {
  /// The table, with a line break after each line.
  package static func render(_ status: JournalStatus, directory: String) -> String {
    var segments = "\(status.segmentCount), \(ByteCount.text(status.segmentBytes))"
    if let live = status.liveBytes { segments += " (\(ByteCount.text(live)) live)" }
    var rows: [(String, String)] = [
      ("journal", "\(directory), \(state(status))"),
      ("uuid", status.uuid),
      ("segments", "\(segments), index \(ByteCount.text(status.indexBytes))"),
    ]
    if status.isServed { rows += served(status) }
    rows += history(status)
    if let failure = status.failure { rows.append(("failure", failure)) }
    rows += damage(status.damage ?? [])
    let text = rows.map { pad($0.0, to: 10) + $0.1 }.joined(separator: "\n") + "\n"
    return status.disks.isEmpty ? text : text + "\n" + table(status.disks)
  }

  private static func state(_ status: JournalStatus) -> String {
    if status.isServed { return status.isStalled ? "served, stalled: the disk is full" : "served" }
    return status.wasClosed ? "closed" : "not closed cleanly: the next serve or replay recovers it"
  }

  /// From when on the past can be read.
  private static func history(_ status: JournalStatus) -> [(String, String)] {
    guard let sequence = status.horizonSequence, let time = status.horizonNanoseconds else { return [] }
    var text = "exact from sequence \(sequence)"
    if time > 0 { text += " of \(LogText.moment(time))" }
    text += " on"
    if let bytes = status.historyBytes, bytes > 0 { text += ", \(ByteCount.text(bytes)) kept for it" }
    return [("history", text)]
  }

  /// What only a daemon knows.
  private static func served(_ status: JournalStatus) -> [(String, String)] {
    let spool = "\(ByteCount.text(status.spoolUsedBytes)) of \(ByteCount.text(status.spoolBytes)) used"
    let sequence =
      "\(status.lastSequence), spilled \(status.spilledThrough), durable \(status.durableThrough)"
    let longest = DurationText.span(nanoseconds: status.longestWaitNanoseconds)
    let reads = "\(status.parkedReads) parked, \(status.waitedReads) have waited, longest \(longest)"
    let rows = [("spool", spool), ("sequence", sequence), ("written", written(status)), ("reads", reads)]
    return rows + space(status) + upkeep(status) + source(status)
  }

  /// What is left.
  private static func space(_ status: JournalStatus) -> [(String, String)] {
    guard let available = status.availableBytes else { return [] }
    var text = "\(ByteCount.text(available)) left for writers"
    if let free = status.freeBytes { text += ", disk \(ByteCount.text(free)) free" }
    if let reserve = status.reserveBytes { text += ", reserve \(ByteCount.text(reserve))" }
    if let quota = status.quotaBytes { text += ", quota \(ByteCount.text(quota))" }
    if let seconds = status.secondsToFull {
      text += ", full in \(DurationText.span(nanoseconds: min(seconds, 10_000_000_000) * 1_000_000_000))"
    }
    return [("space", text)]
  }

  /// What was given back, once something was.
  private static func upkeep(_ status: JournalStatus) -> [(String, String)] {
    guard let done = status.upkeep, done.unlinkedBytes + done.punchedBytes + done.writtenBytes > 0 else {
      return []
    }
    let freed =
      "freed \(ByteCount.text(done.unlinkedBytes + done.punchedBytes)) (\(done.unlinkedSegments) segments removed, \(ByteCount.text(done.punchedBytes)) punched)"
    return [("upkeep", "\(freed), moved \(ByteCount.text(done.writtenBytes))")]
  }

  /// Where reads got their bytes, once a source was asked.
  private static func source(_ status: JournalStatus) -> [(String, String)] {
    guard status.readsFromSource + status.sourceErrors + status.sourceBytes > 0 else { return [] }
    var text = "\(status.readsFromSource) reads, \(ByteCount.text(status.sourceBytes)) read"
    text += "; \(status.readsFromJournal) reads needed none"
    if status.sourceErrors > 0 { text += "; \(status.sourceErrors) failed" }
    return [("source", text)]
  }

  /// The first few places; `--json` lists all.
  private static func damage(_ places: [JournalDamage]) -> [(String, String)] {
    guard !places.isEmpty else { return [] }
    let shown = places.prefix(4).map { ("damage", $0.message) }
    let rest = places.count - shown.count
    return rest > 0 ? shown + [("", "\(rest) more places; --json lists all")] : shown
  }

  private static func written(_ status: JournalStatus) -> String {
    var text = "\(ByteCount.text(status.writtenBytes)), zeroed \(ByteCount.text(status.zeroedBytes))"
    if status.releasedBytes > 0 { text += ", released \(ByteCount.text(status.releasedBytes))" }
    text += ", stored \(ByteCount.text(status.storedBytes))"
    if status.writtenBytes > 0 {
      let percent = Double(status.storedBytes) / Double(status.writtenBytes) * 100
      text += " (\(Int(percent.rounded())) % of written)"
    }
    return text
  }

  private static func table(_ disks: [DiskStatus]) -> String {
    var rows = [["disk", "size", "mode", "generation", "kind", "state"]]
    for disk in disks {
      for generation in disk.generations {
        var state = generation.state
        if let reason = generation.endReason { state += " (\(reason))" }
        if let source = generation.source { state += ", source \(source)" }
        if generation.tainted { state += ", tainted" }
        var kind = generation.kind
        if let base = generation.base { kind += " on \(base)" }
        rows.append([
          disk.name, ByteCount.text(disk.byteCount), disk.mode, generation.name ?? "(open)", kind, state,
        ])
      }
    }
    let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      let cells = zip(row, widths).map { pad($0, to: $1 + 2) }.joined()
      return cells.reversed().drop(while: { $0 == " " }).reversed().map(String.init).joined() + "\n"
    }.joined()
  }

  private static func pad(_ text: String, to width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }
}
