import ExtentJournal
import Logging
import QEMUMonitor
import SpillwayService
import Testing

/// Goal: what people and scripts see: exit statuses, the one line of a failure, progress, the status table.
/// Method: pure values in, text out.
@Suite struct TextTests {
  @Test(
    "each kind of journal error has its exit status",
    arguments: [
      (JournalError.Kind.failed, 1), (.usage, 2), (.damaged, 3), (.inUse, 4), (.noSpace, 1),
    ] as [(JournalError.Kind, Int32)])
  func exitStatus(kind: JournalError.Kind, status: Int32) {
    let error = ServiceError(JournalError(kind, "what happened"))
    #expect(error.status.rawValue == status)
    #expect(error.message == "what happened")
  }

  @Test(
    "an exit status survives the way through the admin socket", arguments: SpillwayService.ExitStatus.allCases
  )
  func exitStatusWord(status: SpillwayService.ExitStatus) {
    #expect(SpillwayService.ExitStatus(word: status.word) == status)
  }

  @Test("a word that nobody knows is a plain failure")
  func unknownWord() {
    #expect(SpillwayService.ExitStatus(word: "tired") == .failed)
  }

  @Test("a message of several lines becomes one")
  func oneLine() {
    #expect(StandardError.oneLine("a\n  b\r\n\nc") == "a b c")
  }

  @Test(
    "plain information has no level in its line, the rest has",
    arguments: [
      (.info, "m"), (.warning, "warning: m"), (.error, "error: m"), (.debug, "debug: m"),
    ] as [(Logger.Level, String)])
  func logLine(level: Logger.Level, text: String) {
    #expect(StandardErrorLog.text(level, "m") == text)
  }

  @Test(
    "progress says how much, how fast and how long",
    arguments: [
      (0, 1024, 0, "sda: 0 B of 1 KiB (0 %)"),
      (512, 1024, 100_000_000, "sda: 512 B of 1 KiB (50 %)"),
      (256 << 20, 1 << 30, 2_000_000_000, "sda: 256 MiB of 1 GiB (25 %), 128 MiB/s, 0:06 left"),
      (1 << 30, 1 << 30, 4_000_000_000, "sda: 1 GiB of 1 GiB (100 %), 256 MiB/s"),
      (0, 0, 4_000_000_000, "sda: 0 B of 0 B (100 %)"),
      (1, 1 << 40, 1_000_000_000, "sda: 1 B of 1 TiB (0 %), 1 B/s, 100000:00:00 left"),
    ] as [(UInt64, UInt64, UInt64, String)])
  func progress(done: UInt64, total: UInt64, elapsed: UInt64, text: String) {
    #expect(ProgressLine.text("sda", done: done, total: total, elapsedNanoseconds: elapsed) == text)
  }

  @Test(
    "a clock shows hours only when there are any",
    arguments: [(0.0, "0:00"), (6.2, "0:07"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (-1, "0:00")])
  func clock(seconds: Double, text: String) {
    #expect(DurationText.clock(seconds: seconds) == text)
  }

  @Test(
    "a span of time has its natural unit",
    arguments: [
      (0, "0 s"), (850_000, "850 µs"), (12_500_000, "12.5 ms"), (3_200_000_000, "3.2 s"), (500, "0.5 µs"),
    ] as [(UInt64, String)])
  func span(nanoseconds: UInt64, text: String) {
    #expect(DurationText.span(nanoseconds: nanoseconds) == text)
  }

  @Test("the table of a served journal shows what its daemon does")
  func servedStatus() throws {
    let status = try Self.status(isServed: true)
    #expect(
      StatusText.render(status, directory: "/j") == """
        journal   /j, served
        uuid      00c0ffee
        segments  3, 100 MiB, index 1 MiB
        spool     2 MiB of 256 MiB used
        sequence  90, spilled 80, durable 70
        written   400 MiB, zeroed 1 GiB, stored 100 MiB (25 % of written)
        reads     2 parked, 17 have waited, longest 1.5 s

        disk       size    mode      generation  kind                   state
        sda        10 GiB  snapshot  monday      full                   sealed
        sda        10 GiB  snapshot  (open)      incremental on monday  ended (cancelled), tainted
        long-name  1 GiB   device    (open)      checkpoint             arriving

        """)
  }

