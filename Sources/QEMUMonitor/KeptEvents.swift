/// Events that nobody has waited for yet, oldest first, up to a number; then the oldest are dropped.
struct KeptEvents {
  static let countMax = 4096

  private var events: [QMPEvent] = []

  /// Keeps `event` for whoever asks for it.
  mutating func keep(_ event: QMPEvent) {
    if events.count == Self.countMax { events.removeFirst() }
    events.append(event)
  }

  /// The oldest that `isWanted` accepts, kept no longer.
  mutating func take(where isWanted: (QMPEvent) -> Bool) -> QMPEvent? {
    guard let index = events.firstIndex(where: isWanted) else { return nil }
    return events.remove(at: index)
  }

  /// Forgets all.
  mutating func removeAll() { events.removeAll() }
}
