import ExtentJournal

/// One thing that a client does, or that the journal is told to do.
enum Step: Equatable {
  case write(start: Int, count: Int)
  case zero(start: Int, count: Int)
  case trim(start: Int, count: Int)
  /// Reserves and fills, and commits or gives up later.
  case hold(start: Int, count: Int)
  case commitHeld
  case abandonHeld
  case spill
  case flush
  case checkpoint
  /// Everything that is dead is given back.
  case upkeep
  /// A checkpoint of one of the disks.
  case seal(volume: Int)
  /// Its oldest checkpoint goes.
  case drop(volume: Int)

  /// Whether it reads what is stored, and fails when it cannot.
  var readsSegments: Bool {
    switch self {
    case .upkeep, .seal, .drop: true
    default: false
    }
  }

  var isSeal: Bool {
    if case .seal = self { true } else { false }
  }

  /// Whether success means that everything before is durable.
  var isDurability: Bool {
    switch self {
    case .flush, .checkpoint, .upkeep, .seal, .drop: true
    case .write, .zero, .trim, .hold, .commitHeld, .abandonHeld, .spill: false
    }
  }
}

/// A promise that was broken, as a value: a test of planted bugs wants to see it, the others want to fail.
struct Violation: Error, CustomStringConvertible {
  var description: String
  /// Whether the journal noticed by itself that bytes are not what they were, and said so.
  var isReportedDamage = false
  /// Whether the content is a prefix, though one that is too short.
  var isShortPrefix = false
  init(_ description: String, _ cause: (any Error)? = nil) {
    self.description = description
    if let cause = cause as? JournalError { isReportedDamage = cause.message.contains("segments/") }
  }
}
