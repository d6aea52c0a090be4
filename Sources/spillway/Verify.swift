internal import ArgumentParser
internal import SpillwayService

/// `spillway verify`.
struct Verify: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read everything that a journal holds and compare it with its checksums and seals.",
    discussion: """
      Exit status: 0 clean, 1 damage was found (each place is a line), 2 the journal could not be verified.
      """)

  @OptionGroup var journal: JournalOption

  @Flag(help: "Print JSON for programs.")
  var json = false

  @Flag(help: "First build the index again from the segments; nobody may serve the journal.")
  var rebuildIndex = false

  func run() throws {
    let isClean: Bool
    do throws(ServiceError) {
      let (text, verdict) = try journal.tools().verify(rebuildingIndex: rebuildIndex, asJSON: json)
      print(text, terminator: "")
      isClean = verdict
    } catch {
      // Any failure to look is status 2 here: 1 says that damage was found.
      throw ServiceError(.usage, error.message)
    }
    if !isClean { throw ExitCode(ExitStatus.failed.rawValue) }
  }
}
