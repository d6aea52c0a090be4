/// A conversation with qemu's monitor, however it is reached. For one thread at a time.
///
/// The verbs in `Monitor+….swift` stand on these few; who implements them gets all.
package protocol Monitor: AnyObject {
  /// How long a command, or its answer, may take; nil is for ever.
  var timeout: Duration? { get set }

  /// Sends a command and decodes what came back.
  func execute<Reply: Decodable>(
    _ command: String, arguments: JSONValue?, as type: Reply.Type
  ) throws(QMPError) -> Reply

  /// The first event, kept or to come, that `isWanted` accepts, which is then kept no longer. Nil when none came within
  /// `timeout`.
  func nextEvent(
    within timeout: Duration, where isWanted: (QMPEvent) -> Bool
  ) throws(QMPError) -> QMPEvent?

  /// Begins the conversation anew with the same qemu, or with one that has taken its place. Kept events are dropped.
  func reconnect() throws(QMPError)
}

extension Monitor {
  /// Sends a command and returns what came back, once it came.
  @discardableResult
  package func execute(_ command: String, arguments: JSONValue? = nil) throws(QMPError) -> JSONValue {
    try execute(command, arguments: arguments, as: JSONValue.self)
  }

  /// Sends a command without arguments and decodes what came back.
  package func execute<Reply: Decodable>(_ command: String, as type: Reply.Type) throws(QMPError) -> Reply {
    try execute(command, arguments: nil, as: type)
  }

  /// Waits until `isReached` says so, asking again at each event that `isNews` and at least every `interval`: an event
  /// that was lost, or came before anybody listened, delays the answer and never hides it. Such events are used up, all
  /// others kept.
  func wait(
    for awaited: String, atEach isNews: (QMPEvent) -> Bool, every interval: Duration = .milliseconds(200),
    within limit: Duration,
    until isReached: () throws(QMPError) -> Bool
  ) throws(QMPError) {
    let deadline = ContinuousClock.now + limit
    while try !isReached() {
      guard ContinuousClock.now < deadline else { throw .timedOut(awaited: awaited) }
      // What is asked next is newer than any event that is already here, so old ones may go.
      _ = try nextEvent(within: interval, where: isNews)
    }
  }
}
