internal import ArgumentParser
internal import SpillwayService

/// `spillway replay`.
struct ReplayDisk: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Write a disk of a journal to a sparse raw file.",
    discussion: """
      The journal may be closed, crashed (it is recovered first) or being written (a daemon is asked for a \
      checkpoint; the file then holds everything acknowledged before). An OUTPUT that is there and not empty is a \
      usage error (exit status 2) without --force.
      """)

  @OptionGroup var journal: JournalOption

  @Argument(help: ArgumentHelp("The disk, or one of its generations as NAME@GENERATION.", valueName: "NAME"))
  var name: String

  @Argument(help: ArgumentHelp("The file to write.", valueName: "OUTPUT"))
  var output: String

  @Flag(help: "Overwrite OUTPUT though it is not empty.")
  var force = false

  @Flag(help: "Write a generation that is tainted, too.")
  var tainted = false

  func run() throws {
    try journal.tools().replay(name, to: output, force: force, tainted: tainted)
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
      "spillway ctl -j DIR complete NAME | begin NAME GENERATION | seal NAME GENERATION | flush | shutdown",
    discussion: """
      complete NAME           no more data comes for the disk; waiting reads are settled
      begin NAME GENERATION   open a new generation of a snapshot disk; the one before must be sealed
      seal NAME GENERATION    close the open generation, whole and for good; it is named so if it has no name
      flush                   return when everything acknowledged so far survives power loss
      shutdown                stop the daemon, return when the journal is closed
      """)

  @OptionGroup var journal: JournalOption

  @Argument(help: ArgumentHelp("complete, begin, seal, flush or shutdown.", valueName: "ACTION"))
  var action: String

  @Argument(help: ArgumentHelp("The disk, for complete, begin and seal.", valueName: "NAME"))
  var name: String?

  @Argument(help: ArgumentHelp("The generation, for begin and seal.", valueName: "GENERATION"))
  var generation: String?

  func run() throws {
    switch (action, name, generation) {
    case ("complete", let name?, nil):
      try journal.tools().control("complete", ["disk": name])
    case ("complete", nil, _):
      throw ServiceError.usage("ctl complete needs the name of a disk")
    case ("begin", let name?, let generation?), ("seal", let name?, let generation?):
      try journal.tools().control(action, ["disk": name, "generation": generation])
    case ("begin", _, _), ("seal", _, _):
      throw ServiceError.usage("ctl \(action) needs the name of a disk and of a generation")
    case ("flush", nil, _), ("shutdown", nil, _):
      try journal.tools().control(action)
    case ("complete", _, let extra?), ("flush", let extra?, _), ("shutdown", let extra?, _):
      throw ServiceError.usage("ctl \(action) takes no further argument, and \(extra) is one")
    default:
      throw ServiceError.usage(
        "ctl \(action): the actions are complete NAME, begin NAME GENERATION, seal NAME GENERATION, flush and shutdown"
      )
    }
  }
}
