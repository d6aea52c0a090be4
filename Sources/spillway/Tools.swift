internal import ArgumentParser
internal import SpillwayService

/// `spillway replay`.
struct ReplayDisk: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Write a disk of a journal to a sparse raw file.",
    discussion: """
      The journal may be closed, crashed (it is recovered first) or being written (a daemon is asked for a \
      checkpoint; the file then holds everything acknowledged before). NAME@=SEQUENCE is the disk as it was at the end \
      of a batch, as spillway log shows them, from the horizon on (serve --history). An OUTPUT that is there and not empty is a \
      usage error (exit status 2) without --force.
      """)

  @OptionGroup var journal: JournalOption

  @Argument(
    help: ArgumentHelp(
      "The disk, one of its generations as NAME@GENERATION, or its past as NAME@=SEQUENCE.", valueName: "NAME"
    )
  )
  var name: String

  @Argument(help: ArgumentHelp("The file to write.", valueName: "OUTPUT"))
  var output: String

  @Option(
    help: ArgumentHelp(
      "The disk as it was then: 2026-11-26T01:02:03Z, or @ and seconds since 1970.", valueName: "TIME"))
  var at: String?

  @Flag(help: "Overwrite OUTPUT though it is not empty.")
  var force = false

  @Flag(help: "Write a generation that is tainted, too.")
  var tainted = false

  func run() throws {
    try journal.tools().replay(name, at: at, to: output, force: force, tainted: tainted)
  }
}

/// `spillway status`.
struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Say what a journal holds and what its daemon is doing.")

  @OptionGroup var journal: JournalOption

  @Flag(help: "Print JSON for programs.")
  var json = false

  func run() throws {
    print(try journal.tools().status(asJSON: json), terminator: "")
  }
}

/// `spillway ctl`.
struct Control: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ctl",
    abstract: "Tell the daemon that serves a journal what to do.",
    usage:
      "spillway ctl -j DIR complete NAME | begin NAME GENERATION | seal NAME GENERATION | release NAME OFFSET LENGTH | drop NAME@GENERATION | flush | shutdown",
    discussion: """
      complete NAME           no more data comes for the disk; waiting reads are settled
      begin NAME GENERATION   open a new generation of a snapshot disk; the one before must be sealed
      seal NAME GENERATION    close the open generation, whole and for good; it is named so if it has no name
      release NAME[@GENERATION] OFFSET LENGTH
                              give up a range, in bytes: it cannot be read any more, and its space is freed
      drop NAME@GENERATION    forget a generation; what others show of it they keep
      flush                   return when everything acknowledged so far survives power loss
      shutdown                stop the daemon, return when the journal is closed
      """)

  @OptionGroup var journal: JournalOption

  @Argument(
    help: ArgumentHelp("complete, begin, seal, release, drop, flush or shutdown.", valueName: "ACTION"))
  var action: String

  @Argument(help: "What the action takes.")
  var words: [String] = []

  /// What each action takes, in the words of a message.
  private static let needs: [String: (count: Int, words: String)] = [
    "complete": (1, "the name of a disk"), "begin": (2, "the name of a disk and of a generation"),
    "seal": (2, "the name of a disk and of a generation"),
    "release": (3, "the name of a disk, an offset and a length"), "drop": (1, "NAME@GENERATION"),
    "flush": (0, ""), "shutdown": (0, ""),
  ]

  func run() throws {
    guard let needs = Self.needs[action] else {
      throw ServiceError.usage(
        "ctl \(action): the actions are complete NAME, begin NAME GENERATION, seal NAME GENERATION, release NAME OFFSET LENGTH, drop NAME@GENERATION, flush and shutdown"
      )
    }
    guard words.count >= needs.count else { throw ServiceError.usage("ctl \(action) needs \(needs.words)") }
    if action == "drop", !words[0].contains("@") {
      throw ServiceError.usage("ctl drop \(words[0]): say which generation, as NAME@GENERATION")
    }
    guard words.count == needs.count else {
      throw ServiceError.usage("ctl \(action) takes no further argument, and \(words[needs.count]) is one")
    }
    try journal.tools().control(action, Self.arguments(action, words))
  }

  private static func arguments(_ action: String, _ words: [String]) -> [String: String] {
    switch action {
    case "complete": return ["disk": words[0]]
    case "begin", "seal": return ["disk": words[0], "generation": words[1]]
    case "drop": return target(words[0])
    case "release":
      var arguments = target(words[0])
      arguments["offset"] = words[1]
      arguments["length"] = words[2]
      return arguments
    default: return [:]
    }
  }

  /// `NAME` or `NAME@GENERATION` as arguments.
  private static func target(_ word: String) -> [String: String] {
    guard let at = word.lastIndex(of: "@") else { return ["disk": word] }
    return ["disk": String(word[..<at]), "generation": String(word[word.index(after: at)...])]
  }
}
