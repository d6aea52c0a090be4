internal import ArgumentParser
internal import SpillwayService

/// `spillway replay`.
struct ReplayDisk: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Write a disk of a journal to a file, an NBD export or stdout.",
    discussion: """
      OUTPUT is a file (sparse raw), a file whose name ends in .qcow2, a block device, an NBD URI, or - for a raw \
      stream on stdout. A file gets its name when it is whole.

      The journal may be closed, crashed (it is recovered first) or being written (a daemon is asked for a \
      checkpoint; OUTPUT then holds everything acknowledged before). NAME@=SEQUENCE is the disk as it was at the end \
      of a batch, as spillway log shows them, from the horizon on (serve --history). A file that is there and not empty is a \
      usage error (exit status 2) without --force or --since.
      """)

  @OptionGroup var journal: JournalOption

  @Argument(
    help: ArgumentHelp(
      "The disk, one of its generations as NAME@GENERATION, or its past as NAME@=SEQUENCE.", valueName: "NAME"
    )
  )
  var name: String

  @Argument(help: ArgumentHelp("Where it is written.", valueName: "OUTPUT"))
  var output: String

  @Option(
    help: ArgumentHelp(
      "The disk as it was then: 2026-11-26T01:02:03Z, or @ and seconds since 1970.", valueName: "TIME"))
  var at: String?

  @Option(
    help: ArgumentHelp(
      "OUTPUT holds this older generation, on which the one to write stands: write only what changed since.",
      valueName: "GENERATION"))
  var since: String?

  @Flag(help: "Read OUTPUT back and compare it.")
  var verify = false

  @Flag(help: "Overwrite OUTPUT though it is a file that is not empty.")
  var force = false

  @Flag(help: "Write a generation that is tainted, too.")
  var tainted = false

  func run() throws {
    var options = ReplayOptions()
    options.since = since
    options.verifies = verify
    options.force = force
    options.tainted = tainted
    let place = try ReplayOutput(parsing: output, currentDirectory: AbsolutePath.currentDirectory())
    try journal.tools().replay(name, at: at, to: place, options)
  }
}
