internal import ArgumentParser
internal import Glibc
internal import SpillwayService

/// `spillway map`.
struct MapDisk: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "map",
    abstract: "Say what each run of a disk is: data, zero, base, source, awaited, absent or released.",
    discussion: """
      A line for each run: offset and length in bytes, and what it is. On a terminal a picture instead.
      """)

  @OptionGroup var journal: JournalOption

  @Argument(
    help: ArgumentHelp(
      "The disk, one of its generations, or its past.", valueName: "NAME[@GENERATION|@=SEQUENCE]"))
  var name: String

  @Flag(help: "Print an object a line for programs.")
  var json = false

  func run() throws {
    let isPicture = !json && isatty(STDOUT_FILENO) == 1
    try journal.tools().map(name, asJSON: json, asPicture: isPicture) { print($0, terminator: "") }
  }
}

/// `spillway log`.
struct LogRecords: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "log", abstract: "List every record of a journal, in order.")

  @OptionGroup var journal: JournalOption

  @Argument(help: ArgumentHelp("Only the records of this disk.", valueName: "NAME"))
  var name: String?

  @Flag(help: "Print an object a line for programs.")
  var json = false

  func run() throws {
    try journal.tools().log(disk: name, asJSON: json) { print($0, terminator: "") }
  }
}

/// `spillway compact`.
struct Compact: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compact", abstract: "Give back the space of a journal that nobody needs.")

  @OptionGroup var journal: JournalOption

  @Flag(help: "Also compress harder what was compressed in a hurry, without waiting until it is cold.")
  var recompress = false

  func run() throws { print(try journal.tools().compact(recompressing: recompress), terminator: "") }
}
