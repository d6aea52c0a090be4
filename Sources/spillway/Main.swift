internal import ArgumentParser
internal import Glibc
internal import SpillwayService

/// The command line: turns words into calls of `SpillwayService`, and what comes of them into an exit status
/// and at most one line on stderr.
@main
enum Main {
  static func main() {
    exit(run(Array(CommandLine.arguments.dropFirst())))
  }

  /// Runs the command that `arguments` name and returns the exit status.
  static func run(_ arguments: [String]) -> Int32 {
    do {
      var command = try Spillway.parseAsRoot(arguments)
      try command.run()
      return ExitStatus.done.rawValue
    } catch let error as ServiceError {
      StandardError.printLine(error.message)
      return error.status.rawValue
    } catch let status as ExitCode {
      return status.rawValue
    } catch {
      return report(error)
    }
  }

  /// What ArgumentParser throws is help that was asked for, or a wrong command line.
  private static func report(_ error: any Error) -> Int32 {
    if Spillway.exitCode(for: error).isSuccess {
      print(Spillway.fullMessage(for: error))
      return ExitStatus.done.rawValue
    }
    let message = StandardError.oneLine(Spillway.message(for: error))
    let sentence = message.hasSuffix(".") ? String(message.dropLast()) : message
    StandardError.printLine("\(sentence); see spillway --help and spillway COMMAND --help")
    return ExitStatus.usage.rawValue
  }
}

/// The commands.
struct Spillway: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "spillway",
    abstract: "A disk-spilling write journal for NBD.",
    discussion: """
      Takes a stream of disk blocks over NBD while others read the same disk, and keeps it compressed.
      Exit status: 0 done, 1 the work failed, 2 usage, 3 journal damaged or its spool lost, 4 journal in use.
      """,
    version: Version.text,
    subcommands: [
      Serve.self, Inspect.self, BackUp.self, Engine.self, ReplayDisk.self, Status.self, MapDisk.self,
      LogRecords.self, Compact.self, Verify.self,
      Control.self,
    ])

  func run() throws {
    throw ServiceError.usage(
      "a command is needed: serve, inspect, backup, replay, status, map, log, compact, verify or ctl; see spillway --help"
    )
  }
}

/// The option that every command has.
struct JournalOption: ParsableArguments {
  @Option(
    name: .customShort("j"),
    help: ArgumentHelp("The journal directory.", valueName: "DIR"))
  var journal: String

  /// Tools for the journal.
  func tools() throws(ServiceError) -> JournalTools {
    JournalTools(
      try JournalLocation(parsing: journal, currentDirectory: AbsolutePath.currentDirectory()))
  }
}
