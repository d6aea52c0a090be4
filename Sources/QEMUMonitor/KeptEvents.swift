/// Events that nobody has waited for yet, oldest first, up to a number; then the oldest are dropped.
struct KeptEvents {
  static let countMax = 4096

  private var events: [QMPEvent] = []
  private var hasDropped = false

  /// Keeps `event` for whoever asks for it.
  mutating func keep(_ event: QMPEvent) {
    if events.count == Self.countMax {
      events.removeFirst()
      hasDropped = true
    }
    events.append(event)
  }

  /// All of them, kept no longer; nil when some were dropped since they were last taken.
  mutating func takeAll() -> [QMPEvent]? {
    defer { removeAll() }
    return hasDropped ? nil : events
  }

  /// The oldest that `isWanted` accepts, kept no longer.
  mutating func take(where isWanted: (QMPEvent) -> Bool) -> QMPEvent? {
    guard let index = events.firstIndex(where: isWanted) else { return nil }
    return events.remove(at: index)
  }

  /// Forgets all.
  mutating func removeAll() {
    events.removeAll()
    hasDropped = false
  }
}