  @Test("lines tell what is left, for how long, and what was given back")
  func space() throws {
    var status = try Self.status(isServed: true)
    func line(_ name: String) -> String? {
      StatusText.render(status, directory: "/j").split(separator: "\n").first { $0.hasPrefix(name) }
        .map(String.init)
    }
    #expect(line("space") == nil && line("upkeep") == nil)
    status.liveBytes = 80 << 20
    status.availableBytes = 2 << 30
    #expect(line("segments") == "segments  3, 100 MiB (80 MiB live), index 1 MiB")
    #expect(line("space") == "space     2 GiB left for writers")
    status.freeBytes = 3 << 30
    status.reserveBytes = 128 << 20
    status.quotaBytes = 4 << 30
    status.secondsToFull = 90
    status.upkeep = UpkeepReport()
    #expect(line("upkeep") == nil, "it has done nothing yet")
    status.upkeep?.unlinkedSegments = 12
    status.upkeep?.unlinkedBytes = 700 << 20
    status.upkeep?.punchedBytes = 68 << 20
    status.upkeep?.writtenBytes = 5 << 20
    #expect(
      line("space")
        == "space     2 GiB left for writers, disk 3 GiB free, reserve 128 MiB, quota 4 GiB, full in 90 s")
    #expect(
      line("upkeep") == "upkeep    freed 768 MiB (12 segments removed, 68 MiB punched), moved 5 MiB")
  }

  @Test("a screen has what fits on it, and nothing of the one before")
  func screen() {
    let terminal = Terminal(rows: 3, columns: 5)
    let (start, clear, rest) = ("\u{1B}[H", "\u{1B}[K", "\u{1B}[J")
    #expect(terminal.screen("one") == start + "one" + clear + rest)
    #expect(
      terminal.screen("123456\n\nthree\nfour\n")
        == "\(start)12345\(clear)\r\n\(clear)\r\nthree\(clear)\(rest)")
  }

  @Test("a line tells of sources once one was asked")
  func sources() throws {
    func line(_ reads: Int) throws -> Substring? {
      StatusText.render(try Self.status(isServed: true, sourceReads: reads), directory: "/j")
        .split(separator: "\n").first { $0.hasPrefix("source") }
    }
    #expect(try line(0) == nil)
    #expect(try line(16) == "source    16 reads, 1 MiB read; 9 reads needed none")
    #expect(try line(32) == "source    32 reads, 2 MiB read; 9 reads needed none; 1 failed")
  }

  @Test("the table of a journal at rest says whether it was closed, and nothing that only a daemon knows")
  func offlineStatus() throws {
    var status = try Self.status(isServed: false)
    status.disks = []
    status.failure = "no space"
    #expect(
      StatusText.render(status, directory: "/j") == """
        journal   /j, not closed cleanly: the next serve or replay recovers it
        uuid      00c0ffee
        segments  3, 100 MiB, index 1 MiB
        failure   no space

        """)
    status.wasClosed = true
    #expect(StatusText.render(status, directory: "/j").hasPrefix("journal   /j, closed\n"))
  }

  /// Decoded, for only the journal makes such values.
  private static func status(isServed: Bool, sourceReads: Int = 0) throws -> JournalStatus {
    let text = """
      {"uuid": "00c0ffee", "isServed": \(isServed), "wasClosed": false, "lastSequence": 90, "spilledThrough": 80,
       "durableThrough": 70, "spoolUsedBytes": 2097152, "spoolBytes": 268435456, "segmentCount": 3,
       "segmentBytes": 104857600, "indexBytes": 1048576, "writtenBytes": 419430400, "framedBytes": 408944640,
       "storedBytes": 104857600, "zeroedBytes": 1073741824, "releasedBytes": 0, "parkedReads": 2, "waitedReads": 17,
       "longestWaitNanoseconds": 1500000000, "acknowledgements": {"count": 0,
       "medianNanoseconds": 0, "p99Nanoseconds": 0, "maxNanoseconds": 0}, "readsFromSource": \(sourceReads), "readsFromJournal": 9,
       "sourceBytes": \(sourceReads << 16), "sourceErrors": \(sourceReads / 30), "isStalled": false, "disks": [
        {"name": "sda", "byteCount": 10737418240, "mode": "snapshot", "generations": [
          {"name": "monday", "number": 1, "kind": "full", "state": "sealed", "isComplete": true, "tainted": false},
          {"number": 2, "kind": "incremental", "base": "monday", "state": "ended", "endReason": "cancelled",
           "isComplete": false, "tainted": true}]},
        {"name": "long-name", "byteCount": 1073741824, "mode": "device", "generations": [
          {"number": 1, "kind": "checkpoint", "state": "arriving", "isComplete": false, "tainted": false}]}]}
      """
    return try #require(JSONValue(parsing: Array(text.utf8))).decoded(as: JournalStatus.self)
  }
}
