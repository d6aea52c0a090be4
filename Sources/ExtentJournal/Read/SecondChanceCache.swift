internal import DequeModule

/// Values within a budget of bytes. For one thread at a time.
///
/// What came first goes first, unless it was wanted again meanwhile: then it has another turn. So one pass over a whole
/// disk does not push out what others keep reading.
struct SecondChanceCache<Key: Hashable, Value> {
  /// More than this many bytes are kept only until the next `add` or `shrink`.
  var byteCountMax: Int
  private(set) var byteCount = 0
  private var entries: [Key: Entry] = [:]
  private var order = Deque<Key>()

  private struct Entry {
    var value: Value
    var byteCount: Int
    var wasWanted = false
  }

  init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

  /// The value for `key`, if it is here.
  mutating func find(_ key: Key) -> Value? {
    guard let index = entries.index(forKey: key) else { return nil }
    entries.values[index].wasWanted = true
    return entries.values[index].value
  }

  /// Adds a value, in place of the one that `key` had; returns those that went for it.
  mutating func add(_ value: Value, for key: Key, byteCount added: Int) -> [Value] {
    if let old = entries.updateValue(Entry(value: value, byteCount: added), forKey: key) {
      byteCount -= old.byteCount
    } else {
      order.append(key)
    }
    byteCount += added
    return shrink()
  }

  /// Lets values go until the rest fits; returns them.
  mutating func shrink() -> [Value] {
    var gone: [Value] = []
    while byteCount > byteCountMax, let oldest = order.popFirst() {
      // Its value may have been removed before its turn came.
      guard var entry = entries.removeValue(forKey: oldest) else { continue }
      if entry.wasWanted {
        entry.wasWanted = false
        entries[oldest] = entry
        order.append(oldest)
        continue
      }
      byteCount -= entry.byteCount
      gone.append(entry.value)
    }
    return gone
  }

  /// Removes the values whose keys meet `condition`.
  mutating func remove(where condition: (Key) -> Bool) {
    for key in order where condition(key) {
      if let entry = entries.removeValue(forKey: key) { byteCount -= entry.byteCount }
    }
    order.removeAll(where: condition)
  }
}
