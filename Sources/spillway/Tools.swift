internal import ArgumentParser
internal import Glibc
internal import SpillwayService

/// `spillway status`.
struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Say what a journal holds and what its daemon is doing.")

  @OptionGroup var journal: JournalOption

  @Flag(help: "Print JSON for programs.")
  var json = false

  @Flag(help: "Say it every second until interrupted; with --json an object a line.")
  var watch = false

  func run() throws {
    let tools = try journal.tools()
    guard watch else { return print(try tools.status(asJSON: json), terminator: "") }
    // Whoever has SIGPIPE ignored learns from a failed write that nobody reads.
    var isRead = true
    try tools.watchStatus(
      asJSON: json, on: { Terminal.ofStandardOutput },
      pause: {
        if isRead { sleep(1) }
        return isRead
      },
      print: {
        print($0, terminator: "")
        isRead = fflush(nil) == 0
      })
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
      seal NAME GENERATION    close the open generation, whole and for good; it is named so if it has no name.
                              On a device disk a checkpoint of what was written; writing goes on
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
