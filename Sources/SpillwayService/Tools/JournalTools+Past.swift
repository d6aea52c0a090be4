internal import ExtentJournal

// The tools at a point in time: `NAME@=SEQUENCE`, or `NAME` at a time. The reader of the present is there first, and nothing
// is freed as long as it is; what it reads of the horizon stays true.

extension JournalTools {
  /// A reader for what `name` means, and the name that it knows it by. `time` is what `--at` says.
  func locate(
    _ name: String, at time: String?, command: String
  ) throws(ServiceError) -> (reader: JournalReader, name: String) {
    let past = try PastName(parsing: name, context: "\(command) \(name)")
    try Self.checkName(past?.disk ?? name, command: command)
    guard let time else {
      guard let past else { return (try settledReader(), name) }
      return (try readPast(settledReader(), past.sequence), past.disk)
    }
    guard !name.contains("@") else {
      throw .usage("\(command) \(name): --at goes with the name of a disk alone")
    }
    guard let nanoseconds = TimeOfDay.nanoseconds(time) else {
      throw .usage("--at \(time): a time is needed, such as 2026-11-26T01:02:03Z or @1795654923")
    }
    let reader = try settledReader()
    let end = try reportingJournalErrors { () throws(JournalError) in
      try reader.batchEnds().last(at: nanoseconds)
    }
    return (try readPast(reader, end.sequence), name)
  }

  private func readPast(_ reader: JournalReader, _ sequence: UInt64) throws(ServiceError) -> JournalReader {
    try reportingJournalErrors { () throws(JournalError) in
      try reader.at(sequence: sequence, log: log.forJournal)
    }
  }
}
